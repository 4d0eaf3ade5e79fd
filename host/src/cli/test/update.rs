//! `host test --update`

use std::ops::ControlFlow;
use std::path::Path;

use anstyle::{AnsiColor, Style};

use super::stop::Stop;
use super::{Arguments, Judged, Task, command, not_written, reporters};
use crate::author::reporters::{CaseResult, Entry, Format};
use crate::author::test::Position;
use crate::author::update::{FileUpdate, add_rows, update};
use crate::cli::{Failure, say};
use crate::suite::{CaseReport, Suite};
use crate::text;

/// Checks the formats, and adds the rows that share expectations with the selected cases.
pub(super) fn prepare(
    arguments: &Arguments,
    suites: &[Suite],
    plan: &mut Vec<Position>,
) -> Result<(), Failure> {
    if arguments.formats.iter().any(|target| target.format != Format::Human) {
        return Err(Failure::broken("`--update` reports to people: leave `--format` out"));
    }
    add_rows(plan, suites);
    if arguments.shuffle.is_none() {
        plan.sort_unstable();
    }
    Ok(())
}

/// Judges the cases of a plan, updates the files of those that fail, and writes the reports.
pub(super) fn judge(mut task: Task<'_>) -> Result<Judged, Stop> {
    let Task { arguments, suites, .. } = task;
    let mut reporters = reporters(arguments)?;
    let run = task.load()?;
    let (mut last, mut totals) = (std::mem::take(&mut task.last), std::mem::take(&mut task.totals));
    let (mut of_suites, mut reports): (Vec<&Suite>, Vec<CaseReport>) = Default::default();
    task.judge(&run, |suite, report| {
        of_suites.push(suite);
        reports.push(report);
        ControlFlow::Continue(())
    });
    let bytes = |path: &Path| suites.iter().find_map(|suite| suite.texts.get(path)).map(Vec::as_slice);
    let updates = update(&reports, bytes);
    for update in &updates {
        show(update, arguments.quiet)?;
    }
    let command = command(arguments);
    for (index, (suite, mut report)) in of_suites.into_iter().zip(reports).enumerate() {
        let is_updated = !report.passed() && updates.iter().any(|update| update.updated.contains(&index));
        if is_updated {
            report.failed.clear();
        }
        last.add(suite, &report);
        let mut entry = Entry::of(&report, &command);
        match (is_updated, report.passed()) {
            (true, _) => {
                totals.updated += 1;
                entry.result = CaseResult::Updated;
            }
            (false, true) => totals.passed += 1,
            (false, false) => totals.failed += 1,
        }
        reporters.case(&entry).map_err(not_written)?;
    }
    totals.took = task.started.elapsed();
    reporters.finish(&totals).map_err(not_written)?;
    Ok(Judged::of(&run, totals, last))
}

/// The colour of a line that an update removes.
const REMOVED: Style = AnsiColor::Red.on_default();
/// The colour of a line that an update adds.
const ADDED: Style = AnsiColor::Green.on_default();

/// Returns a difference with the colours of its marks.
fn coloured(diff: &str) -> String {
    let line = |line: &str| {
        // The mark follows the number of the line and a space.
        let after = line.trim_start().trim_start_matches(|digit: char| digit.is_ascii_digit());
        match after.as_bytes() {
            [b' ', b'-', ..] => format!("{REMOVED}{line}{REMOVED:#}\n"),
            [b' ', b'+', ..] => format!("{ADDED}{line}{ADDED:#}\n"),
            _ => format!("{line}\n"),
        }
    };
    diff.lines().map(line).collect()
}

/// Writes the changed lines of a file, and the expectations that stay.
fn show(update: &FileUpdate, is_quiet: bool) -> Result<(), Failure> {
    if update.changes > 0 {
        let count = match update.changes {
            1 => "1 expectation".to_owned(),
            many => format!("{many} expectations"),
        };
        let diff = if is_quiet { String::new() } else { coloured(&update.diff) };
        say(format_args!("{diff}updated {}: {count}", text::path(&update.path)))?;
    }
    for refusal in &update.refusals {
        say(refusal)?;
    }
    say("")
}
