//! Decisions of policies, and their combination into one verdict: deny overrides. Pure.

pub(crate) mod annotations;
mod disposition;
mod reason;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::disposition::{DecidedBy, Disposition};
pub(crate) use self::reason::join;
use crate::config::{FailurePolicy, Mode, Rules, Unjudged};
use crate::image::{Image, ImageError};
use crate::limits;
use crate::text;

/// The outcome of one policy for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The policy's rule applies and is satisfied.
    Allow,
    /// The policy's rule applies and is violated.
    Deny,
    /// The policy's rule does not apply.
    Abstain,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
            Outcome::Abstain => "abstain",
        })
    }
}

/// The decision of one policy for one image, within the contract's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Allow, deny or abstain.
    pub outcome: Outcome,
    /// Kebab-case, at most 63 bytes.
    pub code: String,
    /// One line, escaped.
    pub reason: String,
    /// Keys and values from the policy, cleaned.
    pub audit_annotations: Vec<(String, String)>,
    /// Lines for the client.
    pub warnings: Vec<String>,
}

impl Decision {
    /// Returns whether a text can be the code of a decision.
    pub fn is_code(text: &str) -> bool {
        let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=limits::CODE.size()).contains(&text.len()) && text.chars().all(is_kebab)
    }
}

/// The reason why a policy gave no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malfunction {
    /// No version of the policy could be loaded.
    #[error("the policy is not loaded: {0}")]
    NotLoaded(String),
    /// A call exceeded its time limit.
    #[error("{}", limits::DEADLINE.says_of(*.0))]
    Deadline(Duration),
    /// The review's budget was used up before the policy ran.
    #[error("it was not asked: the review's budget of {} was used up", humantime::format_duration(*.0))]
    Budget(Duration),
    /// The policy is in mode audit, and other reviews were waiting.
    #[error(
        "it was not asked: policies in mode audit are asked only while that keeps no other review waiting"
    )]
    LeftOut,
    /// The policy needed more memory than its limit, in bytes.
    #[error("{}", limits::MEMORY.says("", *.0))]
    Memory(u64),
    /// A result of the policy, or one of its log lines, exceeds the limit, in bytes.
    #[error("{}", limits::RESULT.says("", *.0))]
    Result(u64),
    /// The policy trapped, or its result breaks the component model's rules.
    #[error("it failed: {0}")]
    Trap(String),
    /// The policy returned an error of its own.
    #[error("it reported: {0}")]
    Reported(String),
    /// The policy's result breaks the contract.
    #[error("its answer breaks the contract: {0}")]
    Contract(String),
}

/// Returns whether two results of one policy for one image are the same. Of malfunctions only the kind
/// counts: their messages may hold addresses, which differ from instance to instance.
pub fn agree(one: &Result<Decision, Malfunction>, other: &Result<Decision, Malfunction>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.kind() == other.kind(),
        _ => false,
    }
}

/// The kind of a malfunction, by which malfunctions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MalfunctionKind {
    /// No version of the policy could be loaded.
    NotLoaded,
    /// A call exceeded its time limit.
    Deadline,
    /// The review's budget was used up.
    Budget,
    /// The policy did not run, so that no other review waits.
    LeftOut,
    /// The policy needed too much memory.
    Memory,
    /// A result or a log line was too large.
    Result,
    /// The policy trapped.
    Trap,
    /// The policy returned an error.
    Reported,
    /// The policy's result breaks the contract.
    Contract,
}

impl MalfunctionKind {
    /// All kinds, in order.
    pub const ALL: [MalfunctionKind; 9] = {
        use MalfunctionKind::*;
        [NotLoaded, Deadline, Budget, LeftOut, Memory, Result, Trap, Reported, Contract]
    };

    /// Returns whether a lack of time is the reason.
    pub fn is_lack_of_time(self) -> bool {
        matches!(self, MalfunctionKind::Deadline | MalfunctionKind::Budget | MalfunctionKind::LeftOut)
    }
}

impl Malfunction {
    /// Returns the kind.
    pub fn kind(&self) -> MalfunctionKind {
        match self {
            Malfunction::NotLoaded(_) => MalfunctionKind::NotLoaded,
            Malfunction::Deadline(_) => MalfunctionKind::Deadline,
            Malfunction::Budget(_) => MalfunctionKind::Budget,
            Malfunction::LeftOut => MalfunctionKind::LeftOut,
            Malfunction::Memory(_) => MalfunctionKind::Memory,
            Malfunction::Result(_) => MalfunctionKind::Result,
            Malfunction::Trap(_) => MalfunctionKind::Trap,
            Malfunction::Reported(_) => MalfunctionKind::Reported,
            Malfunction::Contract(_) => MalfunctionKind::Contract,
        }
    }
}

/// The result of one policy for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The policy's name.
    pub policy: String,
    /// Whether the result takes part in the verdict.
    pub mode: Mode,
    /// The effect of a malfunction.
    pub failure_policy: FailurePolicy,
    /// The message of the policy's entry in host.yaml, escaped.
    pub message: Option<Arc<str>>,
    /// The decision, or the reason why there is none.
    pub judgement: Result<Decision, Malfunction>,
    /// The log lines of the run, escaped and within their limits.
    pub log: Vec<LogLine>,
}

/// One line of a policy's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The severity.
    pub level: Level,
    /// The text, escaped.
    pub message: String,
}

/// The severity of a log line, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For the policy's author.
    Debug,
    /// For the record.
    Info,
    /// A condition to look at.
    Warn,
    /// An error.
    Error,
}

impl Said {
    /// Returns the outcome that counts, after `failurePolicy` has been applied to a malfunction.
    pub fn outcome(&self) -> Outcome {
        match (&self.judgement, self.failure_policy) {
            (Ok(decision), _) => decision.outcome,
            (Err(_), FailurePolicy::Fail) => Outcome::Deny,
            (Err(_), FailurePolicy::Ignore) => Outcome::Abstain,
        }
    }

    /// Returns the reason of the result, on one line.
    pub fn reason(&self) -> String {
        match &self.judgement {
            Ok(decision) if decision.reason.is_empty() => decision.code.clone(),
            Ok(decision) => decision.reason.clone(),
            Err(malfunction) => text::escape(&malfunction.to_string()),
        }
    }

    /// Returns the message of the policy's entry if the policy denies.
    pub fn message_of_denial(&self) -> Option<&str> {
        self.message.as_deref().filter(|_| self.outcome() == Outcome::Deny)
    }
}

/// The reason why a reference is not judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The reference is longer than a limit of this host. Holds its length in bytes.
    #[error("{}", limits::REFERENCE.says(*.0, limits::REFERENCE.default))]
    TooLong(usize),
    /// The reference does not parse.
    #[error(transparent)]
    Parse(ImageError),
}

impl From<ImageError> for ReferenceError {
    fn from(error: ImageError) -> ReferenceError {
        match error {
            ImageError::TooLong(bytes) => ReferenceError::TooLong(bytes),
            error => ReferenceError::Parse(error),
        }
    }
}

/// One distinct image of a review and the results of its policies, before the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The reference as the pod spells it.
    pub original: String,
    /// The parsed reference, or the parse error.
    pub image: Result<Image, ReferenceError>,
    /// The result of each policy that applies, in the order of the policy set. Empty if the reference does
    /// not parse.
    pub said: Vec<Said>,
    /// The review's budget, if it was used up before every policy had run.
    pub exhausted: Option<Duration>,
}

/// The verdict on one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVerdict {
    /// The decisions that the verdict was made from.
    pub judged: Judged,
    /// Whether this image may run, before the host's `mode` is applied.
    pub allowed: bool,
    /// The basis of `allowed`.
    pub decided_by: DecidedBy,
    /// The review's namespace, escaped and cut.
    namespace: Arc<str>,
}

/// The verdict on a review, with all decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The result, with its basis.
    pub disposition: Disposition,
    /// The reason why the review is denied, or would be in mode `enforce`. Empty if the review is allowed.
    pub reason: String,
    /// The generation that judged the review.
    pub generation: String,
    /// Each distinct image, in the order of the review.
    pub images: Vec<ImageVerdict>,
}

impl Verdict {
    /// Combines the decisions of policies under `rules`.
    pub fn combine(rules: &Rules, namespace: &str, generation: &str, images: Vec<Judged>) -> Verdict {
        let exempt = rules.exempt_namespaces.matches(namespace);
        let shown: Arc<str> = text::escape_and_truncate(namespace, limits::NAMESPACE.size()).into();
        let images: Vec<_> = images
            .into_iter()
            .map(|judged| {
                let (allowed, decided_by) = decide(rules, exempt, &judged);
                ImageVerdict { judged, allowed, decided_by, namespace: Arc::clone(&shown) }
            })
            .collect();
        let denied = images.iter().filter(|image| !image.allowed);
        let least_judged = denied.clone().map(|image| image.decided_by).max();
        let reason = reason::of_denied(denied);
        let disposition = match (least_judged, rules.mode) {
            (Some(by), Mode::Enforce) => Disposition::Denied(by),
            (Some(by), Mode::Audit) => Disposition::WouldDeny(by),
            (None, _) => {
                // A review without images has no image to judge.
                let by = images.iter().map(|image| image.decided_by).max().unwrap_or(DecidedBy::Policies);
                Disposition::Allowed(by)
            }
        };
        Verdict { disposition, reason, generation: generation.to_owned(), images }
    }

    /// Returns a denial of the whole review, for a `reason` that no policy gave: an exceeded limit, or a
    /// malformed ImageReview.
    pub fn refuse(rules: &Rules, generation: &str, reason: &str) -> Verdict {
        Verdict {
            disposition: match rules.mode {
                Mode::Enforce => Disposition::Refused,
                Mode::Audit => Disposition::WouldDeny(DecidedBy::Request),
            },
            reason: text::escape_and_truncate(reason, limits::REASON.size()),
            generation: generation.to_owned(),
            images: Vec::new(),
        }
    }

    /// Returns whether the pod may run.
    pub fn allowed(&self) -> bool {
        self.disposition.allows()
    }

    /// Returns the reason of the response, which kubectl shows. Empty if the pod may run.
    pub fn answered_reason(&self) -> &str {
        if self.allowed() { "" } else { &self.reason }
    }

    /// Returns the reason of a denial that the host's mode `audit` prevents.
    pub fn would_deny(&self) -> Option<&str> {
        matches!(self.disposition, Disposition::WouldDeny(_)).then_some(self.reason.as_str())
    }

    /// Returns the audit annotations that come from policies. Each key has a `.`.
    pub fn policy_annotations(&self) -> BTreeMap<String, String> {
        annotations::of_policies(&self.images)
    }

    /// Returns all audit annotations. Keys have no `/` and at most 63 bytes, and the host's own keys have no
    /// `.`.
    pub fn audit_annotations(&self) -> BTreeMap<String, String> {
        let mut all = self.policy_annotations();
        all.insert(annotations::GENERATION.to_owned(), self.generation.clone());
        all.insert(annotations::DECIDED_BY.to_owned(), self.disposition.decided_by().to_string());
        if let Some(reason) = self.would_deny() {
            all.insert(annotations::WOULD_DENY.to_owned(), reason.to_owned());
        }
        all
    }
}

fn decide(rules: &Rules, exempt: bool, judged: &Judged) -> (bool, DecidedBy) {
    if exempt {
        (true, DecidedBy::Exempt)
    } else if judged.image.is_err() {
        (false, DecidedBy::Reference)
    } else if judged.exhausted.is_some() {
        (false, DecidedBy::Limit)
    } else {
        by_policies(rules, &judged.said)
    }
}

fn by_policies(rules: &Rules, said: &[Said]) -> (bool, DecidedBy) {
    let in_force = || said.iter().filter(|said| said.mode == Mode::Enforce);
    let any = |outcome| in_force().any(|said| said.outcome() == outcome);
    let failed = in_force().any(|said| said.judgement.is_err());
    if any(Outcome::Deny) {
        let denies = |said: &Said| said.judgement.as_ref().is_ok_and(|said| said.outcome == Outcome::Deny);
        let by = if in_force().any(denies) { DecidedBy::Policies } else { DecidedBy::FailurePolicy };
        return (false, by);
    }
    let allowed = any(Outcome::Allow);
    let audit_only = !said.is_empty() && in_force().next().is_none();
    match rules.unjudged {
        // A malfunction was ignored that denies under `Fail`.
        _ if allowed && failed => (true, DecidedBy::FailurePolicy),
        _ if allowed => (true, DecidedBy::Policies),
        _ if audit_only => (true, DecidedBy::AuditOnly),
        Unjudged::Allow if failed => (true, DecidedBy::FailurePolicy),
        Unjudged::Allow => (true, DecidedBy::Unjudged),
        Unjudged::Deny => (false, DecidedBy::Unjudged),
    }
}
