//! The JSON form of a verdict, for scripts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::verdict::{DecidedBy, Decision, ImageVerdict, LogLine, Outcome, Said, Verdict};
use crate::config::Mode;
use crate::image::Image;

/// The verdict on a review, with the decision of each policy on each image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictDocument<'a> {
    allowed: bool,
    verdict: &'static str,
    decided_by: DecidedBy,
    reason: &'a str,
    audit_annotations: BTreeMap<String, String>,
    images: Vec<ImageDocument<'a>>,
}

impl<'a> VerdictDocument<'a> {
    /// Returns the document of a verdict.
    pub fn of(verdict: &'a Verdict) -> VerdictDocument<'a> {
        VerdictDocument {
            allowed: verdict.allowed(),
            verdict: verdict.disposition.name(),
            decided_by: verdict.disposition.decided_by(),
            reason: verdict.answered_reason(),
            audit_annotations: verdict.audit_annotations(),
            images: verdict.images.iter().map(ImageDocument::of).collect(),
        }
    }
}

/// The verdict on an image, and the decision of each policy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageDocument<'a> {
    image: &'a str,
    #[serde(flatten)]
    reference: ReferenceDocument<'a>,
    allowed: bool,
    decided_by: DecidedBy,
    because: Vec<String>,
    policies: Vec<PolicyDocument<'a>>,
}

/// The fields of an image reference, or its parse error.
#[derive(Serialize)]
#[serde(untagged)]
enum ReferenceDocument<'a> {
    Parsed { registry: &'a str, repository: &'a str, tag: Option<&'a str>, digest: Option<&'a str> },
    Broken { error: String },
}

impl<'a> ImageDocument<'a> {
    fn of(image: &'a ImageVerdict) -> ImageDocument<'a> {
        ImageDocument {
            image: &image.judged.original,
            reference: match &image.judged.image {
                Ok(Image { registry, repository, tag, digest, .. }) => ReferenceDocument::Parsed {
                    registry,
                    repository,
                    tag: tag.as_deref(),
                    digest: digest.as_deref(),
                },
                Err(error) => ReferenceDocument::Broken { error: error.to_string() },
            },
            allowed: image.allowed,
            decided_by: image.decided_by,
            because: image.because().collect(),
            policies: image.judged.said.iter().map(PolicyDocument::of).collect(),
        }
    }
}

/// The result of a policy for an image.
#[derive(Serialize)]
struct PolicyDocument<'a> {
    name: &'a str,
    mode: Mode,
    outcome: Outcome,
    #[serde(flatten)]
    judgement: JudgementDocument<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    log: &'a [LogLine],
}

/// A decision, or the reason why there is none.
#[derive(Serialize)]
#[serde(untagged)]
enum JudgementDocument<'a> {
    #[serde(rename_all = "camelCase")]
    Decision {
        code: &'a str,
        reason: &'a str,
        audit_annotations: BTreeMap<&'a str, &'a str>,
        warnings: &'a [String],
    },
    Malfunction {
        malfunction: String,
    },
}

impl<'a> PolicyDocument<'a> {
    fn of(said: &'a Said) -> PolicyDocument<'a> {
        PolicyDocument {
            name: &said.policy,
            mode: said.mode,
            outcome: said.outcome(),
            judgement: match &said.judgement {
                Ok(Decision { code, reason, audit_annotations, warnings, .. }) => {
                    let annotations = audit_annotations.iter();
                    JudgementDocument::Decision {
                        code,
                        reason,
                        audit_annotations: annotations.map(|(key, value)| (&**key, &**value)).collect(),
                        warnings,
                    }
                }
                Err(malfunction) => JudgementDocument::Malfunction { malfunction: malfunction.to_string() },
            },
            message: said.message_of_denial(),
            log: &said.log,
        }
    }
}
