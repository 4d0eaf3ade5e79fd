//! What is recorded of a generation, and shown of it and of what waits to take its place.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::PolicyName;
use crate::policy::manifest::{Change, Content, PolicyContent, Publication};
use crate::reload::gate::Differences;
use crate::telemetry::timestamp;

/// What is shown of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its number, when and why it came.
    #[serde(flatten)]
    pub publication: Publication,
    /// Of its content.
    pub digest: String,
    /// Whether it stays in force whatever files change.
    pub pinned: bool,
    /// Whether all its policies are loaded.
    pub whole: bool,
    /// In what it differs from the generation before it.
    pub changes: Vec<Change>,
    /// What the gate has found; none where it was not asked.
    pub differences: Option<Differences>,
    /// What was not as configured when it came.
    pub problems: Vec<String>,
}

/// A generation as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What is shown of it.
    pub summary: Summary,
    /// What it is made of.
    pub content: Content,
    /// The last good versions of policies of which it has none.
    pub remembered: Vec<PolicyContent>,
    /// The candidate that is held because it decides otherwise: until someone approves it, whatever process runs.
    #[serde(default)]
    pub held: Option<CandidateSummary>,
}

impl Record {
    /// The last good version of a policy.
    pub fn last_good(&self, name: &PolicyName) -> Option<&PolicyContent> {
        let mut known = self.content.policies.iter().chain(&self.remembered);
        known.find(|policy| policy.name == *name && policy.loaded.is_ok())
    }

    pub(super) fn components(&self) -> BTreeSet<String> {
        let known = self.content.policies.iter().chain(&self.remembered);
        known.filter_map(|policy| Some(policy.loaded.as_ref().ok()?.component.clone())).collect()
    }
}

/// What is shown of a candidate that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateSummary {
    /// Of its content: what `host approve` takes.
    pub digest: String,
    /// Since when it waits.
    #[serde(with = "timestamp")]
    pub since: SystemTime,
    /// What it waits for.
    pub state: Waits,
    /// Why.
    pub why: String,
    /// In what it differs from what is in force.
    pub changes: Vec<Change>,
    /// What the gate has found; none where it was not asked.
    pub differences: Option<Differences>,
}

/// What a candidate waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Waits {
    /// For `host rollback --release`.
    Pinned,
    /// For `host approve DIGEST`.
    Held,
    /// For other files: the gate refuses these.
    Refused,
}
