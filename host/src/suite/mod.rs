//! Suites: fixture reviews with the response that is expected of a set of policies.
//!
//! A suite is a folder with a `host.yaml`, of which `policies` is enough. Every other `.json`, `.yaml` or
//! `.yml` file in it and below is a case: an ImageReview whose `status` is the expected response.

mod find;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

pub use self::find::{find, folders};
use crate::config::yaml;
use crate::config::{HostLimits, Mode};
use crate::evaluate::{Facts, Instances, Options, evaluate};
use crate::fs::{self, FileError};
use crate::limits;
use crate::policy::PolicySet;
use crate::review::verdict::{Outcome, Verdict, agree};
use crate::review::{Review, ReviewError};
use crate::text;

/// Advice for a file that is not a fixture.
const ONE_REVIEW: &str = "a fixture is one ImageReview with the `status` that you expect; `host review -f FILE` judges \
                          manifests such as Pods and Deployments";

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
        problem: String,
    },
    /// A fixture is not YAML.
    #[error("{}", error.problems.iter().map(|problem| format!("{}:{problem}", text::path(path))).collect::<Vec<_>>().join("\n"))]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The problems, with their places.
        error: yaml::YamlError,
    },
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
    review: Result<Review, String>,
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
        let failed = |error| SuiteError::Read { path: path.to_owned(), error };
        let bytes = fs::read(path, limits::FIXTURE.default).map_err(|error| match error {
            FileError::TooLarge(size, most) => {
                SuiteError::Fixture { path: path.to_owned(), problem: limits::FIXTURE.says(size, most) }
            }
            error => failed(error.into()),
        })?;
        // A JSON fixture is parsed byte by byte as by the server, with all its irregularities.
        let json = if path.extension().is_some_and(|extension| extension == "json") {
            bytes
        } else {
            let document = yaml::Document::parse(&bytes).map_err(|error| {
                let documents = yaml::documents(&bytes)
                    .filter(|parsed| parsed.as_ref().is_ok_and(|document| !document.value.is_null()));
                match documents.take(2).count() {
                    2 => SuiteError::Fixture {
                        path: path.to_owned(),
                        problem: format!("it holds several documents: {ONE_REVIEW}"),
                    },
                    _ => SuiteError::Yaml { path: path.to_owned(), error },
                }
            })?;
            document.value.to_string().into_bytes()
        };
        Case::parse(&json, limits).map_err(|problem| SuiteError::Fixture { path: path.to_owned(), problem })
    }

    fn parse(json: &[u8], limits: &HostLimits) -> Result<Case, String> {
        if json.starts_with("\u{feff}".as_bytes()) {
            return Err(
                "it begins with a byte order mark, with which it is no JSON: save it without".to_owned()
            );
        }
        let review = match Review::parse(json, limits) {
            Ok(review) => Ok(review),
            Err(ReviewError::Refused(reason)) => Err(reason),
            Err(ReviewError::NotAnImageReview(problem)) => return Err(format!("{problem}: {ONE_REVIEW}")),
        };
        // Parsing goes through a value: a line and column of JSON that was made from YAML would mislead.
        let fixture: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let expected = fixture.get("status").map(Option::<Expected>::deserialize).transpose();
        let expected = expected.map_err(|error| format!("its `status`: {error}"))?.flatten();
        let Some(expected) = expected else {
            return Err(
                "it has no `status`: write the answer that you expect, such as `status: {allowed: false, \
                        reason: \"not trusted\"}`"
                    .to_owned(),
            );
        };
        Ok(Case { review, expected })
    }

    /// Returns the review. Returns None if the server rejects it before any policy runs.
    pub fn review(&self) -> Option<&Review> {
        self.review.as_ref().ok()
    }

    /// Evaluates the case as the server does, and again with instances shared otherwise. Returns lines that
    /// describe the differences; a case without any passes.
    pub fn run(&self, set: &PolicySet) -> Vec<String> {
        self.run_until(set, Instant::now() + 3 * set.limits.review_deadline)
    }

    /// Runs like [`Case::run`], with one deadline for all evaluations. An evaluation that is not finished by
    /// `until` fails.
    pub fn run_until(&self, set: &PolicySet, until: Instant) -> Vec<String> {
        let judge = |instances| match &self.review {
            Ok(review) => {
                let options = Options { instances, ..Options::of(set).at_latest(until) };
                evaluate(set, review, &Facts::default(), &options).verdict
            }
            Err(reason) => Verdict::refuse(&set.rules, &set.generation(), reason),
        };
        let verdict = judge(Instances::Shared);
        let mut lines = self.differences(&verdict);
        for (instances, how) in [
            (Instances::Reversed, "with its images asked in reverse order"),
            (Instances::Isolated, "with an instance for each image"),
        ] {
            lines.extend(unlike(&verdict, &judge(instances), how));
        }
        lines
    }

    fn differences(&self, verdict: &Verdict) -> Vec<String> {
        let Expected { allowed, reason, audit_annotations } = &self.expected;
        let mut lines = Vec::new();
        if *allowed != verdict.allowed() {
            lines.push(format!("allowed: expected {allowed}, got {}", verdict.allowed()));
        }
        if let Some(reason) = reason
            && !verdict.answered_reason().contains(reason)
        {
            lines.push(format!("reason: expected one that contains {reason:?}"));
            lines.push(format!("        got {:?}", verdict.answered_reason()));
        }
        let found = if audit_annotations.is_empty() { BTreeMap::new() } else { verdict.audit_annotations() };
        for (key, expected) in audit_annotations {
            match found.get(key) {
                Some(actual) if actual == expected => {}
                Some(actual) => {
                    lines.push(format!("auditAnnotations[{key:?}]: expected {expected:?}, got {actual:?}"));
                }
                None => {
                    let keys: Vec<_> = found.keys().map(String::as_str).collect();
                    lines.push(format!(
                        "auditAnnotations[{key:?}]: expected {expected:?}, got none; there are {}",
                        keys.join(", ")
                    ));
                }
            }
        }
        if !lines.is_empty() {
            lines.extend(explained(verdict));
        }
        lines
    }
}

/// Describes the decisions of a failed case.
fn explained(verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if verdict.images.is_empty() && !verdict.reason.is_empty() {
        lines.push(format!("decided by the host: {}", verdict.reason));
    }
    for image in &verdict.images {
        let name = crate::text::image(&image.judged.original);
        let word = if image.allowed { "allowed" } else { "denied" };
        lines.push(format!("{name}: {word}"));
        // If no policy decided, the host's own reason is added.
        let by_policy = image
            .judged
            .said
            .iter()
            .any(|said| said.mode == Mode::Enforce && said.outcome() != Outcome::Abstain);
        if !by_policy {
            lines.extend(image.because().map(|because| format!("  {because}")));
        }
        for said in &image.judged.said {
            let message = said.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
            lines.push(format!("  {} said {}: {}{message}", said.policy, said.outcome(), said.reason()));
            lines.extend(said.log.iter().map(|line| format!("  {} wrote: {}", said.policy, line.message)));
        }
    }
    lines
}

/// Describes the decisions that changed when instances were shared otherwise.
fn unlike(shared: &Verdict, other: &Verdict, how: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (first, second) in shared.images.iter().zip(&other.images) {
        let said = first.judged.said.iter().zip(&second.judged.said);
        for (before, after) in said.filter(|(before, after)| !agree(&before.judgement, &after.judgement)) {
            lines.push(format!(
                "{} is not a function of one image: of {} it said {} ({}), and {how} {} ({})",
                before.policy,
                crate::text::image(&first.judged.original),
                before.outcome(),
                before.reason(),
                after.outcome(),
                after.reason()
            ));
        }
    }
    lines
}
