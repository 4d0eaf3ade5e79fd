//! The status document of a host, for `/status`, the control socket and `host status`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{FailurePolicy, Mode, PolicyName};
use crate::evaluate::lanes::Pace;
use crate::policy::manifest::Publication;
use crate::policy::{Entry, Policy, PolicyReader, PolicySet, StatsSnapshot};
use crate::problem::Problem;
use crate::reload::history::{CandidateSummary, Summary};
use crate::reload::{Started, StatusReader};
use crate::review::verdict::{Level, MalfunctionKind};
use crate::serve::rejections::Rejections;
use crate::telemetry::decision_log::DecisionLog;
use crate::telemetry::timestamp;
use crate::tls::{Certificate, Nearness, Role, TlsReader};

/// The status of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation in force.
    pub generation: Generation,
    /// The mode of the host.
    pub mode: Mode,
    /// Whether something is not as configured, clients repeatedly send requests that are no ImageReview, a
    /// policy fails, a certificate is not valid or expires within a week, or the decision log cannot be
    /// written.
    pub degraded: bool,
    /// Whether the host is shutting down: it accepts no new connections, and exits when the pending reviews
    /// have their responses.
    pub draining: bool,
    /// The policies in force, in order.
    pub policies: Vec<PolicyStatus>,
    /// The problems of the host.
    pub problems: Vec<Problem>,
    /// Probable mistakes in the configuration: the warnings of the set, and the lines that policies logged
    /// with level `warn` or `error` while they were configured.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The certificates in force, the first to expire first.
    pub certificates: Vec<CertificateStatus>,
    /// The decision log, if configured.
    pub decision_log: Option<DecisionLogStatus>,
    /// The candidate that is not in force, if any.
    pub candidate: Option<CandidateSummary>,
    /// The generations so far, oldest first. The last generation is in force.
    pub history: Vec<Summary>,
}

/// The generation in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// The generation's number, and the time and reason of its publication.
    #[serde(flatten)]
    pub publication: Publication,
    /// The digest of the generation's content.
    pub digest: String,
    /// Whether the generation stays in force even if files change.
    pub pinned: bool,
}

/// A policy in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The policy's name.
    pub name: PolicyName,
    /// Whether the policy takes part in the verdict.
    pub mode: Mode,
    /// The decision that counts for a malfunction.
    pub failure_policy: FailurePolicy,
    /// The digest of the component. None if the component could not be loaded.
    pub digest: Option<String>,
    /// The reason why the component could not be loaded.
    pub error: Option<String>,
    /// A description of the failure, if the policy now only malfunctions.
    pub failing: Option<String>,
    /// The counts and times of the policy's evaluations.
    pub record: Option<PolicyRecord>,
}

/// The counts and times of a policy's evaluations. The keys are in alphabetical order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRecord {
    /// Number of evaluations, each of one image.
    pub evaluations: u64,
    /// The last malfunction, if any.
    pub last_malfunction: Option<LastMalfunction>,
    /// Number of malfunctions, without the kinds that did not occur.
    pub malfunctions: BTreeMap<MalfunctionKind, u64>,
    /// Number of malfunctions since the last success.
    #[serde(rename = "malfunctionsInARow")]
    pub in_a_row: u64,
    /// Expected time of an image.
    #[serde(rename = "microsecondsAnImage")]
    pub microseconds: u64,
    /// The pace that follows from the expected time.
    pub pace: Pace,
    /// `in use`, `being taken`, or the reason why there is no snapshot.
    pub snapshot: String,
}

/// The last malfunction of a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastMalfunction {
    /// Its time.
    #[serde(with = "timestamp")]
    pub at: SystemTime,
    /// A description.
    pub message: String,
}

/// A certificate in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The role of the certificate.
    pub role: Role,
    /// The file of the certificate.
    pub file: PathBuf,
    /// The subject of the certificate.
    pub subject: String,
    /// The end of the certificate's validity.
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Whether the certificate has expired.
    pub expired: bool,
    /// Whether the certificate's validity has not begun.
    #[serde(default)]
    pub not_yet_valid: bool,
    /// A notice that the certificate is not valid or expires soon.
    pub notice: Option<String>,
}

/// The decision log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionLogStatus {
    /// The folder of the log files.
    pub directory: PathBuf,
    /// Number of lines written to the files since the process started.
    pub written: u64,
    /// Number of reviews dropped because the queue was full.
    pub dropped: u64,
    /// Number of lines that could not be written.
    pub failed: u64,
    /// Number of reviews that wait to be written.
    pub waiting: usize,
    /// The reason why nothing can be written now, if so.
    pub trouble: Option<String>,
}

/// The sources of a status.
#[derive(Clone)]
pub struct Sources {
    /// Reader of the policy set in force.
    pub policies: PolicyReader,
    /// Reader of the state of the reload.
    pub reload_status: StatusReader,
    /// Reader of the TLS material in force.
    pub tls: TlsReader,
    /// The decision log.
    pub decision_log: DecisionLog,
    /// Whether the host drains.
    pub drain: Drain,
    /// The recent requests that were no ImageReview.
    pub rejections: Arc<Rejections>,
}

/// A shared flag: whether the host drains.
#[derive(Clone, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    /// Records that the host drains.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether the host drains.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Sources {
    /// Returns the sources for the host that was started.
    pub fn of(started: &Started) -> Sources {
        Sources {
            policies: started.policies.clone(),
            reload_status: started.status.clone(),
            tls: started.tls.clone(),
            decision_log: started.decision_log.clone(),
            drain: Drain::default(),
            rejections: Arc::default(),
        }
    }

    /// Returns the current problems: those of the reload, and repeated requests that are no ImageReview.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.reload_status.problems();
        problems.extend(self.rejections.problem());
        problems
    }
}

/// Nearness of its expiry at which a certificate needs attention.
const SOON: Nearness = Nearness::Within(7);

impl Status {
    /// Returns the status at time `now`.
    pub fn at(now: SystemTime, sources: &Sources) -> Status {
        let (set, reload) = (sources.policies.current(), sources.reload_status.current());
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
            pinned: reload.pinned,
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
            candidate: reload.candidate.clone(),
            history: reload.history.clone(),
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
    /// Returns the status of a policy of the set in force.
    pub fn of(entry: &Entry) -> PolicyStatus {
        let loaded = entry.loaded.as_ref();
        PolicyStatus {
            name: entry.name.clone(),
            mode: entry.placement.mode,
            failure_policy: entry.placement.failure_policy,
            digest: loaded.ok().map(|policy| policy.digest().to_owned()),
            error: loaded.err().map(ToString::to_string),
            failing: loaded.ok().and_then(|policy| failing(&policy.stats().snapshot())),
            record: loaded.ok().map(|policy| PolicyRecord::of(policy)),
        }
    }
}

/// Returns probable mistakes in the configuration of a set, a line each: the set's own warnings, and the
/// lines that its policies logged with level `warn` or `error` while they were configured.
pub(crate) fn warnings(set: &PolicySet) -> impl Iterator<Item = String> + '_ {
    let of_policies = set.policies.iter().flat_map(|entry| {
        let lines = entry.loaded.iter().flat_map(|policy| policy.load_log());
        let lines = lines.filter(|line| line.level >= Level::Warn);
        lines.map(|line| format!("policy {}: {}", entry.name, line.message))
    });
    set.warnings().iter().cloned().chain(of_policies)
}

/// Number of malfunctions in a row at which a policy counts as failing. The machine may cause one or two.
const FAILING: u64 = 3;

/// Describes the failure of a policy. Returns None unless its last `FAILING` evaluations were malfunctions.
pub(crate) fn failing(seen: &StatsSnapshot) -> Option<String> {
    let (_, last) = seen.last.as_ref().filter(|_| seen.in_a_row >= FAILING)?;
    Some(format!("{} malfunctions in a row, the last one: {last}", seen.in_a_row))
}

impl PolicyRecord {
    fn of(policy: &Policy) -> PolicyRecord {
        let seen = policy.stats().snapshot();
        PolicyRecord {
            evaluations: seen.evaluations,
            last_malfunction: seen.last.map(|(at, message)| LastMalfunction { at, message }),
            malfunctions: seen.malfunctions.into_iter().collect(),
            in_a_row: seen.in_a_row,
            microseconds: u64::try_from(seen.expected.as_micros()).unwrap_or(u64::MAX),
            pace: Pace::of(seen.expected),
            snapshot: match policy.snapshot() {
                None => "being taken".to_owned(),
                Some(Ok(())) => "in use".to_owned(),
                Some(Err(why)) => why.to_string(),
            },
        }
    }
}
