//! A case: a review with the expected verdict, or settings that policies must refuse.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::expect::Expect;
use super::refused::ExpectRefused;
use super::report::{CaseReport, Failed, unlike};
use crate::config::PolicyName;
use crate::config::yaml::Location;
use crate::evaluate::{Facts, Instances, Options, evaluate};
use crate::policy::PolicySet;
use crate::review::verdict::Verdict;
use crate::review::{Refusal, Review};
use crate::text;

/// The name of a case, distinct in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseId {
    /// The suite file, or the fixture.
    pub suite: PathBuf,
    /// The row of the suite's matrix.
    pub row: Option<String>,
    /// The name in the suite file. None for a fixture.
    pub name: Option<String>,
}

impl CaseId {
    /// Returns the id of a fixture.
    pub fn of_fixture(path: &Path) -> CaseId {
        CaseId { suite: path.to_owned(), row: None, name: None }
    }

    /// Returns the name within its suite, as `ROW › CASE`. A fixture has the name of its file.
    pub fn within_suite(&self) -> String {
        let parts: Vec<_> =
            [&self.row, &self.name].into_iter().flatten().map(|part| text::escape(part)).collect();
        if parts.is_empty() { text::path(&self.suite) } else { parts.join(SEPARATOR) }
    }
}

/// Text between the parts of a case's name.
const SEPARATOR: &str = " › ";

impl fmt::Display for CaseId {
    /// Writes `SUITE › ROW › CASE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::path(&self.suite))?;
        if self.name.is_some() {
            write!(f, "{SEPARATOR}{}", self.within_suite())?;
        }
        Ok(())
    }
}

/// The place of a case in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The beginning of the case. A fixture begins with its file.
    pub at: Location,
}

impl fmt::Display for Place {
    /// Writes `PATH:LINE:COLUMN`, or the path alone for the beginning of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::path(&self.path))?;
        if self.at != Location::default() {
            write!(f, ":{}", self.at)?;
        }
        Ok(())
    }
}

/// A case that was read.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub id: CaseId,
    /// Its place.
    pub place: Place,
    /// Index of the policies that judge it, among the subjects of its suite.
    pub subject: usize,
    /// The check.
    pub check: Check,
}

/// The check of a case.
#[derive(Debug)]
pub enum Check {
    /// The verdict on a review meets an expectation.
    Verdict {
        /// The review, or the reason for which the server denies it before any policy runs.
        review: Result<Review, Refusal>,
        /// The facts of the review.
        facts: Facts,
        /// The policies that take part. None: all under test.
        only: Option<Vec<PolicyName>>,
        /// The expectation.
        expect: Expect,
        /// JSON Pointer to the expectation in the file.
        pointer: String,
    },
    /// Policies refuse their settings.
    Refused(ExpectRefused),
}

impl Case {
    /// Returns the review. Returns None if the server rejects it before any policy runs, or if the case has
    /// none.
    pub fn review(&self) -> Option<&Review> {
        match &self.check {
            Check::Verdict { review, .. } => review.as_ref().ok(),
            Check::Refused(_) => None,
        }
    }

    /// Evaluates the case as the server does, and again with instances shared otherwise.
    pub fn run(&self, set: &PolicySet) -> CaseReport {
        self.run_until(set, Instant::now() + 3 * set.limits.review_deadline)
    }

    /// Runs like [`Case::run`], with one deadline for all evaluations. An evaluation that is not finished by
    /// `until` fails. A case without a review has nothing to evaluate, and fails.
    pub fn run_until(&self, set: &PolicySet, until: Instant) -> CaseReport {
        let began = Instant::now();
        let Check::Verdict { review, facts, expect, only, .. } = &self.check else {
            let why = "it has no review".to_owned();
            return self.report(vec![Failed::NotRun(why)], None, began.elapsed());
        };
        let part = only.as_ref().map(|names| part(set, names));
        let set = part.as_ref().unwrap_or(set);
        let judge = |instances| match review {
            Ok(review) => {
                let options = Options { instances, ..Options::of(set).at_latest(until) };
                evaluate(set, review, facts, &options).verdict
            }
            Err(refusal) => Verdict::refuse(&set.rules, &set.generation(), &refusal.to_string()),
        };
        let verdict = judge(Instances::Shared);
        let mut failed: Vec<_> = expect.unmet(&verdict).into_iter().map(Failed::Unmet).collect();
        for instances in [Instances::Reversed, Instances::Isolated] {
            failed.extend(unlike(&verdict, &judge(instances), instances));
        }
        self.report(failed, Some(verdict), began.elapsed())
    }

    /// Returns the report of the case.
    pub fn report(&self, failed: Vec<Failed>, verdict: Option<Verdict>, took: Duration) -> CaseReport {
        CaseReport { id: self.id.clone(), place: self.place.clone(), failed, verdict, took }
    }
}

/// Returns a set with a part of the policies.
fn part(set: &PolicySet, names: &[PolicyName]) -> PolicySet {
    let entries = set.policies.iter().filter(|entry| names.contains(&entry.name)).cloned();
    PolicySet::new(set.rules.clone(), set.limits.clone(), entries.collect())
}
