//! Decisions and how they become one verdict: deny overrides. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::config::{FailurePolicy, Mode, Rules, Unjudged};
use crate::image::Image;
use crate::text;

/// What one policy decided of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
    #[error("{}", bounds::DEADLINE.says_of(*.0))]
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
    #[error("{}", bounds::MEMORY.says("", *.0))]
    Memory(u64),
    /// Its answer, or one line for its log, is larger than the limit, in bytes.
    #[error("{}", bounds::RESULT.says("", *.0))]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    /// What the verdict was made from.
    pub judged: Judged,
    /// Whether this image may run, before the host's `mode` is applied.
    pub allowed: bool,
    /// Why not, a line for each denial (`reason (policy NAME)`), or in one line why it may.
    pub because: Vec<String>,
}

/// All decisions of a review together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the pod may run.
    pub allowed: bool,
    /// For the person kubectl answers; empty when allowed.
    pub reason: String,
    /// For the apiserver's audit log; keys without `/`, at most 63 bytes.
    pub audit_annotations: BTreeMap<String, String>,
    /// Each distinct image, in the order of the review.
    pub images: Vec<ImageVerdict>,
}

impl Verdict {
    /// Combines what the policies said under `rules`. `generation` goes into the audit annotations.
    pub fn combine(rules: &Rules, namespace: &str, generation: &str, images: Vec<Judged>) -> Verdict {
        let images: Vec<_> = images.into_iter().map(|judged| decide(rules, namespace, judged)).collect();
        let denials: Vec<String> = images
            .iter()
            .filter(|image| !image.allowed)
            .flat_map(|image| {
                let name = text::image(&image.judged.original);
                image.because.iter().map(move |because| format!("{name}: {because}"))
            })
            .collect();
        let mut annotations = annotations_of(&images);
        annotations.truncate(bounds::AUDIT_ANNOTATIONS.size());
        let allowed = images.iter().all(|image| image.allowed);
        Verdict::finish(rules, generation, allowed, &denials, annotations.into_iter().collect(), images)
    }

    /// A denial of the review as a whole, for a `reason` that no policy gave: a bound, or a malformed ImageReview.
    pub fn refuse(rules: &Rules, generation: &str, reason: &str) -> Verdict {
        Verdict::finish(rules, generation, false, &[text::printable(reason)], BTreeMap::new(), Vec::new())
    }

    fn finish(
        rules: &Rules,
        generation: &str,
        allowed: bool,
        denials: &[String],
        mut audit_annotations: BTreeMap<String, String>,
        images: Vec<ImageVerdict>,
    ) -> Verdict {
        audit_annotations.insert("generation".to_owned(), generation.to_owned());
        let reason = join(denials, bounds::REASON.size());
        if !allowed && rules.mode == Mode::Audit {
            audit_annotations.insert("would-deny".to_owned(), reason);
            return Verdict { allowed: true, reason: String::new(), audit_annotations, images };
        }
        Verdict { allowed, reason, audit_annotations, images }
    }
}

fn decide(rules: &Rules, namespace: &str, judged: Judged) -> ImageVerdict {
    let (allowed, because) = if rules.exempt_namespaces.matches(namespace) {
        (true, vec![format!("namespace {} is exempt (exempt.namespaces)", text::printable(namespace))])
    } else if let Err(error) = &judged.image {
        (false, vec![format!("not an image reference: {error}")])
    } else if let Some(budget) = judged.exhausted {
        (false, vec![bounds::REVIEW_DEADLINE.says_of(budget)])
    } else {
        by_policies(rules, namespace, &judged.said)
    };
    ImageVerdict { judged, allowed, because }
}

fn by_policies(rules: &Rules, namespace: &str, said: &[Said]) -> (bool, Vec<String>) {
    let in_force = || said.iter().filter(|said| said.mode == Mode::Enforce);
    let line = |said: &Said| {
        format!("{} (policy {})", text::cut(&said.reason(), bounds::REASON_PART.size()), said.policy)
    };
    let with = |outcome| in_force().filter(move |said| said.outcome() == outcome);

    let denials: Vec<_> = with(Outcome::Deny).map(line).collect();
    if !denials.is_empty() {
        return (false, denials);
    }
    if let Some(allow) = with(Outcome::Allow).next() {
        return (true, vec![line(allow)]);
    }
    let ignored = in_force().find(|said| said.judgement.is_err());
    let unjudged = match ignored {
        None => format!("no policy judged it in namespace {}", text::printable(namespace)),
        Some(said) => format!(
            "no policy judged it in namespace {}; {} malfunctioned and its failurePolicy is Ignore: {}",
            text::printable(namespace),
            said.policy,
            said.reason()
        ),
    };
    match rules.unjudged {
        Unjudged::Allow => (true, vec![format!("{unjudged} (unjudged: Allow)")]),
        Unjudged::Deny => (
            false,
            vec![format!(
                "{unjudged} (in host.yaml, `unjudged` and `exempt.namespaces` decide what happens then)"
            )],
        ),
    }
}

/// `parts` joined by `; `, within `bytes`; what does not fit is told as `and N more`.
fn join(parts: &[String], bytes: usize) -> String {
    let mut joined = String::new();
    for (index, part) in parts.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let left = parts.len() - index - 1;
        // Room for the words that tell of the rest, should the next part not fit.
        let reserve = if left == 0 { 0 } else { format!("; and {left} more").len() };
        if joined.len() + separator.len() + part.len() + reserve <= bytes {
            joined.push_str(separator);
            joined.push_str(part);
            continue;
        }
        if index == 0 {
            joined.push_str(&text::cut(part, bytes - reserve));
            if left > 0 {
                joined.push_str(&format!("; and {left} more"));
            }
        } else {
            joined.push_str(&format!("; and {} more", left + 1));
        }
        break;
    }
    joined
}

/// The policies' own annotations and warnings, and what policies in audit mode would have decided, as
/// `POLICY.key` with one value for all images.
fn annotations_of(images: &[ImageVerdict]) -> Vec<(String, String)> {
    let mut values: BTreeMap<String, Vec<(&str, String)>> = BTreeMap::new();
    for image in images {
        let original = image.judged.original.as_str();
        for said in &image.judged.said {
            let mut add = |key: &str, value: String| {
                values.entry(key_of(&said.policy, key)).or_default().push((original, value));
            };
            if let Ok(decision) = &said.judgement {
                for (key, value) in &decision.audit_annotations {
                    add(key, text::printable(value));
                }
                if !decision.warnings.is_empty() {
                    let warnings: Vec<_> = decision.warnings.iter().map(|w| text::printable(w)).collect();
                    add("warnings", warnings.join("; "));
                }
            }
            if let Err(malfunction) = &said.judgement {
                add("malfunction", text::printable(&malfunction.to_string()));
            }
            if said.mode == Mode::Audit && said.outcome() != Outcome::Abstain {
                add("audit", format!("would {}: {}", said.outcome(), said.reason()));
            }
        }
    }
    values.into_iter().map(|(key, values)| (key, in_one(&values, images.len()))).collect()
}

/// One value for all `images`: alone where it is that of each, otherwise each with its image.
fn in_one(values: &[(&str, String)], images: usize) -> String {
    match values {
        [(_, first), rest @ ..] if values.len() == images && rest.iter().all(|(_, value)| value == first) => {
            text::cut(first, bounds::AUDIT_VALUE.size())
        }
        _ => {
            let parts: Vec<_> =
                values.iter().map(|(image, value)| format!("{}: {value}", text::image(image))).collect();
            join(&parts, bounds::AUDIT_VALUE.size())
        }
    }
}

/// `POLICY.key` as the apiserver takes it (`checkKeyFormat` in k8s.io/apiserver/pkg/admission/attributes.go):
/// letters, digits, `-`, `_` and `.`, a letter or digit at both ends, at most 63 bytes.
fn key_of(policy: &str, key: &str) -> String {
    let clean: String = format!("{policy}.{key}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .take(bounds::AUDIT_KEY.size())
        .collect();
    clean.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}
