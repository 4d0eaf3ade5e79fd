//! The one document that tells how a host is: for `/status`, the control socket and `host status`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{FailurePolicy, Mode, PolicyName};
use crate::dispatch::Pace;
use crate::generation::Publication;
use crate::policy::{Entry, Policy, PolicyReader, Seen};
use crate::reload::{Problem, StandingReader};
use crate::state::{CandidateSummary, Summary};

/// How a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation in force.
    pub generation: Generation,
    /// Of the whole host.
    pub mode: Mode,
    /// Something is not as configured, or a policy fails.
    pub degraded: bool,
    /// The policies in force, in order.
    pub policies: Vec<PolicyStatus>,
    /// What is not as configured.
    pub problems: Vec<Problem>,
    /// A candidate that is not put in force.
    pub candidate: Option<CandidateSummary>,
    /// The generations that there were, oldest first; the last one is in force.
    pub history: Vec<Summary>,
}

/// The generation in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Its number, when and why it came.
    #[serde(flatten)]
    pub publication: Publication,
    /// Of its content.
    pub digest: String,
    /// Whether it stays in force whatever files change.
    pub pinned: bool,
}

/// A policy in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Its name.
    pub name: PolicyName,
    /// Whether it takes part in the verdict.
    pub mode: Mode,
    /// What its malfunction counts as.
    pub failure_policy: FailurePolicy,
    /// Of its component; none where none could be loaded.
    pub digest: Option<String>,
    /// Why none could be loaded.
    pub error: Option<String>,
    /// How it fails, when it gives no answers any more.
    pub failing: Option<String>,
    /// What it has done.
    pub record: Option<Value>,
}

impl Status {
    /// How it is now.
    pub fn now(policies: &PolicyReader, standing: &StandingReader) -> Status {
        let (set, standing) = (policies.current(), standing.current());
        let policies: Vec<_> = set.policies.iter().map(PolicyStatus::of).collect();
        let generation = Generation {
            publication: set.publication().clone(),
            digest: set.digest().to_owned(),
            pinned: standing.pinned,
        };
        Status {
            generation,
            mode: set.rules.mode,
            degraded: !standing.problems.is_empty() || policies.iter().any(|policy| policy.failing.is_some()),
            policies,
            problems: standing.problems.clone(),
            candidate: standing.candidate.clone(),
            history: standing.history.clone(),
        }
    }
}

impl PolicyStatus {
    /// How a policy of the set in force is.
    pub fn of(entry: &Entry) -> PolicyStatus {
        let loaded = entry.loaded.as_ref();
        PolicyStatus {
            name: entry.name.clone(),
            mode: entry.mode,
            failure_policy: entry.failure_policy,
            digest: loaded.ok().map(|policy| policy.digest().to_owned()),
            error: loaded.err().cloned(),
            failing: loaded.ok().and_then(|policy| failing(&policy.record().seen())),
            record: loaded.ok().map(|policy| record(policy)),
        }
    }
}

/// Malfunctions without an answer between them from which on a policy is told to be failing: one or two may be of the
/// machine.
const FAILING: u64 = 3;

/// How a policy fails that gives no answers any more.
fn failing(seen: &Seen) -> Option<String> {
    let (_, last) = seen.last.as_ref().filter(|_| seen.in_a_row >= FAILING)?;
    Some(format!("{} malfunctions in a row, the last one: {last}", seen.in_a_row))
}

/// What a policy has done.
fn record(policy: &Policy) -> Value {
    let seen = policy.record().seen();
    let time = |at: &SystemTime| humantime::format_rfc3339_seconds(*at).to_string();
    let malfunctions: BTreeMap<_, _> = seen
        .malfunctions
        .iter()
        .filter_map(|(kind, count)| Some((json!(kind).as_str()?.to_owned(), json!(count))))
        .collect();
    json!({
        "pace": Pace::of(seen.expected),
        "microsecondsAnImage": seen.expected.as_micros(),
        "snapshot": match policy.snapshot() {
            None => "being taken",
            Some(Ok(())) => "in use",
            Some(Err(why)) => why,
        },
        "evaluations": seen.evaluations,
        "malfunctions": malfunctions,
        "malfunctionsInARow": seen.in_a_row,
        "lastMalfunction": seen.last.as_ref().map(|(at, message)| json!({ "at": time(at), "message": message })),
    })
}
