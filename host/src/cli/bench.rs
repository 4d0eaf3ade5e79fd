//! `host bench`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Exit, Failure, Format, exit, read, say, say_json, server_compiler, settings, with_progress};
use crate::author::bench::{BenchError, Question, Report, Times, bench};
use crate::config::HostLimits;
use crate::limits;
use crate::policy::Component;
use crate::suite;
use crate::text;

/// Measure the time, instructions and memory of a policy
///
/// A fresh evaluation starts an instance, evaluates one image and drops the instance, as a review does. With
/// a snapshot the instance starts configured. Without a snapshot it is configured each time. The warm call,
/// of an instance that was called before, is the lower limit of both.
///
/// Exit status: 0 measured, 1 it malfunctions or its decisions depend on the instance, 2 usage or a broken
/// file, 3 the policy failed to load, 4 nothing to evaluate.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The policy
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// Fixtures, as of `host test`: folders or single files [default: a handful of typical images]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Settings of the policy, as YAML or JSON
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Duration of the measurement of each kind of evaluation
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// `json` has the same content for scripts, with times in nanoseconds
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(measure(&arguments))
}

fn measure(arguments: &Arguments) -> Result<Exit, Failure> {
    let module = text::path(&arguments.module);
    let component = Component::new(read(&arguments.module, limits::MODULE.default)?);
    let settings = settings(arguments.settings.as_deref())?;
    let questions = questions(&arguments.paths)?;
    // Compilation is measured too, as the server compiles.
    let compiler = server_compiler(Exit::NotLoaded)?;
    let report = with_progress("measuring", &[&module], || {
        bench(&compiler, &component, &settings, &questions, arguments.time)
    });
    let report = report.map_err(|error| match error {
        BenchError::Load(error) => Failure::new(Exit::NotLoaded, format_args!("{module}: {error}")),
        BenchError::Unsound(lines) => {
            let lines: Vec<_> = lines.iter().map(|line| format!("{module}: {line}")).collect();
            Failure::new(Exit::No, lines.join("\n"))
        }
    })?;
    match arguments.format {
        Format::Text => say(in_text(&report))?,
        Format::Json => say_json(&report)?,
    }
    Ok(Exit::Yes)
}

fn questions(paths: &[PathBuf]) -> Result<Vec<Question>, Failure> {
    if paths.is_empty() {
        return Ok(Question::typical());
    }
    let mut questions = Vec::new();
    for found in suite::find(paths, true).map_err(Failure::broken)? {
        let reviews = suite::reviews(&found.files, &HostLimits::default()).map_err(Failure::broken)?;
        questions.extend(reviews.iter().flat_map(Question::all_of));
    }
    if questions.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| text::path(path)).collect();
        return Err(Failure::new(
            Exit::Nothing,
            format!("there is no fixture with an image in {}: see `host test --help`", paths.join(", ")),
        ));
    }
    Ok(questions)
}

fn in_text(report: &Report) -> String {
    let mut lines = vec![format!("{:36} {:>10} {:>10} {:>12}", "", "p50", "p99", "evaluations")];
    let row = |name: &str, Times { evaluations, p50, p99 }: &Times| {
        format!("{name:36} {:>10} {:>10} {evaluations:>12}", short(*p50), short(*p99))
    };
    lines.push(row("fresh, configured in each instance", &report.configured));
    const SNAPSHOT: &str = "fresh, from the snapshot";
    lines.push(match &report.snapshot {
        Ok(times) => row(SNAPSHOT, times),
        Err(why) => format!("{SNAPSHOT:36} none: {why}"),
    });
    lines.push(row("warm call, the instance used again", &report.warm));
    let instructions = &report.instructions;
    let memory = &report.memory;
    let touched = match memory.touched_bytes {
        Some(bytes) => format!("{} touched in all", kib(bytes)),
        None => "this system does not count touched pages".to_owned(),
    };
    lines.extend([
        String::new(),
        format!("images evaluated     {}", report.images),
        format!(
            "instructions         {} to start and be configured, {} an image (at most {})",
            instructions.start, instructions.evaluate, instructions.evaluate_most
        ),
        format!("linear memory        {}, {touched}", kib(memory.linear_bytes as u64)),
        format!("component            {}", kib(report.component_bytes as u64)),
        format!("native code          {}", kib(report.native_bytes as u64)),
        format!("compiled in          {}", short(report.compile)),
        format!("loaded from cache in {}", short(report.load)),
    ]);
    lines.join("\n")
}

/// Formats a time with three digits.
fn short(time: Duration) -> String {
    let (value, unit) = match time.as_secs_f64() {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
