//! Decisions and how they become one verdict: deny overrides. Pure.

mod annotations;
mod disposition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::disposition::{DecidedBy, Disposition};
use crate::config::{FailurePolicy, Mode, Rules, Unjudged};
use crate::image::Image;
use crate::limits;
use crate::text;

/// What one policy decided of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its rule applies and is satisfied.
    Allow,
    /// Its rule applies and is violated.
    Deny,
    /// Its rule does not apply.
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

/// The answer of one policy for one image, within the contract's bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Allow, deny or abstain.
    pub outcome: Outcome,
    /// Kebab-case, at most 63 bytes.
    pub code: String,
    /// One line, escaped.
    pub reason: String,
    /// Key and value as the policy gave them, cleaned.
    pub audit_annotations: Vec<(String, String)>,
    /// Lines for the client.
    pub warnings: Vec<String>,
}

/// Why a policy gave no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malfunction {
    /// No version of it could be loaded.
    #[error("the policy is not loaded: {0}")]
    NotLoaded(String),
    /// A call took longer than its limit.
    #[error("{}", limits::DEADLINE.says_of(*.0))]
    Deadline(Duration),
    /// The review's budget was used up before it could be asked.
    #[error("it was not asked: the review's budget of {} was used up", humantime::format_duration(*.0))]
    Budget(Duration),
    /// It is in mode audit, and others were waiting.
    #[error(
        "it was not asked: policies in mode audit are asked only while that keeps no other review waiting"
    )]
    LeftOut,
    /// It asked for more memory than its limit, in bytes.
    #[error("{}", limits::MEMORY.says("", *.0))]
    Memory(u64),
    /// Its answer, or one line for its log, is larger than the limit, in bytes.
    #[error("{}", limits::RESULT.says("", *.0))]
    Result(u64),
    /// It trapped, or its answer breaks the component model's rules.
    #[error("it failed: {0}")]
    Trap(String),
    /// It answered with an error of its own.
    #[error("it reported: {0}")]
    Reported(String),
    /// Its answer breaks the contract.
    #[error("its answer breaks the contract: {0}")]
    Contract(String),
}

/// Whether two judgements of one image by one policy are the same. The words of a malfunction may hold addresses, which
/// are others in another instance.
pub fn agree(one: &Result<Decision, Malfunction>, other: &Result<Decision, Malfunction>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.kind() == other.kind(),
        _ => false,
    }
}

/// What kind of malfunction it is: what counts are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MalfunctionKind {
    /// No version of it could be loaded.
    NotLoaded,
    /// A call took too long.
    Deadline,
    /// The review's budget was used up.
    Budget,
    /// It was not asked, to keep nobody waiting.
    LeftOut,
    /// It asked for too much memory.
    Memory,
    /// It said too much.
    Result,
    /// It trapped.
    Trap,
    /// It answered with an error.
    Reported,
    /// Its answer breaks the contract.
    Contract,
}

impl MalfunctionKind {
    /// All kinds, in order.
    pub const ALL: [MalfunctionKind; 9] = {
        use MalfunctionKind::*;
        [NotLoaded, Deadline, Budget, LeftOut, Memory, Result, Trap, Reported, Contract]
    };
}

impl Malfunction {
    /// Its kind.
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

/// What one policy said of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The policy's name.
    pub policy: String,
    /// Whether it takes part in the verdict.
    pub mode: Mode,
    /// What its malfunction counts as.
    pub failure_policy: FailurePolicy,
    /// The message of its entry in host.yaml, escaped.
    pub message: Option<Arc<str>>,
    /// The decision, or why there is none.
    pub judgement: Result<Decision, Malfunction>,
    /// What it wrote to its log while it was asked, escaped and within its bounds.
    pub log: Vec<LogLine>,
}

/// One line of a policy's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its weight.
    pub level: Level,
    /// Its text, escaped.
    pub message: String,
}

/// The weight of a log line, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For the policy's author.
    Debug,
    /// For the record.
    Info,
    /// Something to look at.
    Warn,
    /// Something is wrong.
    Error,
}

impl Said {
    /// What this counts as, once `failurePolicy` has been applied to a malfunction.
    pub fn outcome(&self) -> Outcome {
        match (&self.judgement, self.failure_policy) {
            (Ok(decision), _) => decision.outcome,
            (Err(_), FailurePolicy::Fail) => Outcome::Deny,
            (Err(_), FailurePolicy::Ignore) => Outcome::Abstain,
        }
    }

    /// In one line, why it said so.
    pub fn reason(&self) -> String {
        match &self.judgement {
            Ok(decision) if decision.reason.is_empty() => decision.code.clone(),
            Ok(decision) => decision.reason.clone(),
            Err(malfunction) => text::printable(&malfunction.to_string()),
        }
    }

    /// Returns the message of the policy's entry if the policy denies.
    pub fn message_of_denial(&self) -> Option<&str> {
        self.message.as_deref().filter(|_| self.outcome() == Outcome::Deny)
    }

    /// Returns the reason with the policy's name and the message of its entry, for people. The reason is cut, and the message
    /// is whole.
    fn line(&self) -> String {
        let message = self.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
        let room = limits::REASON_PART.size().saturating_sub(message.len());
        format!("{} (policy {}){message}", text::cut(&self.reason(), room), self.policy)
    }
}

/// All that is known of one distinct image of a review before the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The reference as the pod spells it.
    pub original: String,
    /// Its fields, or the parse error.
    pub image: Result<Image, String>,
    /// What each policy that applies said, in the order of the policy set. Empty where the image did not parse.
    pub said: Vec<Said>,
    /// The review's budget was used up before every policy had spoken.
    pub exhausted: Option<Duration>,
}

/// One image's part of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVerdict {
    /// The decisions that the verdict was made from.
    pub judged: Judged,
    /// Whether this image may run, before the host's `mode` is applied.
    pub allowed: bool,
    /// The basis of that.
    pub decided_by: DecidedBy,
    /// The review's namespace, escaped and cut.
    namespace: Arc<str>,
}

/// All decisions of a review together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The result, with its basis.
    pub disposition: Disposition,
    /// Why the review is denied, or would be in mode `enforce`. Empty if it is allowed.
    pub reason: String,
    /// The generation that judged it.
    pub generation: String,
    /// Each distinct image, in the order of the review.
    pub images: Vec<ImageVerdict>,
}

impl Verdict {
    /// Combines the decisions of policies under `rules`.
    pub fn combine(rules: &Rules, namespace: &str, generation: &str, images: Vec<Judged>) -> Verdict {
        let exempt = rules.exempt_namespaces.matches(namespace);
        let shown: Arc<str> = text::shown(namespace, limits::NAMESPACE.size()).into();
        let images: Vec<_> = images
            .into_iter()
            .map(|judged| {
                let (allowed, decided_by) = decide(rules, exempt, &judged);
                ImageVerdict { judged, allowed, decided_by, namespace: Arc::clone(&shown) }
            })
            .collect();
        let denied = || images.iter().filter(|image| !image.allowed);
        let least_judged = denied().map(|image| image.decided_by).max();
        let reasons = denied().map(ImageVerdict::count).sum();
        let reason =
            annotations::join(denied().flat_map(ImageVerdict::named), reasons, limits::REASON.size());
        let disposition = match (least_judged, rules.mode) {
            (Some(by), Mode::Enforce) => Disposition::Denied(by),
            (Some(by), Mode::Audit) => Disposition::WouldDeny(by),
            (None, _) => {
                // A review without images has nothing to be judged.
                let by = images.iter().map(|image| image.decided_by).max().unwrap_or(DecidedBy::Policies);
                Disposition::Allowed(by)
            }
        };
        Verdict { disposition, reason, generation: generation.to_owned(), images }
    }

    /// Returns a denial of the review as a whole, for a `reason` that no policy gave: a limit, or a malformed ImageReview.
    pub fn refuse(rules: &Rules, generation: &str, reason: &str) -> Verdict {
        Verdict {
            disposition: match rules.mode {
                Mode::Enforce => Disposition::Refused,
                Mode::Audit => Disposition::WouldDeny(DecidedBy::Request),
            },
            reason: text::shown(reason, limits::REASON.size()),
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

    /// Returns all audit annotations: keys without `/`, at most 63 bytes. Those of the host have no `.`.
    pub fn audit_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.policy_annotations();
        annotations.insert("generation".to_owned(), self.generation.clone());
        annotations.insert("decided-by".to_owned(), self.disposition.decided_by().to_string());
        if let Some(reason) = self.would_deny() {
            annotations.insert("would-deny".to_owned(), reason.to_owned());
        }
        annotations
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
        // A malfunction that would deny under `Fail`.
        _ if allowed && failed => (true, DecidedBy::FailurePolicy),
        _ if allowed => (true, DecidedBy::Policies),
        _ if audit_only => (true, DecidedBy::AuditOnly),
        Unjudged::Allow if failed => (true, DecidedBy::FailurePolicy),
        Unjudged::Allow => (true, DecidedBy::Unjudged),
        Unjudged::Deny => (false, DecidedBy::Unjudged),
    }
}

impl ImageVerdict {
    /// Returns why the image is denied, an item for each denial (`reason (policy NAME)`), or in one item why it is allowed.
    /// Each is made when it is taken.
    pub fn because(&self) -> Box<dyn Iterator<Item = String> + '_> {
        let Judged { image, said, exhausted, .. } = &self.judged;
        let namespace = &self.namespace;
        let one = |text: String| -> Box<dyn Iterator<Item = String>> { Box::new(std::iter::once(text)) };
        match (self.decided_by, image, exhausted) {
            (DecidedBy::Exempt, ..) => one(format!("namespace {namespace} is exempt (exempt.namespaces)")),
            (_, Err(error), _) => one(format!("not an image reference: {error}")),
            (_, _, Some(budget)) => one(limits::REVIEW_DEADLINE.says_of(*budget)),
            (DecidedBy::AuditOnly, ..) => {
                let policies = said.iter().map(|said| said.policy.clone());
                let policies = annotations::join(policies, said.len(), limits::REASON_PART.size());
                one(format!(
                    "only policies in mode audit apply in namespace {namespace} ({policies}), and audit denies nothing"
                ))
            }
            _ if !self.allowed && self.decided_by != DecidedBy::Unjudged => {
                Box::new(in_force(said, Outcome::Deny).map(Said::line))
            }
            _ => match in_force(said, Outcome::Allow).next() {
                Some(allow) => one(allow.line()),
                None => one(self.unjudged()),
            },
        }
    }

    /// Returns the number of items of [`ImageVerdict::because`].
    fn count(&self) -> usize {
        match self.decided_by {
            DecidedBy::Policies | DecidedBy::FailurePolicy if !self.allowed => {
                in_force(&self.judged.said, Outcome::Deny).count()
            }
            _ => 1,
        }
    }

    /// Returns why, in one line within the bound of a reason.
    pub fn reason(&self) -> String {
        annotations::join(self.because(), self.count(), limits::REASON.size())
    }

    fn named(&self) -> impl Iterator<Item = String> + '_ {
        let name = text::image(&self.judged.original);
        self.because().map(move |because| format!("{name}: {because}"))
    }

    fn unjudged(&self) -> String {
        let namespace = &self.namespace;
        let failed =
            self.judged.said.iter().find(|said| said.mode == Mode::Enforce && said.judgement.is_err());
        let failed = failed.map_or(String::new(), |said| {
            format!(
                "; {} malfunctioned and its failurePolicy is Ignore: {}",
                said.policy,
                text::cut(&said.reason(), limits::REASON_PART.size())
            )
        });
        let rule = match self.allowed {
            true => "unjudged: Allow",
            false => "in host.yaml, `unjudged` and `exempt.namespaces` decide what happens then",
        };
        format!("no policy judged it in namespace {namespace}{failed} ({rule})")
    }
}

fn in_force(said: &[Said], outcome: Outcome) -> impl Iterator<Item = &Said> {
    said.iter().filter(move |said| said.mode == Mode::Enforce && said.outcome() == outcome)
}
