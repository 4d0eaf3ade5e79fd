//! A fixture: an ImageReview whose `status` is the expected response.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::SuiteError;
use super::case::{Case, CaseId, Check, Place};
use super::expect::Expect;
use super::file::KIND;
use crate::config::yaml::{self, Location};
use crate::config::{API_VERSION, ConfigError, HostLimits};
use crate::evaluate::Facts;
use crate::fs::{self, FileError};
use crate::limits;
use crate::review::{Refusal, Review, ReviewError, image_review};
use crate::text;

/// Advice for a file that is no case.
const NO_CASE: &str = "move it to a folder without suites, or let its name begin with `.`";

/// Advice for a file that is not a fixture.
const ONE_REVIEW: &str = "a fixture is one ImageReview with the `status` that you expect; a suite file \
    judges other manifests with `review: FILE`";

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
    /// It has cases, and is no suite file.
    #[error(
        "it has `cases` and no `kind: {KIND}`: begin a suite file with `apiVersion: {API_VERSION}` and \
        `kind: {KIND}`"
    )]
    NoKind,
    /// It has cases, and is of another kind than a suite file.
    #[error("it has `cases` and is of kind `{0}`: write `kind: {KIND}`")]
    OtherKind(String),
    /// It is a report of `host test`.
    #[error("it is a report of `host test --format json`: {NO_CASE}")]
    Report,
    /// It is something else than a Kubernetes object.
    #[error("it is no Kubernetes object, which has a `kind`: {NO_CASE}; {ONE_REVIEW}")]
    NoObject,
    /// It is a WebAssembly module.
    #[error(
        "it is WebAssembly, and `host test` takes suites, fixtures and folders of them: test the policy by \
         `host test --policy {0} FOLDER`, or name it as `module` in a suite file"
    )]
    Module(String),
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

/// The response that a fixture expects.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expected {
    allowed: bool,
    reason: Option<String>,
    #[serde(default)]
    audit_annotations: BTreeMap<String, String>,
}

/// Reads the bytes of a file of a suite.
///
/// # Errors
/// Returns an error if the file cannot be read, is too large, or is a WebAssembly module.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, SuiteError> {
    let module = || no_fixture(path, FixtureError::Module(text::path(path)));
    let is_named_so = path.extension().is_some_and(|extension| extension == "wasm");
    match fs::read(path, limits::FIXTURE.default) {
        Ok(bytes) if bytes.starts_with(WEBASSEMBLY) => Err(module()),
        Ok(bytes) => Ok(bytes),
        Err(FileError::TooLarge(..)) if is_named_so => Err(module()),
        Err(FileError::TooLarge(size, most)) => Err(no_fixture(path, FixtureError::TooLarge(size, most))),
        Err(error) => Err(SuiteError::Read { path: path.to_owned(), error: error.into() }),
    }
}

/// First bytes of a module, and of a component.
const WEBASSEMBLY: &[u8] = b"\0asm";

pub(super) fn no_fixture(path: &Path, problem: FixtureError) -> SuiteError {
    SuiteError::Fixture { path: path.to_owned(), problem }
}

/// Returns whether a file is JSON by its name.
pub(super) fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

impl Case {
    /// Reads a fixture.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is no ImageReview, or has no expected `status`.
    pub fn read(path: &Path, limits: &HostLimits) -> Result<Case, SuiteError> {
        Case::of_fixture(path, &bytes(path)?, limits, false)
    }

    /// Reads a fixture from its bytes. For an update its `status` may be missing.
    ///
    /// # Errors
    /// Returns an error if it is no ImageReview, or has no expected `status`.
    pub(super) fn of_fixture(
        path: &Path,
        bytes: &[u8],
        limits: &HostLimits,
        is_update: bool,
    ) -> Result<Case, SuiteError> {
        // A JSON fixture is parsed byte by byte as by the server, with all its irregularities.
        let json = if is_json(path) {
            bytes.to_vec()
        } else {
            document(path, bytes)?.value.to_string().into_bytes()
        };
        let parsed = parse(&json, limits).and_then(|(review, status)| match status {
            Status::Written(Expected { allowed, reason, audit_annotations }) => {
                Ok((review, Expect::of_status(allowed, reason, audit_annotations)))
            }
            Status::Missing { is_empty } if is_update => Ok((review, Expect::blank_status(is_empty))),
            Status::Missing { .. } => Err(FixtureError::NoStatus),
        });
        let (review, expect) = parsed.map_err(|problem| no_fixture(path, problem))?;
        Ok(Case {
            id: CaseId::of_fixture(path),
            place: Place { path: path.to_owned(), at: Location::default() },
            subject: 0,
            check: Check::Verdict {
                review,
                facts: Facts::default(),
                only: None,
                expect,
                pointer: "/status".to_owned(),
            },
        })
    }
}

/// Parses a file with one document.
pub(super) fn document(path: &Path, bytes: &[u8]) -> Result<yaml::Document, SuiteError> {
    yaml::Document::parse(bytes).map_err(|error| {
        let documents = yaml::documents(bytes)
            .filter(|parsed| parsed.as_ref().is_ok_and(|document| !document.value.is_null()));
        match documents.take(2).count() {
            2 => no_fixture(path, FixtureError::Documents),
            _ => SuiteError::Invalid(ConfigError::invalid(path, bytes, error.problems)),
        }
    })
}

/// Returns the error of a file that is no ImageReview, by the keys that tell its kind.
fn other(json: &[u8], problem: String) -> FixtureError {
    let value = match serde_json::from_slice::<Value>(json) {
        Ok(value) => value,
        Err(_) if json.trim_ascii().is_empty() => return FixtureError::NotAnImageReview(problem),
        Err(error) => return FixtureError::NotAnImageReview(format!("this is no JSON: {error}")),
    };
    let has = |keys: &[&str]| keys.iter().all(|key| value.get(key).is_some());
    match value.get("kind").and_then(Value::as_str) {
        None if has(&["cases"]) => FixtureError::NoKind,
        Some(kind) if has(&["cases"]) => FixtureError::OtherKind(text::escape_and_truncate(kind, 64)),
        Some(_) => FixtureError::NotAnImageReview(problem),
        None if has(&["passed", "failed", "filtered", "suites"]) => FixtureError::Report,
        None => FixtureError::NoObject,
    }
}

/// The `status` of a fixture.
enum Status {
    Written(Expected),
    Missing {
        /// The key is there, without a value.
        is_empty: bool,
    },
}

/// Reads the review of a fixture, or the reason for which the server denies it, and the expected response.
fn parse(json: &[u8], limits: &HostLimits) -> Result<(Result<Review, Refusal>, Status), FixtureError> {
    if json.starts_with("\u{feff}".as_bytes()) {
        return Err(FixtureError::ByteOrderMark);
    }
    let review = match image_review::parse(json, limits) {
        Ok(review) => Ok(review),
        Err(ReviewError::Refused(refusal)) => Err(refusal),
        Err(ReviewError::NotAnImageReview(problem)) => return Err(other(json, problem)),
    };
    // Parsing goes through a value: a line and column of JSON that was made from YAML would mislead.
    let fixture: Value = serde_json::from_slice(json).map_err(FixtureError::Json)?;
    let status = match fixture.get("status") {
        Some(status) => Option::<Expected>::deserialize(status).map_err(FixtureError::Status)?,
        None => return Ok((review, Status::Missing { is_empty: false })),
    };
    Ok((review, status.map_or(Status::Missing { is_empty: true }, Status::Written)))
}
