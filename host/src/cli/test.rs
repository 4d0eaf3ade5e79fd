//! `host test`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use super::{Exit, Failure, OnePolicy, broken_config, exit, load, say};
use crate::config::Config;
use crate::suite::{self, Case, Suite};
use crate::text;

/// Run suites of fixture reviews through the policies
///
/// A suite is a folder with a host.yaml (only `policies` is needed) and fixtures: ImageReviews, as JSON or
/// YAML. The `status` of a fixture is the expected response: `allowed`, and optionally a `reason` that the
/// actual reason contains, and `auditAnnotations` that are among the actual ones. Each case is judged three
/// times: with its images in order, in reverse order, and each by an instance of its own. A difference fails
/// the case.
///
/// Exit status: 0 passed, 1 a case failed, 2 usage or a broken suite, 3 a policy failed to load, 4 nothing to
/// run.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Suites: folders or single fixtures [default: the current folder]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// host.yaml with the policies, instead of the one beside the fixtures
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    policy: OnePolicy,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(test(arguments))
}

fn test(Arguments { mut paths, config, policy }: Arguments) -> Result<Exit, Failure> {
    let started = Instant::now();
    let given = match config {
        Some(path) => Some(Config::read(&path).map_err(broken_config)?),
        None => policy.config()?,
    };
    if paths.is_empty() {
        paths.push(PathBuf::from("."));
    }
    let suites = suite::find(&paths, given.is_some()).map_err(Failure::broken)?;
    if suites.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| text::path(path)).collect();
        let message = format!(
            "there is no fixture in {}: write an ImageReview with the `status` that you expect, as .json or \
             .yaml",
            paths.join(", ")
        );
        return Err(Failure::new(Exit::Nothing, message));
    }

    let (mut passed, mut failed) = (0, 0);
    for Suite { config, fixtures } in suites {
        let config = match (&given, config) {
            (Some(config), _) => config.clone(),
            (None, Some(path)) => Config::read(&path).map_err(broken_config)?,
            (None, None) => continue,
        };
        let cases: Result<Vec<_>, _> = fixtures.iter().map(|path| Case::read(path, &config.limits)).collect();
        let cases = cases.map_err(Failure::broken)?;
        let set = load(&config, Exit::NotLoaded)?;
        for case in cases {
            let report = case.run(&set);
            let place = text::path(&report.place);
            if report.passed() {
                passed += 1;
                say(format_args!("ok   {place}"))?;
                continue;
            }
            failed += 1;
            say(format_args!("FAIL {place}"))?;
            for line in report.lines() {
                say(format_args!("     {line}"))?;
            }
        }
    }
    let took = started.elapsed().as_millis();
    say(format_args!("\n{passed} passed, {failed} failed in {took} ms"))?;
    Ok(if failed == 0 { Exit::Yes } else { Exit::No })
}
