//! Suites: fixture reviews with the response that is expected of a set of policies.
//!
//! A suite is a folder with a `host.yaml`, of which `policies` is enough. Every other `.json`, `.yaml` or
//! `.yml` file in it and below is a case: an ImageReview whose `status` is the expected response.

mod find;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

pub use self::find::{find, folders};
use self::report::unlike;
pub use self::report::{CaseReport, Failed};
use crate::config::HostLimits;
use crate::config::yaml;
use crate::evaluate::{Facts, Instances, Options, evaluate};
use crate::fs::{self, FileError};
use crate::limits;
use crate::policy::PolicySet;
use crate::review::verdict::Verdict;
use crate::review::{Refusal, Review, ReviewError, image_review};
use crate::text;

/// Advice for a file that is not a fixture.
const ONE_REVIEW: &str = "a fixture is one ImageReview with the `status` that you expect; `host review -f \
    FILE` judges manifests such as Pods and Deployments";

/// The reason for which a suite cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A file or folder cannot be read.
    #[error("{}: {error}", text::path(path))]
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
    /// A fixture is not YAML.
    #[error("{}", at(path, &error.problems))]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The problems, with their places.
        error: yaml::YamlError,
    },
}

/// Returns a line for each problem of a file.
fn at(path: &Path, problems: &[yaml::Problem]) -> String {
    let path = text::path(path);
    problems.iter().map(|problem| format!("{path}:{problem}")).collect::<Vec<_>>().join("\n")
}

/// The reason for which a file is not a fixture.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// No policies judge it.
    #[error(
        "there is no host.yaml in its folder or above: write one with the `policies` to test, or give \
         `--policy FILE.wasm --settings FILE.yaml`"
    )]
    NoConfig,
    /// It has more bytes than the limit.
    #[error("{}", limits::FIXTURE.says(*.0, *.1))]
    TooLarge(u64, u64),
    /// It holds several YAML documents.
    #[error("it holds several documents: {ONE_REVIEW}")]
    Documents,
    /// It begins with a byte order mark.
    #[error("it begins with a byte order mark, with which it is no JSON: save it without")]
    ByteOrderMark,
    /// It is no ImageReview.
    #[error("{0}: {ONE_REVIEW}")]
    NotAnImageReview(String),
    /// It is no JSON value.
    #[error("{0}")]
    Json(serde_json::Error),
    /// Its `status` is no expected response.
    #[error("its `status`: {0}")]
    Status(serde_json::Error),
    /// It has no expected response.
    #[error(
        "it has no `status`: write the answer that you expect, such as `status: {{allowed: false, \
         reason: \"not trusted\"}}`"
    )]
    NoStatus,
}

/// Fixtures and the configuration that judges them.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// The host.yaml. None where the caller brings the policies.
    pub config: Option<PathBuf>,
    /// The files of the cases, sorted.
    pub fixtures: Vec<PathBuf>,
}

/// A fixture that was read.
#[derive(Debug)]
pub struct Case {
    place: PathBuf,
    review: Result<Review, Refusal>,
    expected: Expected,
}

/// The response that a fixture expects.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expected {
    allowed: bool,
    reason: Option<String>,
    #[serde(default)]
    audit_annotations: BTreeMap<String, String>,
}

impl Case {
    /// Reads a fixture.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is no ImageReview, or has no expected `status`.
    pub fn read(path: &Path, limits: &HostLimits) -> Result<Case, SuiteError> {
        let read = |error| SuiteError::Read { path: path.to_owned(), error };
        let no_fixture = |problem| SuiteError::Fixture { path: path.to_owned(), problem };
        let bytes = fs::read(path, limits::FIXTURE.default).map_err(|error| match error {
            FileError::TooLarge(size, most) => no_fixture(FixtureError::TooLarge(size, most)),
            error => read(error.into()),
        })?;
        // A JSON fixture is parsed byte by byte as by the server, with all its irregularities.
        let json = if path.extension().is_some_and(|extension| extension == "json") {
            bytes
        } else {
            let document = yaml::Document::parse(&bytes).map_err(|error| {
                let documents = yaml::documents(&bytes)
                    .filter(|parsed| parsed.as_ref().is_ok_and(|document| !document.value.is_null()));
                match documents.take(2).count() {
                    2 => no_fixture(FixtureError::Documents),
                    _ => SuiteError::Yaml { path: path.to_owned(), error },
                }
            })?;
            document.value.to_string().into_bytes()
        };
        let (review, expected) = parse(&json, limits).map_err(no_fixture)?;
        Ok(Case { place: path.to_owned(), review, expected })
    }

    /// Returns the review. Returns None if the server rejects it before any policy runs.
    pub fn review(&self) -> Option<&Review> {
        self.review.as_ref().ok()
    }

    /// Evaluates the case as the server does, and again with instances shared otherwise.
    pub fn run(&self, set: &PolicySet) -> CaseReport {
        self.run_until(set, Instant::now() + 3 * set.limits.review_deadline)
    }

    /// Runs like [`Case::run`], with one deadline for all evaluations. An evaluation that is not finished by
    /// `until` fails.
    pub fn run_until(&self, set: &PolicySet, until: Instant) -> CaseReport {
        let began = Instant::now();
        let judge = |instances| match &self.review {
            Ok(review) => {
                let options = Options { instances, ..Options::of(set).at_latest(until) };
                evaluate(set, review, &Facts::default(), &options).verdict
            }
            Err(refusal) => Verdict::refuse(&set.rules, &set.generation(), &refusal.to_string()),
        };
        let verdict = judge(Instances::Shared);
        let mut failed = self.expected.unmet(&verdict);
        for instances in [Instances::Reversed, Instances::Isolated] {
            failed.extend(unlike(&verdict, &judge(instances), instances));
        }
        CaseReport { place: self.place.clone(), failed, verdict, took: began.elapsed() }
    }
}

/// Reads the review of a fixture, or the reason for which the server denies it, and the expected response.
fn parse(json: &[u8], limits: &HostLimits) -> Result<(Result<Review, Refusal>, Expected), FixtureError> {
    if json.starts_with("\u{feff}".as_bytes()) {
        return Err(FixtureError::ByteOrderMark);
    }
    let review = match image_review::parse(json, limits) {
        Ok(review) => Ok(review),
        Err(ReviewError::Refused(refusal)) => Err(refusal),
        Err(ReviewError::NotAnImageReview(problem)) => return Err(FixtureError::NotAnImageReview(problem)),
    };
    // Parsing goes through a value: a line and column of JSON that was made from YAML would mislead.
    let fixture: Value = serde_json::from_slice(json).map_err(FixtureError::Json)?;
    let expected = fixture.get("status").map(Option::<Expected>::deserialize).transpose();
    let expected = expected.map_err(FixtureError::Status)?.flatten();
    Ok((review, expected.ok_or(FixtureError::NoStatus)?))
}

impl Expected {
    /// Returns the expectations that a verdict does not meet.
    fn unmet(&self, verdict: &Verdict) -> Vec<Failed> {
        let mut failed = Vec::new();
        if self.allowed != verdict.allowed() {
            failed.push(Failed::Allowed { found: verdict.allowed() });
        }
        let reason = verdict.answered_reason();
        if let Some(expected) = self.reason.as_ref().filter(|expected| !reason.contains(*expected)) {
            failed.push(Failed::Reason { expected: expected.clone(), found: reason.to_owned() });
        }
        if self.audit_annotations.is_empty() {
            return failed;
        }
        let found = verdict.audit_annotations();
        for (key, expected) in &self.audit_annotations {
            let (key, expected) = (key.clone(), expected.clone());
            failed.extend(match found.get(&key) {
                Some(found) if *found == expected => None,
                Some(found) => Some(Failed::AuditAnnotation { key, expected, found: found.clone() }),
                None => {
                    let keys = found.keys().cloned().collect();
                    Some(Failed::NoAuditAnnotation { key, expected, keys })
                }
            });
        }
        failed
    }
}
