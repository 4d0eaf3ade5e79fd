//! Results for people: a line for each suite, failures in full, and the totals.

use std::io::{self, Write};
use std::time::Duration;

use super::broken::Broken;
use super::coverage;
use super::entry::{CaseResult, Counts, Difference, Entry, Group, Groups, Totals};
use super::style::{BAD, BOLD, DIM, GOOD, LEFT_OUT, Line, PLAIN, difference, marked};
use super::{Detail, ReportError, Reporter};

/// Columns before the lines of a failure.
const INDENT: usize = 5;

/// Writes results for people. Failures follow the suites, so that they stand at the end of the output.
pub(super) struct Human {
    detail: Detail,
    slowest: usize,
    width: Option<usize>,
    /// Whether a file gets the output. Standard error has the problems for people at a terminal.
    is_file: bool,
    /// The suite whose results are arriving, and its groups: a case has its rendered lines.
    suite: Option<String>,
    groups: Groups<String>,
    /// Columns of the widest suite so far.
    widest: usize,
    /// The rendered failures.
    failures: Vec<String>,
    /// The slowest cases, the slowest first.
    slow: Vec<(Duration, String)>,
    /// Whether nothing is written yet.
    is_empty: bool,
}

impl Human {
    pub(super) fn new(detail: Detail, slowest: usize, width: Option<usize>, is_file: bool) -> Human {
        Human {
            detail,
            slowest,
            width,
            is_file,
            suite: None,
            groups: Groups::default(),
            widest: 0,
            failures: Vec::new(),
            slow: Vec::new(),
            is_empty: true,
        }
    }

    fn render(&self, lines: impl IntoIterator<Item = Line>) -> String {
        lines.into_iter().map(|line| line.render(self.width)).collect()
    }

    /// Writes the groups of the suite that is complete.
    fn end_suite(&mut self, output: &mut dyn Write) -> io::Result<()> {
        let groups = std::mem::take(&mut self.groups).all;
        if self.detail == Detail::Failures || groups.is_empty() {
            return Ok(());
        }
        let suites = groups.iter().map(|group| group.suite.chars().count());
        self.widest = suites.fold(self.widest, usize::max);
        let rows = groups.iter().filter_map(|group| group.row.as_ref());
        let row = rows.map(|row| row.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for group in &groups {
            text.push_str(&self.render([self.of_group(group, row)]));
            group.cases.iter().for_each(|case| text.push_str(case));
        }
        self.is_empty = false;
        output.write_all(text.as_bytes())
    }

    fn of_group(&self, group: &Group<String>, row: usize) -> Line {
        let mut line = Line::default().with(BOLD, format!("{:1$}   ", group.suite, self.widest));
        if row > 0 {
            line = line.with(PLAIN, format!("{:row$}  ", group.row.as_deref().unwrap_or_default()));
        }
        let Counts { passed, failed, updated, skipped } = group.counts;
        let counts = [
            (passed, "passed", GOOD),
            (updated, "updated", GOOD),
            (failed, "failed", BAD),
            (skipped, "skipped", LEFT_OUT),
        ];
        let mut separator = "";
        for (count, word, style) in counts.into_iter().filter(|(count, ..)| *count > 0) {
            line = line.with(PLAIN, separator).with(style, format!("{count} {word}"));
            separator = ", ";
        }
        line
    }

    /// Returns the lines of a case in the list of cases.
    fn listed(&self, entry: &Entry<'_>) -> String {
        if self.detail < Detail::Cases {
            return String::new();
        }
        let (word, style) = match entry.result {
            CaseResult::Passed => ("ok  ", GOOD),
            CaseResult::Failed => ("FAIL", BAD),
            CaseResult::Updated => ("new ", GOOD),
            CaseResult::Skipped => ("skip", LEFT_OUT),
        };
        let line = Line::indented(2).with(style, word).with(PLAIN, "  ").hanging();
        let line = line.with(PLAIN, &entry.name);
        let line = match entry.result {
            CaseResult::Skipped => line,
            _ => line.with(DIM, format!("  {}", duration(entry.took))),
        };
        let explained = entry.explained.iter().filter(|_| self.detail >= Detail::Decisions);
        // A failed case is explained below.
        let explained = explained.filter(|_| entry.result == CaseResult::Passed);
        self.render(std::iter::once(line).chain(explained.map(|text| explanation(8, text))))
    }

    fn failure(&self, entry: &Entry<'_>) -> String {
        let title = Line::default().with(BAD.bold(), "FAIL").with(PLAIN, " ").hanging();
        let mut lines = vec![title.with(BOLD, entry.title())];
        lines.extend(entry.differences.iter().flat_map(sides));
        lines.extend(entry.explained.iter().map(|text| explanation(INDENT + 2, text)));
        lines.push(Line::indented(INDENT).with(DIM, "again: ").hanging().with(PLAIN, &entry.again));
        self.render(lines)
    }

    fn note_time(&mut self, entry: &Entry<'_>) {
        if self.slowest == 0 || entry.result == CaseResult::Skipped {
            return;
        }
        let place = self.slow.partition_point(|(took, _)| *took >= entry.took);
        self.slow.insert(place, (entry.took, entry.id()));
        self.slow.truncate(self.slowest);
    }
}

/// Returns a line of an explanation, which may be indented itself.
fn explanation(columns: usize, text: &str) -> Line {
    let trimmed = text.trim_start_matches(' ');
    let own = text.len() - trimmed.len();
    Line::indented(columns + own).hanging_by(2).with(PLAIN, trimmed)
}

/// Returns the lines of a difference, with a mark on the part that differs.
fn sides(difference_of: &Difference) -> Vec<Line> {
    let Difference::Unmet { expected, found, .. } = difference_of else {
        let lines = difference_of.lines();
        return lines.into_iter().map(|text| Line::indented(INDENT).with(PLAIN, text)).collect();
    };
    let subject = difference_of.subject();
    let place = if subject.is_empty() { subject } else { subject + ": " };
    let got = place.chars().count() + "expected".len();
    let (wanted, actual) = difference(expected, found);
    let first = Line::indented(INDENT).with(PLAIN, format!("{place}expected ")).hanging();
    let second = Line::indented(INDENT).with(PLAIN, format!("{:>got$} ", "got")).hanging();
    vec![marked(first, GOOD, wanted), marked(second, BAD, actual)]
}

/// Returns a duration in words.
pub(super) fn duration(took: Duration) -> String {
    match took.as_millis() {
        0 => format!("{} µs", took.as_micros()),
        millis @ ..10_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

/// Returns the last line: the number of cases of each result, and the time.
pub(super) fn summary(totals: &Totals) -> Line {
    let Totals { passed, failed, updated, skipped, filtered, took, seed, .. } = totals;
    let style = |count: usize, style| if count > 0 { style } else { PLAIN };
    let mut line = Line::default().with(style(*passed, GOOD), format!("{passed} passed")).with(PLAIN, ", ");
    if *updated > 0 {
        line = line.with(GOOD, format!("{updated} updated")).with(PLAIN, ", ");
    }
    line = line.with(style(*failed, BAD.bold()), format!("{failed} failed"));
    if *skipped > 0 {
        line = line.with(PLAIN, ", ").with(LEFT_OUT, format!("{skipped} skipped"));
    }
    line = line.with(PLAIN, format!(" in {}", duration(*took)));
    if *filtered > 0 {
        line = line.with(DIM, format!("; {filtered} filtered out"));
    }
    match seed {
        Some(seed) => line.with(DIM, format!("; --shuffle={seed}")),
        None => line,
    }
}

impl Reporter for Human {
    fn case(&mut self, entry: &Entry<'_>, output: &mut dyn Write) -> io::Result<()> {
        if self.suite.as_ref() != Some(&entry.suite) {
            self.end_suite(output)?;
            self.suite = Some(entry.suite.clone());
        }
        let listed = self.listed(entry);
        self.groups.add(entry, listed);
        self.note_time(entry);
        if entry.result == CaseResult::Failed {
            let failure = self.failure(entry);
            self.failures.push(failure);
        }
        Ok(())
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
            self.end_suite(output)?;
            let mut blocks = std::mem::take(&mut self.failures);
            if !self.slow.is_empty() {
                let line = |(took, id): &(Duration, String)| {
                    Line::indented(2).with(DIM, format!("{:>8}  ", duration(*took))).with(PLAIN, id)
                };
                let head = Line::default().with(BOLD, "slowest");
                blocks.push(self.render(std::iter::once(head).chain(self.slow.iter().map(line))));
            }
            if let Some(coverage) = &totals.coverage {
                blocks.push(self.render(coverage::lines(coverage, self.detail)));
            }
            blocks.push(self.render([summary(totals)]));
            for block in blocks {
                if !std::mem::replace(&mut self.is_empty, false) {
                    output.write_all(b"\n")?;
                }
                output.write_all(block.as_bytes())?;
            }
            Ok(())
        };
        write().map_err(ReportError::StandardOutput)
    }

    fn broken(&mut self, problems: &[Broken], _: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut problems = problems.iter().filter(|_| self.is_file);
        problems
            .try_for_each(|problem| writeln!(output, "{}", problem.line()))
            .map_err(ReportError::StandardOutput)
    }
}
