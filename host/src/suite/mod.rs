//! Suites: reviews with the verdict that is expected of a set of policies.
//!
//! A case is a fixture, which is an ImageReview whose `status` is the expected response, or a part of a suite
//! file (`kind: Suite`). The policies that judge it are those of the suite file, else those of the nearest
//! `host.yaml` above.

mod case;
pub mod coverage;
mod expect;
mod file;
mod find;
mod fixture;
mod read;
mod refused;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use self::case::{Case, CaseId, Check, Place};
pub use self::expect::{Expect, Known, Part, Unmet};
pub use self::file::{KIND, schema};
pub(crate) use self::find::BUILT;
pub use self::find::{Found, find, folders, is_of_suite};
pub use self::fixture::FixtureError;
pub use self::read::{cases_for, read, read_to_update, reviews, with_settings_files};
pub use self::refused::{ExpectError, ExpectRefused};
pub use self::report::{CaseReport, Failed};
use crate::config::{Config, ConfigError, SettingsFileError};
use crate::text;

/// The reason for which a suite cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A file or folder cannot be read.
    #[error("{}: {error}{}", text::path(path), next_step(error))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: std::io::Error,
    },
    /// A file is not a fixture.
    #[error("{}: {problem}", text::path(path))]
    Fixture {
        /// The file.
        path: PathBuf,
        /// The problem, and the next step.
        problem: FixtureError,
    },
    /// A suite file, a fixture or a host.yaml has errors.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// A file of settings cannot be used.
    #[error(transparent)]
    Settings(SettingsFileError),
    /// A suite file names policies, and the caller brings others.
    #[error(
        "{}: the suite names the policies under test: leave `--config`, `--policy` and `--settings` out",
        text::path(.0)
    )]
    OwnPolicies(PathBuf),
}

/// Returns advice for a file or folder that does not exist.
fn next_step(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => ": name a file or a folder that exists",
        _ => "",
    }
}

impl From<SettingsFileError> for SuiteError {
    fn from(error: SettingsFileError) -> SuiteError {
        match error {
            SettingsFileError::Invalid(error) => SuiteError::Invalid(error),
            error => SuiteError::Settings(error),
        }
    }
}

impl SuiteError {
    /// Returns the message for a terminal, in which the line of the file follows each problem.
    #[must_use]
    pub fn with_excerpts(&self) -> String {
        match self {
            SuiteError::Invalid(error) => error.with_excerpts(),
            other => other.to_string(),
        }
    }

    /// Returns the file or folder.
    pub(crate) fn path(&self) -> Option<&std::path::Path> {
        match self {
            SuiteError::Read { path, .. }
            | SuiteError::Fixture { path, .. }
            | SuiteError::OwnPolicies(path) => Some(path),
            SuiteError::Invalid(error) => error.path(),
            SuiteError::Settings(error) => error.path(),
        }
    }
}

/// Cases and the policies that judge them.
#[derive(Debug)]
pub struct Suite {
    /// The suite file. Of fixtures the folder of their host.yaml, or of the first one.
    pub path: PathBuf,
    /// The policies. Each case names one of them.
    pub subjects: Vec<Subject>,
    /// The cases, in the order of the files.
    pub cases: Vec<Case>,
    /// The files that the suite was read from, besides those that `subjects` name.
    pub files: Vec<PathBuf>,
    /// The bytes of the files with cases, if the suite was read to be updated.
    pub texts: BTreeMap<PathBuf, Vec<u8>>,
}

/// Policies under test.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The configuration. None: the caller brings the policies.
    pub config: Option<Config>,
    /// Whether one case alone uses it.
    pub is_of_case: bool,
}
