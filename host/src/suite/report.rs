//! The report of a case, and its rendering for people.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Mode;
use crate::evaluate::Instances;
use crate::review::verdict::{Outcome, Said, Verdict, agree};
use crate::text;

/// The result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// The file of the case.
    pub place: PathBuf,
    /// The expectations that are not met, in order. A case without any passes.
    pub failed: Vec<Failed>,
    /// The verdict, with all decisions.
    pub verdict: Verdict,
    /// The duration of all evaluations of the case.
    pub took: Duration,
}

/// An expectation that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The pod may run, or may not, against the expectation.
    Allowed {
        /// The value in the response.
        found: bool,
    },
    /// The response's reason does not contain a text.
    Reason {
        /// The text.
        expected: String,
        /// The response's reason.
        found: String,
    },
    /// An audit annotation has another value.
    AuditAnnotation {
        /// The annotation's key.
        key: String,
        /// The expected value.
        expected: String,
        /// The value in the response.
        found: String,
    },
    /// An audit annotation is missing.
    NoAuditAnnotation {
        /// The annotation's key.
        key: String,
        /// The expected value.
        expected: String,
        /// The keys in the response.
        keys: Vec<String>,
    },
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
}

impl fmt::Display for Failed {
    /// Writes one line, or two for a reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Allowed { found } => write!(f, "allowed: expected {}, got {found}", !found),
            Failed::Reason { expected, found } => {
                write!(f, "reason: expected one that contains {expected:?}\n        got {found:?}")
            }
            Failed::AuditAnnotation { key, expected, found } => {
                write!(f, "auditAnnotations[{key:?}]: expected {expected:?}, got {found:?}")
            }
            Failed::NoAuditAnnotation { key, expected, keys } => write!(
                f,
                "auditAnnotations[{key:?}]: expected {expected:?}, got none; there are {}",
                keys.join(", ")
            ),
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
        }
    }
}

impl CaseReport {
    /// Returns whether every expectation is met.
    pub fn passed(&self) -> bool {
        self.failed.is_empty()
    }

    /// Returns lines that describe the differences. The decisions follow the expectations of the response.
    pub fn lines(&self) -> Vec<String> {
        let of_sharing = |failed: &&Failed| matches!(failed, Failed::Sharing { .. });
        let lines = |failed: &Failed| failed.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
        let mut all: Vec<_> =
            self.failed.iter().filter(|failed| !of_sharing(failed)).flat_map(lines).collect();
        if !all.is_empty() {
            all.extend(explained(&self.verdict));
        }
        all.extend(self.failed.iter().filter(of_sharing).flat_map(lines));
        all
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

/// Describes the decisions of a failed case.
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
        for said in &image.judged.said {
            let message = said.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
            lines.push(format!("  {} said {}: {}{message}", said.policy, said.outcome(), said.reason()));
            lines.extend(said.log.iter().map(|line| format!("  {} wrote: {}", said.policy, line.message)));
        }
    }
    lines
}
