//! The one document that tells how a host is: for `/status`, the control socket and `host status`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{FailurePolicy, Mode, PolicyName};
use crate::evaluate::lanes::Pace;
use crate::policy::manifest::Publication;
use crate::policy::{Entry, Policy, PolicyReader, PolicySet, Seen};
use crate::reload::history::{CandidateSummary, Summary};
use crate::reload::{Problem, StandingReader, Started};
use crate::review::verdict::Level;
use crate::serve::rejections::Rejections;
use crate::telemetry::decision_log::DecisionLog;
use crate::telemetry::timestamp;
use crate::tls::{Certificate, Nearness, Role, TlsReader};

/// How a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation in force.
    pub generation: Generation,
    /// Of the whole host.
    pub mode: Mode,
    /// Something is not as configured, clients ask for what this host does not do, a policy fails, a certificate expires within a week, or the decision log cannot
    /// be written.
    pub degraded: bool,
    /// It takes no new connections, and ends when the reviews under way are answered.
    pub draining: bool,
    /// The policies in force, in order.
    pub policies: Vec<PolicyStatus>,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
    /// What an operator may not have meant, though it is as configured: of the set, and what policies wrote with the
    /// weight `warn` or `error` when they were configured.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The certificates in force, the first to expire first.
    pub certificates: Vec<CertificateStatus>,
    /// The decision log, where one is configured.
    pub decision_log: Option<DecisionLogStatus>,
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

/// A certificate in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// What for.
    pub role: Role,
    /// The file that it is in.
    pub file: PathBuf,
    /// Whose it is.
    pub subject: String,
    /// After that it is good for nothing.
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Whether that was before.
    pub expired: bool,
    /// Whether its validity has not begun.
    #[serde(default)]
    pub not_yet_valid: bool,
    /// That it is not valid, or expires soon.
    pub notice: Option<String>,
}

/// The decision log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionLogStatus {
    /// The folder of its files.
    pub directory: PathBuf,
    /// Lines that are in the files, since the process started.
    pub written: u64,
    /// Reviews that found the queue full.
    pub dropped: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// Reviews that wait to be written.
    pub waiting: usize,
    /// Why nothing can be written now.
    pub trouble: Option<String>,
}

/// What a status is read from.
#[derive(Clone)]
pub struct Sources {
    /// Reads the set in force.
    pub policies: PolicyReader,
    /// Reads where the reload stands.
    pub standing: StandingReader,
    /// Reads the TLS material in force.
    pub tls: TlsReader,
    /// The decision log.
    pub decision_log: DecisionLog,
    /// Whether it drains.
    pub drain: Drain,
    /// The requests that were no ImageReview.
    pub rejections: Arc<Rejections>,
}

/// Whether a host drains, for whoever shows it.
#[derive(Clone, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    /// From now on it does.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Sources {
    /// Of a host that was started.
    pub fn of(started: &Started) -> Sources {
        Sources {
            policies: started.policies.clone(),
            standing: started.standing.clone(),
            tls: started.tls.clone(),
            decision_log: started.decision_log.clone(),
            drain: Drain::default(),
            rejections: Arc::default(),
        }
    }

    /// Returns all that is not as it should be now: the problems of the reload, and requests that are no ImageReview.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.standing.problems();
        problems.extend(self.rejections.problem());
        problems
    }
}

/// From here on a certificate needs somebody who replaces it.
const SOON: Nearness = Nearness::Within(7);

impl Status {
    /// How it is at this time.
    pub fn at(now: SystemTime, sources: &Sources) -> Status {
        let (set, standing) = (sources.policies.current(), sources.standing.current());
        let tls = sources.tls.current();
        let soon = |certificate: &Certificate| certificate.nearness(now).is_some_and(|near| near <= SOON);
        let expiring = tls.certificates().iter().any(soon);
        let decision_log = DecisionLogStatus::of(&sources.decision_log);
        let trouble = decision_log.as_ref().is_some_and(|log| log.trouble.is_some());
        let problems = sources.problems();
        let policies: Vec<_> = set.policies.iter().map(PolicyStatus::of).collect();
        let generation = Generation {
            publication: set.publication().clone(),
            digest: set.digest().to_owned(),
            pinned: standing.pinned,
        };
        Status {
            generation,
            mode: set.rules.mode,
            draining: sources.drain.has_begun(),
            degraded: !problems.is_empty()
                || policies.iter().any(|policy| policy.failing.is_some())
                || expiring
                || trouble,
            policies,
            problems,
            warnings: warnings(&set).collect(),
            certificates: tls.certificates().iter().map(|one| CertificateStatus::of(one, now)).collect(),
            decision_log,
            candidate: standing.candidate.clone(),
            history: standing.history.clone(),
        }
    }
}

impl CertificateStatus {
    fn of(certificate: &Certificate, now: SystemTime) -> CertificateStatus {
        CertificateStatus {
            role: certificate.role,
            file: certificate.file.clone(),
            subject: certificate.subject.clone(),
            not_after: certificate.not_after,
            expired: matches!(certificate.nearness(now), Some(Nearness::Expired(_))),
            not_yet_valid: matches!(certificate.nearness(now), Some(Nearness::NotYet)),
            notice: certificate.notice(now),
        }
    }
}

impl DecisionLogStatus {
    fn of(log: &DecisionLog) -> Option<DecisionLogStatus> {
        let (config, state) = (log.config()?, log.state());
        Some(DecisionLogStatus {
            directory: config.directory.clone(),
            written: state.written,
            dropped: state.dropped,
            failed: state.failed,
            waiting: state.waiting,
            trouble: state.trouble.map(|trouble| trouble.to_string()),
        })
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

/// Returns what an operator may not have meant of a set, a line each: its own warnings, and what its policies wrote with
/// weight `warn` or `error` when they were configured.
pub(crate) fn warnings(set: &PolicySet) -> impl Iterator<Item = String> + '_ {
    let of_policies = set.policies.iter().flat_map(|entry| {
        let lines = entry.loaded.iter().flat_map(|policy| policy.load_log());
        let lines = lines.filter(|line| line.level >= Level::Warn);
        lines.map(|line| format!("policy {}: {}", entry.name, line.message))
    });
    set.warnings().iter().cloned().chain(of_policies)
}

/// Malfunctions without an answer between them from which on a policy is told to be failing: one or two may be of the
/// machine.
const FAILING: u64 = 3;

/// How a policy fails that gives no answers any more.
pub(crate) fn failing(seen: &Seen) -> Option<String> {
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
