//! The record of a generation, and the summaries of generations and pending candidates.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::PolicyName;
use crate::fs::FileError;
use crate::limits;
use crate::policy::manifest::{Change, Content, PolicyContent, Publication};
use crate::review::differences::Differences;
use crate::telemetry::timestamp;

/// Reason why no generation can be read under a number.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A number that no generation can have, with the file.
    #[error("{0}: no generation has such a number, so no host wrote it: remove it")]
    NoNumber(String),
    /// A number without a record.
    #[error("generation {0} is not recorded: `host status` shows those that are")]
    NotRecorded(u64),
    /// A file that cannot be read.
    #[error("generation {0} cannot be read: {1}: {2}")]
    Unreadable(u64, String, FileError),
    /// A damaged file.
    #[error("generation {0} is of no use, its record is damaged: {1}: {2}")]
    Damaged(u64, String, Damage),
}

/// Damage of a record.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// More bytes than a record may have.
    #[error(transparent)]
    TooLarge(FileError),
    /// No record in JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The record of another generation.
    #[error("it is of another number")]
    OtherNumber,
}

/// Parses the record of a generation.
pub(super) fn parse(bytes: &[u8], number: u64) -> Result<Record, Damage> {
    if bytes.len() as u64 > limits::RECORD.default {
        return Err(Damage::TooLarge(FileError::TooLarge(bytes.len() as u64, limits::RECORD.default)));
    }
    let record: Record = serde_json::from_slice(bytes)?;
    match record.summary.publication.number == number {
        true => Ok(record),
        false => Err(Damage::OtherNumber),
    }
}

/// The part of a generation that `host status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its number, time and cause.
    #[serde(flatten)]
    pub publication: Publication,
    /// Digest of the content.
    pub digest: String,
    /// Whether the generation stays in force whatever files change.
    pub pinned: bool,
    /// Whether all its policies are loaded.
    pub whole: bool,
    /// Changes from the previous generation.
    pub changes: Vec<Change>,
    /// Differences that the gate found. None if the gate compared nothing.
    pub differences: Option<Differences>,
    /// The deviations from the configuration when the generation came into force.
    pub problems: Vec<String>,
}

/// A generation as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The summary of the generation.
    pub summary: Summary,
    /// The content of the generation.
    pub content: Content,
    /// Last good versions of those policies that are not loaded in this generation.
    pub remembered: Vec<PolicyContent>,
    /// The candidate that is held because its verdicts differ. The hold lasts until someone approves it, also
    /// across restarts.
    #[serde(default)]
    pub held: Option<CandidateSummary>,
}

impl Record {
    /// Returns the last good version of a policy.
    pub fn last_good(&self, name: &PolicyName) -> Option<&PolicyContent> {
        let mut known = self.content.policies.iter().chain(&self.remembered);
        known.find(|policy| policy.name == *name && policy.loaded.is_ok())
    }

    pub(super) fn components(&self) -> BTreeSet<String> {
        let known = self.content.policies.iter().chain(&self.remembered);
        known.filter_map(|policy| Some(policy.loaded.as_ref().ok()?.component.clone())).collect()
    }
}

/// The part of a pending candidate that `host status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateSummary {
    /// Digest of the content, the argument of `host approve`.
    pub digest: String,
    /// Start of the wait.
    #[serde(with = "timestamp")]
    pub since: SystemTime,
    /// The event that ends the wait.
    pub state: PendingReason,
    /// The reason for the wait.
    pub why: String,
    /// Changes from the generation in force.
    pub changes: Vec<Change>,
    /// Differences that the gate found. None if the gate compared nothing.
    pub differences: Option<Differences>,
}

/// The event for which a candidate waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PendingReason {
    /// `host rollback --release`.
    Pinned,
    /// `host approve DIGEST`.
    Held,
    /// A change of files, because the gate rejects the present ones.
    #[serde(rename = "refused")]
    Rejected,
}
