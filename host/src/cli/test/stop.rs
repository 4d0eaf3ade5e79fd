//! The end of a run that cannot judge its cases: the message on standard error, and the same problems in each
//! report, so that a reader of reports alone learns of them.

use std::path::PathBuf;

use super::usage::check_reports;
use super::{Arguments, in_lines, not_written, reporters};
use crate::author::coverage::CoverageError;
use crate::author::reporters::{Broken, ReportError, Reporters, Totals};
use crate::author::test::NotLoaded;
use crate::cli::{Exit, Failure, broken_config};
use crate::config::ConfigError;
use crate::suite::SuiteError;

/// The end of a run that cannot judge its cases, or the rest of them.
pub(super) struct Stop {
    failure: Failure,
    problems: Vec<Broken>,
    /// Files that the run reads. No report replaces them.
    read: Vec<PathBuf>,
    /// Whether the reports are written, or cannot be.
    is_reported: bool,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        let problems = vec![Broken::of_message(&failure.message)];
        Stop { failure, problems, read: Vec::new(), is_reported: false }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        stop.failure
    }
}

impl Stop {
    /// Returns the end by a broken host.yaml or settings file.
    pub(super) fn of_config(error: ConfigError) -> Stop {
        let problems = Broken::of_config(&error);
        Stop { problems, ..Stop::from(broken_config(error)) }
    }

    /// Returns the end by broken suites.
    pub(super) fn of_suites(errors: &[SuiteError]) -> Stop {
        let problems = errors.iter().flat_map(Broken::of_suite).collect();
        Stop { problems, ..Stop::from(Failure::broken(in_lines(errors))) }
    }

    /// Returns the end by policies that cannot be loaded.
    pub(super) fn of_load(error: &NotLoaded) -> Stop {
        let problems = error.problems().to_vec();
        Stop { problems, ..Stop::from(Failure::new(Exit::NotLoaded, error)) }
    }

    /// Returns the end by a policy that cannot be built.
    pub(super) fn of_build(problem: Broken) -> Stop {
        let failure = Failure::new(Exit::NotLoaded, &problem.message);
        Stop { problems: vec![problem], ..Stop::from(failure) }
    }

    /// Returns the end of a run whose coverage cannot be measured.
    pub(super) fn of_coverage(error: CoverageError) -> Stop {
        match error {
            CoverageError::Settings(error) => Stop::of_suites(&[error]),
            CoverageError::NotLoaded(error) => Stop::of_load(&error),
        }
    }

    /// Returns the end of a run whose reports cannot be written.
    pub(super) fn not_written(error: ReportError) -> Stop {
        Stop::without_report(not_written(error))
    }

    /// Returns the end of a run without any report, by wrong arguments.
    pub(super) fn without_report(failure: Failure) -> Stop {
        Stop { is_reported: true, ..Stop::from(failure) }
    }

    /// Names files that the run reads, besides those of the problems and of the arguments.
    pub(super) fn reading(mut self, files: impl IntoIterator<Item = PathBuf>) -> Stop {
        self.read.extend(files);
        self
    }

    /// Writes the problems into reports that have cases already.
    pub(super) fn written(mut self, reporters: Reporters<'_>, totals: &Totals) -> Stop {
        let written = reporters.broken(&self.problems, totals);
        self.add(written.map_err(not_written));
        self.is_reported = true;
        self
    }

    /// Writes the problems into reports, unless they are written, and returns the failure.
    pub(super) fn report(mut self, arguments: &Arguments) -> Failure {
        if !self.is_reported {
            let given = [&arguments.config, &arguments.policy.policy, &arguments.policy.settings];
            let given = given.into_iter().flatten().chain(&arguments.paths);
            let read = given.chain(self.problems.iter().filter_map(|problem| problem.path.as_ref()));
            let read: Vec<_> = read.chain(&self.read).cloned().collect();
            let reporters = check_reports(arguments, &read).and_then(|()| reporters(arguments));
            let totals = Totals::default();
            let written = reporters.and_then(|all| all.broken(&self.problems, &totals).map_err(not_written));
            self.add(written);
        }
        self.failure
    }

    /// Adds the reason why reports cannot be written to the message.
    fn add(&mut self, written: Result<(), Failure>) {
        if let Err(error) = written {
            self.failure.message.push('\n');
            self.failure.message.push_str(&error.message);
        }
    }
}
