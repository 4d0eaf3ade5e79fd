//! Coverage of suites: the decisions that cases met, and the entries of settings that no case depends on.
//! Pure.
//!
//! An entry of settings is a key of a map, an item of a list, or a value. Each has changes: the settings
//! without the entry, and with another value. An entry is needed if a case fails after one of its changes, or
//! if the policy refuses all of them. A rule in the text of a policy language would be a further kind of
//! [`Change`].

mod change;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

pub use self::change::{Change, Setting, changed, changes, settings};
pub use self::report::{ConfigCoverage, Coverage, Missing, PolicyCoverage, SettingsCoverage};
use super::{CaseId, CaseReport};
use crate::review::verdict::{DecidedBy, Malfunction, Outcome, Verdict};

/// A decision without its reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Answer {
    /// `allow`, `deny`, `abstain` or `malfunction`.
    pub outcome: &'static str,
    /// The code of the decision, or the kind of the malfunction.
    pub code: String,
}

/// The decisions of a policy in a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The distinct decisions.
    pub all: BTreeSet<Answer>,
    /// Whether the policy denies an image, or its abstention leaves an image without an allowing policy.
    pub denies: bool,
}

impl Answers {
    /// Returns the decisions in a verdict, by policy.
    pub fn of(verdict: &Verdict) -> BTreeMap<String, Answers> {
        let mut answers: BTreeMap<String, Answers> = BTreeMap::new();
        for image in &verdict.images {
            for said in &image.judged.said {
                let (outcome, code) = match &said.judgement {
                    Ok(decision) => (word(decision.outcome), decision.code.clone()),
                    Err(malfunction) => ("malfunction", kind(malfunction)),
                };
                let of_policy = answers.entry(said.policy.clone()).or_default();
                let is_denied = !image.allowed && image.decided_by == DecidedBy::Unjudged;
                of_policy.denies |= outcome == DENY || (outcome == ABSTAIN && is_denied);
                of_policy.all.insert(Answer { outcome, code });
            }
        }
        answers
    }
}

const DENY: &str = "deny";
const ABSTAIN: &str = "abstain";

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => DENY,
        Outcome::Abstain => ABSTAIN,
    }
}

/// Returns the name of a malfunction's kind.
fn kind(malfunction: &Malfunction) -> String {
    json!(malfunction.kind()).as_str().unwrap_or_default().to_owned()
}

/// The decisions of the cases of a run.
#[derive(Clone, Debug, Default)]
pub struct Met(BTreeMap<CaseId, BTreeMap<String, Answers>>);

impl Met {
    /// Adds the result of a case. A case without a verdict has no decisions.
    pub fn add(&mut self, report: &CaseReport) {
        if let Some(verdict) = &report.verdict {
            self.0.insert(report.id.clone(), Answers::of(verdict));
        }
    }

    /// Returns whether a case has a verdict.
    pub fn has(&self, case: &CaseId) -> bool {
        self.0.contains_key(case)
    }

    /// Returns the decisions of a policy in a case. Returns None if the policy takes no part in the case.
    pub fn of(&self, case: &CaseId, policy: &str) -> Option<&Answers> {
        self.0.get(case)?.get(policy)
    }
}
