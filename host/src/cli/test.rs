//! `host test`

mod replay;
mod stop;
mod update;
mod usage;
mod watch;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use self::stop::Stop;
use super::terminal::StandardOutput;
use super::{Exit, Failure, OnePolicy, Snapshots, author_compiler, exit, say, tell, with_progress};
use crate::author::coverage::coverage;
use crate::author::reporters::{
    self, Broken, Detail, Entry, ReportError, Reporters, Target, Totals, Workflow, terminal_width,
};
use crate::author::sources::Builds;
use crate::author::test::{Filter, LastRun, Position, Run, Seed, Selection};
use crate::config::Config;
use crate::policy::{Cache, Compiler, Policy};
use crate::serve::status::warnings;
use crate::suite::coverage::{Coverage, Met};
use crate::suite::{self, CaseReport, Suite, SuiteError};
use crate::text;

/// Number of cases from which on the policies start from snapshots.
const MANY: usize = 500;

/// Run suites of cases through the policies
///
/// A suite file (`kind: Suite`) has cases for the policies that it names. A fixture is an ImageReview whose
/// `status` is the expected response, for the policies of the nearest host.yaml above. Each case is judged
/// three times: with its images in order, in reverse order, and each by an instance of its own. A difference
/// fails the case.
///
/// A `module` or `--policy` that is a folder of sources is built first, as by `host build`.
///
/// Exit status: 0 passed, 1 a case failed, 2 usage or a broken suite, 3 a policy failed to load, 4 nothing to
/// run.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Suite files, fixtures, or folders of them [default: the current folder]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// host.yaml with the policies, instead of the nearest one above the cases
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    policy: OnePolicy,
    /// Cases whose `SUITE › ROW › CASE` contains TEXT, or the one with this NAME; several add up, and `!TEXT`
    /// leaves out
    #[arg(
        short,
        long = "filter",
        value_name = "TEXT|=NAME|/RE/",
        allow_hyphen_values = true,
        help_heading = "Selection"
    )]
    filters: Vec<Filter>,
    /// Cases that failed in their last run
    #[arg(long, help_heading = "Selection")]
    failed: bool,
    /// Show the cases that would run, and run none
    #[arg(long, help_heading = "Selection")]
    list: bool,
    /// Judge the reviews of decision logs instead of cases, by the host.yaml in the current folder or by
    /// other policies, and show those that are decided otherwise; LOG is a file, its folder, or `-` for
    /// standard input
    #[arg(long, value_name = "LOG", num_args = 1.., help_heading = "Selection", conflicts_with_all = [
        "paths", "filters", "failed", "list", "fail_fast", "update", "shuffle", "coverage", "watch",
        "slowest",
    ])]
    replay: Vec<PathBuf>,
    /// End at the first case that fails
    #[arg(long, help_heading = "Run")]
    fail_fast: bool,
    /// Write what came out where a case fails or expects nothing, and show the changed lines
    ///
    /// All rows of a case are judged, since they share one expectation. A case is updated whole or not at
    /// all.
    /// Exit status 1: a case still fails.
    #[arg(long, conflicts_with_all = ["list", "fail_fast", "coverage", "watch"], help_heading = "Run")]
    update: bool,
    /// Cases judged at once [default: the number of processors]
    #[arg(short, long, value_name = "N", value_parser = usage::jobs, help_heading = "Run")]
    jobs: Option<NonZeroUsize>,
    /// Judge the cases in a random order, which SEED repeats
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, help_heading = "Run")]
    shuffle: Option<Option<Seed>>,
    /// Show what no case covers: decisions, and entries of the settings that no case depends on. With
    /// `=require` each gap makes the exit status 1
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "show",
        conflicts_with_all = ["filters", "failed", "list"],
        help_heading = "Run"
    )]
    coverage: Option<CoverageMode>,
    /// Run again, after each change of a file, the cases that the change concerns
    #[arg(long, conflicts_with_all = ["list", "formats"], help_heading = "Run")]
    watch: bool,
    /// Form of the results: human, json, junit, tap or github, on standard output or in FILE; several are
    /// possible, one of them on standard output
    #[arg(long = "format", value_name = "FORM[=FILE]", help_heading = "Output")]
    formats: Vec<Target>,
    /// Show each case, and with -vv the decision of each policy
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    verbose: u8,
    /// Show failures and the totals alone
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
    /// Show the N slowest cases
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "Output")]
    slowest: usize,
}

/// The effect of a gap in the coverage.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CoverageMode {
    /// Gaps are shown
    Show,
    /// Gaps fail the run
    Require,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(test(arguments))
}

fn test(mut arguments: Arguments) -> Result<Exit, Failure> {
    if !arguments.replay.is_empty() {
        return replay::run(&arguments);
    }
    usage::check_values(&arguments)?;
    let started = Instant::now();
    if arguments.paths.is_empty() {
        arguments.paths.push(PathBuf::from("."));
    }
    if arguments.watch {
        return watch::watch(&arguments);
    }
    run_once(&arguments, started).map_err(|stop| stop.report(&arguments))
}

/// Judges the selected cases once.
fn run_once(arguments: &Arguments, started: Instant) -> Result<Exit, Stop> {
    let suites = suites(arguments, &mut Builds::default())?;
    usage::check_reports(arguments, &usage::read_by(&suites)).map_err(Stop::without_report)?;
    let cache = Cache::user_folder();
    let last = cache.as_deref().map(|folder| LastRun::read(folder, &suites)).unwrap_or_default();
    let seed = arguments.shuffle.map(|seed| seed.unwrap_or_else(chance));
    let failed = arguments.failed.then(|| last.clone());
    let selection = Selection { filters: arguments.filters.clone(), failed, shuffle: seed };
    let mut plan = selection.plan(&suites);
    if plan.is_empty() {
        return Err(Failure::new(Exit::Nothing, nothing(arguments, &suites)).into());
    }
    if arguments.update {
        update::prepare(arguments, &suites, &mut plan).map_err(Stop::without_report)?;
    }
    if arguments.list {
        for case in plan.iter().filter_map(|(suite, case)| suites.get(*suite)?.cases.get(*case)) {
            say(&case.id)?;
        }
        return Ok(Exit::Yes);
    }
    let all: usize = suites.iter().map(|suite| suite.cases.len()).sum();
    let is_coverage_required = arguments.coverage == Some(CoverageMode::Require);
    let (filtered, seed) = (all - plan.len(), seed.map(|seed| seed.0));
    let totals = Totals { filtered, seed, is_coverage_required, ..Totals::default() };
    let compiler = compiler(&plan)?;
    let task = Task { arguments, compiler: &compiler, suites: &suites, plan: &plan, last, totals, started };
    let judge = if arguments.update { update::judge } else { judge };
    let Judged { totals, last, .. } = judge(task)?;
    if let Some(folder) = &cache {
        // A cache that cannot be written costs `--failed` alone.
        let _ = last.write(folder);
    }
    let gaps = totals.coverage.as_ref().map_or(0, Coverage::missing);
    let is_covered = gaps == 0 || !is_coverage_required;
    Ok(if totals.failed == 0 && is_covered { Exit::Yes } else { Exit::No })
}

/// Reads the suites that the arguments name, and builds the policies that are folders of sources.
fn suites(arguments: &Arguments, builds: &mut Builds) -> Result<Vec<Suite>, Stop> {
    let given = match &arguments.config {
        Some(path) => Some(Config::read(path).map_err(Stop::of_config)?),
        None => arguments.policy.config()?,
    };
    let found = suite::find(&arguments.paths, given.is_some());
    let found = found.map_err(|error| Stop::of_suites(&[error]))?;
    let read = if arguments.update { suite::read_to_update } else { suite::read };
    let mut suites = Vec::new();
    let mut errors = Vec::new();
    for found in &found {
        match read(found, given.as_ref()) {
            Ok(read) => suites.extend(read),
            Err(broken) => errors.extend(broken),
        }
    }
    if !errors.is_empty() {
        let files = found.into_iter().flat_map(|found| found.files.into_iter().chain(found.config));
        return Err(Stop::of_suites(&errors).reading(files).reading(usage::read_by(&suites)));
    }
    let subjects = suites.iter_mut().flat_map(|suite| &mut suite.subjects);
    let built =
        subjects.filter_map(|subject| subject.config.as_mut()).try_for_each(|config| build(config, builds));
    built.map_err(|problem| Stop::of_build(problem).reading(usage::read_by(&suites)))?;
    Ok(suites)
}

/// Builds the policies of a configuration that are folders of sources.
fn build(config: &mut Config, builds: &mut Builds) -> Result<(), Broken> {
    let mut policies = config.policies.iter_mut();
    let failed = policies.find_map(|policy| {
        let name = text::path(policy.module.file());
        let built = with_progress("building", &[&name], || builds.resolve(policy));
        built.err().map(|error| (format!("{}/module", policy.pointer), error.to_string()))
    });
    failed.map_or(Ok(()), |(pointer, error)| Err(Broken::of_entry(config, &pointer, &error)))
}

fn in_lines(errors: &[SuiteError]) -> String {
    let is_terminal = std::io::stderr().is_terminal();
    let line = |error: &SuiteError| if is_terminal { error.with_excerpts() } else { error.to_string() };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the message of a run without a case.
fn nothing(arguments: &Arguments, suites: &[Suite]) -> String {
    let all: usize = suites.iter().map(|suite| suite.cases.len()).sum();
    if arguments.failed && all > 0 {
        return format!("none of the {all} cases failed in its last run: leave `--failed` out to run them");
    }
    if all > 0 {
        return format!("no filter finds one of the {all} cases: `--list` shows their names");
    }
    let paths: Vec<_> = arguments.paths.iter().map(|path| text::path(path)).collect();
    format!(
        "there is no case in {}: write a suite file (`kind: Suite`), or an ImageReview with the `status` \
         that you expect, as .json or .yaml",
        paths.join(", ")
    )
}

/// A run that is about to begin.
struct Task<'a> {
    arguments: &'a Arguments,
    compiler: &'a Compiler,
    suites: &'a [Suite],
    plan: &'a [Position],
    last: LastRun,
    /// The numbers that are known before the run.
    totals: Totals,
    started: Instant,
}

impl<'a> Task<'a> {
    /// Loads the policies under test, and writes their warnings.
    fn load(&self) -> Result<Run<'a>, Stop> {
        let load = || Run::new(self.compiler, self.suites, self.plan);
        let run = with_progress("compiling", &["the policies under test"], load);
        let run = run.map_err(|error| Stop::of_load(&error))?;
        tell_once(run.sets().flat_map(warnings));
        Ok(run)
    }

    /// Judges the cases, and gives each report to `report`, which may end the run.
    fn judge(&self, run: &Run<'a>, report: impl FnMut(&'a Suite, CaseReport) -> ControlFlow<()>) {
        let cases = match self.plan.len() {
            1 => "1 case".to_owned(),
            many => format!("{many} cases"),
        };
        with_progress("judging", &[&cases], || run.run(self.plan, jobs(self.arguments), report));
    }
}

/// Result of a run.
struct Judged {
    totals: Totals,
    last: LastRun,
    /// Policies that were loaded.
    policies: Vec<Arc<Policy>>,
}

impl Judged {
    fn of(run: &Run<'_>, totals: Totals, last: LastRun) -> Judged {
        let entries = run.sets().flat_map(|set| &set.policies);
        let policies = entries.filter_map(|entry| entry.loaded.as_ref().ok().cloned()).collect();
        Judged { totals, last, policies }
    }
}

/// Judges the cases of a plan, and writes the reports.
fn judge(mut task: Task<'_>) -> Result<Judged, Stop> {
    let arguments = task.arguments;
    let mut reporters = reporters(arguments).map_err(Stop::without_report)?;
    let run = task.load()?;
    let command = command(arguments);
    let (mut last, mut totals) = (std::mem::take(&mut task.last), std::mem::take(&mut task.totals));
    let mut met = Met::default();
    let mut result = Ok(());
    task.judge(&run, |suite, report| {
        last.add(suite, &report);
        met.add(&report);
        if report.passed() {
            totals.passed += 1;
        } else {
            totals.failed += 1;
        }
        result = reporters.case(&Entry::of(&report, &command));
        match result.is_err() || arguments.fail_fast && totals.failed > 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    result.map_err(Stop::not_written)?;
    for (suite, case) in task.plan.iter().skip(totals.passed + totals.failed) {
        let Some(case) = task.suites.get(*suite).and_then(|suite| suite.cases.get(*case)) else { continue };
        totals.skipped += 1;
        reporters.case(&Entry::skipped(&case.id, &case.place, &command)).map_err(Stop::not_written)?;
    }
    if arguments.coverage.is_some() {
        let measured = match totals.failed {
            0 => with_progress("changing", &["settings"], || coverage(&run, &met, jobs(arguments))),
            _ => Ok(Coverage::NotMeasured),
        };
        match measured {
            Ok(coverage) => totals.coverage = Some(coverage),
            Err(error) => return Err(Stop::of_coverage(error).written(reporters, &totals)),
        }
    }
    totals.took = task.started.elapsed();
    reporters.finish(&totals).map_err(Stop::not_written)?;
    Ok(Judged::of(&run, totals, last))
}

/// Returns the compiler for the policies of a plan.
fn compiler(plan: &[Position]) -> Result<Compiler, Failure> {
    // A snapshot takes as long as a few hundred cases.
    let snapshots = if plan.len() < MANY { Snapshots::None } else { Snapshots::Taken };
    author_compiler(snapshots, Exit::NotLoaded)
}

fn jobs(arguments: &Arguments) -> usize {
    arguments.jobs.map_or_else(processors, NonZeroUsize::get)
}

fn reporters(arguments: &Arguments) -> Result<Reporters<'static>, Failure> {
    let options = reporters::Options {
        detail: match (arguments.quiet, arguments.verbose) {
            (true, _) => Detail::Failures,
            (_, 0) => Detail::Suites,
            (_, 1) => Detail::Cases,
            _ => Detail::Decisions,
        },
        slowest: arguments.slowest,
        width: terminal_width(),
        started: SystemTime::now(),
        github: Workflow::of_environment(),
    };
    Reporters::new(&arguments.formats, &options, StandardOutput::new()).map_err(not_written)
}

fn not_written(error: ReportError) -> Failure {
    Failure::broken(error)
}

/// Writes each distinct warning to standard error.
fn tell_once(warnings: impl Iterator<Item = String>) {
    let mut told: Vec<String> = Vec::new();
    for warning in warnings {
        if !told.contains(&warning) {
            tell(&format!("warning: {warning}"));
            told.push(warning);
        }
    }
}

/// Returns the command of the run, without paths and filters.
fn command(arguments: &Arguments) -> String {
    let mut command = "host test".to_owned();
    let options = [
        ("--config", &arguments.config),
        ("--policy", &arguments.policy.policy),
        ("--settings", &arguments.policy.settings),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            command.push_str(&format!(" {name} {}", reporters::quoted(&text::path(value))));
        }
    }
    command
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Returns a seed from the clock.
fn chance() -> Seed {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Few digits, which people can type.
    Seed(u64::from(now.subsec_micros()))
}
