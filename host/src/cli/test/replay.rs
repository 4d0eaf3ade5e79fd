//! `host test --replay`

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::{Arguments, processors};
use crate::author::replay::{self, NotJudged, Replay, ReplayReport};
use crate::author::reporters::Format;
use crate::cli::{Exit, Failure, broken_config, load, say, say_json, with_progress};
use crate::config::Config;
use crate::limits;
use crate::review::differences::Example;
use crate::text;

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let is_json = match arguments.formats.as_slice() {
        [] => false,
        [target] if target.file.is_none() && target.format == Format::Human => false,
        [target] if target.file.is_none() && target.format == Format::Json => true,
        _ => {
            let message = "`--replay` has no cases: its formats are human and json, on standard output";
            return Err(Failure::broken(message));
        }
    };
    let logs = replay::open(&arguments.replay).map_err(Failure::broken)?;
    let config = match (&arguments.config, arguments.policy.config()?) {
        (Some(path), _) => Config::read(path).map_err(broken_config)?,
        (None, Some(config)) => config,
        (None, None) => Config::read(Path::new("host.yaml")).map_err(broken_config)?,
    };
    let set = load(&config, Exit::NotLoaded)?;
    let examples = if arguments.verbose == 0 { limits::EXAMPLES } else { limits::REPLAY_EXAMPLES };
    let jobs = arguments.jobs.map_or_else(processors, NonZeroUsize::get);
    let replay = Replay { set: &set, jobs, examples: examples.size() };
    let report = with_progress("judging", &["the reviews of the log"], || replay.run(logs));
    let report = report.map_err(Failure::broken)?;
    let ReplayReport { differences, not_judged } = &report;
    if differences.reviews == 0 {
        return Err(Failure::new(Exit::Nothing, nothing(&arguments.replay, not_judged)));
    }
    match is_json {
        true => say_json(&report)?,
        false => say(human(&report, arguments.quiet).trim_end())?,
    }
    // Reviews that could not be compared in time do not show that all is as before.
    Ok(if differences.is_empty() && !differences.tell_nothing() { Exit::Yes } else { Exit::No })
}

/// Returns the message of logs without a review to judge.
fn nothing(logs: &[PathBuf], not_judged: &NotJudged) -> String {
    let logs: Vec<_> = logs.iter().map(|path| text::path(path)).collect();
    let logs = logs.join(", ");
    match lines(not_judged) {
        Some(lines) => format!("there is no review to judge in {logs}: not judged: {lines}"),
        None => {
            format!("there is no review to judge in {logs}: name the decision log of a host, or its folder")
        }
    }
}

/// Returns the report for people.
fn human(report: &ReplayReport, is_quiet: bool) -> String {
    let ReplayReport { differences, not_judged } = report;
    let mut page = format!("{}\n", differences.counts());
    if let Some(lines) = lines(not_judged) {
        page.push_str(&format!("not judged: {lines}\n"));
    }
    let kinds = differences.kinds();
    for (kind, found) in kinds.iter().filter(|(_, found)| !is_quiet && found.reviews > 0) {
        let _ = writeln!(page, "\n{kind}: {}", reviews(found.reviews));
        found.examples.iter().for_each(|example| add(&mut page, example));
        let shown: u64 = found.examples.iter().map(|example| example.reviews).sum();
        if let Some(more) = found.reviews.checked_sub(shown).filter(|more| *more > 0) {
            let _ = writeln!(page, "  and {} like them", reviews(more));
        }
    }
    page
}

fn add(page: &mut String, example: &Example) {
    let Example { namespace, images, reviews: times, before, after } = example;
    let _ = writeln!(page, "  {} in namespace {namespace}, {}", images.join(", "), reviews(*times));
    let _ = writeln!(page, "    before  {before}\n    now     {after}");
}

fn reviews(count: u64) -> String {
    if count == 1 { "1 review".to_owned() } else { format!("{count} reviews") }
}

/// Returns the counts of lines without a review to judge. Returns None if there are none.
fn lines(not_judged: &NotJudged) -> Option<String> {
    let NotJudged { refused, without_request, without_images, no_record, first_no_record } = not_judged;
    let counts = [
        (refused, "refused before any policy ran"),
        (without_request, "without the request"),
        (without_images, "without images"),
        (no_record, "lines that are no record"),
    ];
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, which)| format!("{count} {which}"))
        .collect();
    let first = first_no_record.as_ref().map(|first| format!(", the first at {first}")).unwrap_or_default();
    (!counts.is_empty()).then(|| format!("{}{first}", counts.join(", ")))
}
