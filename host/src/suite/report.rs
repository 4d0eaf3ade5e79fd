//! The report of a case.

use std::fmt;
use std::time::Duration;

use super::case::{CaseId, Place};
use super::expect::Unmet;
use crate::config::Mode;
use crate::evaluate::Instances;
use crate::review::verdict::{Outcome, Said, Verdict, agree};
use crate::text;

/// The result of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseReport {
    /// The name of the case.
    pub id: CaseId,
    /// The place of the case.
    pub place: Place,
    /// The expectations that are not met, in order. A case without any passes.
    pub failed: Vec<Failed>,
    /// The verdict, with all decisions. None for a case without a review.
    pub verdict: Option<Verdict>,
    /// The duration of all evaluations of the case.
    pub took: Duration,
}

/// An expectation that is not met.
#[derive(Clone, Debug, PartialEq)]
pub enum Failed {
    /// A part of the verdict differs.
    Unmet(Unmet),
    /// A policy decides differently when instances are shared otherwise.
    Sharing {
        /// The image, escaped.
        image: String,
        /// The result with a shared instance.
        shared: Box<Said>,
        /// The other sharing.
        instances: Instances,
        /// The result with the other sharing.
        other: Box<Said>,
    },
    /// A policy does not refuse its settings as expected.
    Refusal {
        /// The policy.
        policy: String,
        /// The expected error.
        expected: String,
        /// The end of its load.
        found: String,
    },
    /// The case was not judged, for this reason.
    NotRun(String),
}

impl fmt::Display for Failed {
    /// Writes one line, or two for an expectation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Unmet(unmet) => unmet.fmt(f),
            Failed::Sharing { image, shared, instances, other } => {
                let how = match instances {
                    Instances::Shared => "asked again",
                    Instances::Reversed => "with its images asked in reverse order",
                    Instances::Isolated => "with an instance for each image",
                };
                write!(
                    f,
                    "{} is not a function of one image: of {image} it said {} ({}), and {how} {} ({})",
                    shared.policy,
                    shared.outcome(),
                    shared.reason(),
                    other.outcome(),
                    other.reason()
                )
            }
            Failed::Refusal { policy, expected, found } => {
                write!(f, "{policy}: expected {expected}\n{:width$}got {found}", "", width = policy.len() + 7)
            }
            Failed::NotRun(why) => write!(f, "it was not judged: {why}"),
        }
    }
}

impl CaseReport {
    /// Returns whether every expectation is met.
    pub fn passed(&self) -> bool {
        self.failed.is_empty()
    }

    /// Describes the first difference on one line. Returns None if the case passed.
    pub fn summary(&self) -> Option<String> {
        let lines = self.failed.first()?.to_string();
        let lines: Vec<_> = lines.lines().map(str::trim).collect();
        Some(lines.join(", "))
    }

    /// Describes the decisions and the log of each policy.
    pub fn explained(&self) -> Vec<String> {
        self.verdict.as_ref().map(explained).unwrap_or_default()
    }
}

/// Returns the decisions that change when instances are shared otherwise.
pub(super) fn unlike(shared: &Verdict, other: &Verdict, instances: Instances) -> Vec<Failed> {
    let mut failed = Vec::new();
    for (first, second) in shared.images.iter().zip(&other.images) {
        let said = first.judged.said.iter().zip(&second.judged.said);
        for (before, after) in said.filter(|(before, after)| !agree(&before.judgement, &after.judgement)) {
            failed.push(Failed::Sharing {
                image: text::image(&first.judged.original),
                shared: Box::new(before.clone()),
                instances,
                other: Box::new(after.clone()),
            });
        }
    }
    failed
}

fn explained(verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if verdict.images.is_empty() && !verdict.reason.is_empty() {
        lines.push(format!("decided by the host: {}", verdict.reason));
    }
    for image in &verdict.images {
        let name = text::image(&image.judged.original);
        let word = if image.allowed { "allowed" } else { "denied" };
        lines.push(format!("{name}: {word}"));
        // If no policy decided, the host's own reason is added.
        let by_policy = image
            .judged
            .said
            .iter()
            .any(|said| said.mode == Mode::Enforce && said.outcome() != Outcome::Abstain);
        if !by_policy {
            lines.extend(image.because().map(|because| format!("  {because}")));
        }
        let width = image.judged.said.iter().map(|said| said.policy.len()).max().unwrap_or_default();
        for said in &image.judged.said {
            let message = said.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
            let decision = match &said.judgement {
                Ok(decision) => format!("{}  {}: {}", said.outcome(), decision.code, decision.reason),
                Err(_) => format!("malfunction, counts as {}: {}", said.outcome(), said.reason()),
            };
            lines.push(format!("  {:width$}  {decision}{message}", said.policy));
            lines.extend(said.log.iter().map(|line| format!("  {:width$}  wrote: {}", "", line.message)));
        }
    }
    lines
}
