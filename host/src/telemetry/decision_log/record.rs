//! The record of a review: the fields of a line of the decision log. The host writes records, and reads them
//! back for a replay.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Mode;
use crate::review::Review;
use crate::review::differences::Compared;
use crate::review::verdict::{
    DecidedBy, Disposition, ImageVerdict, Malfunction, MalfunctionKind, Outcome, Said,
};
use crate::telemetry::answered::{AnsweredReview, ReviewId};
use crate::telemetry::timestamp;

/// A review with its decisions and its result. `host/docs/decision-log.md` describes the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord<'a> {
    /// The id of the review.
    pub id: ReviewId,
    /// The time of the response.
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// The generation that judged the review, as `NUMBER-DIGEST`.
    pub generation: Cow<'a, str>,
    /// The pod's namespace.
    pub namespace: Cow<'a, str>,
    /// The annotations of the pod.
    #[serde(serialize_with = "write_pairs", deserialize_with = "read_pairs")]
    pub annotations: Cow<'a, [(String, String)]>,
    /// The name of the result ([`Disposition::name`](crate::review::verdict::Disposition::name)).
    pub verdict: Cow<'a, str>,
    /// The basis of the result.
    pub decided_by: DecidedBy,
    /// The reason of a denial; empty if the review is allowed.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'a, str>,
    /// Each distinct image, in the order of the pod.
    pub images: Vec<ImageRecord<'a>>,
    /// The time from the request's first byte to the verdict.
    pub microseconds: u64,
    /// The part that was left out to keep the line within its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// A part of a record, left out so that its line is within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LeftOut {
    /// The decisions of the policies.
    Decisions,
    /// The decisions and the request: namespace, annotations and images.
    Request,
}

/// One image of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord<'a> {
    /// The reference as the pod spells it.
    pub original: Cow<'a, str>,
    /// The registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Cow<'a, str>>,
    /// The repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Cow<'a, str>>,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Cow<'a, str>>,
    /// The digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Cow<'a, str>>,
    /// The parse error of a reference that has no fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
    /// Whether the image may run, before the host's mode is applied.
    pub allowed: bool,
    /// The basis of that result.
    pub decided_by: DecidedBy,
    /// The decisions of the policies that apply.
    pub decisions: Vec<PolicyRecord<'a>>,
}

/// The decision of one policy on one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRecord<'a> {
    /// The policy's name.
    pub policy: Cow<'a, str>,
    /// The policy's mode.
    pub mode: Mode,
    /// The outcome after failurePolicy is applied.
    pub outcome: Outcome,
    /// The decision's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'a, str>>,
    /// The reason.
    pub reason: Cow<'a, str>,
    /// The kind of a malfunction, which gives no decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malfunction: Option<MalfunctionKind>,
}

impl<'a> DecisionRecord<'a> {
    /// Returns the record of a review.
    pub fn new(reviewed: &'a AnsweredReview) -> DecisionRecord<'a> {
        DecisionRecord::without(None, reviewed)
    }

    /// Returns the record of a review without a part.
    pub(super) fn without(left_out: Option<LeftOut>, reviewed: &'a AnsweredReview) -> DecisionRecord<'a> {
        let AnsweredReview { review, verdict, .. } = reviewed;
        let request = left_out != Some(LeftOut::Request);
        let images = if request { verdict.images.as_slice() } else { &[] };
        DecisionRecord {
            id: reviewed.id,
            time: reviewed.at,
            generation: reviewed.generation().into(),
            namespace: if request { review.namespace.as_str() } else { "" }.into(),
            annotations: if request { review.annotations.as_slice() } else { &[] }.into(),
            verdict: verdict.disposition.name().into(),
            decided_by: verdict.disposition.decided_by(),
            reason: verdict.reason.as_str().into(),
            images: images.iter().map(|image| ImageRecord::new(image, left_out.is_none())).collect(),
            microseconds: u64::try_from(reviewed.took.as_micros()).unwrap_or(u64::MAX),
            left_out,
        }
    }

    /// Returns the review, for another evaluation. Returns None if the record has no request or no image, or
    /// if an annotation is given twice.
    pub fn review(&self) -> Option<Review> {
        if self.left_out == Some(LeftOut::Request) || self.images.is_empty() {
            return None;
        }
        let mut annotations = self.annotations.clone().into_owned();
        annotations.sort();
        let twice = |pair: &[(String, String)]| matches!(pair, [(first, _), (second, _)] if first == second);
        let images = self.images.iter().map(|image| image.original.clone().into_owned()).collect();
        (!annotations.windows(2).any(twice)).then(|| Review {
            namespace: self.namespace.clone().into_owned(),
            annotations,
            images,
        })
    }
}

impl DecisionRecord<'_> {
    /// Returns the result, to be compared with another result of the same review. Returns None if this
    /// version of the host does not know the verdict.
    pub fn result(&self) -> Option<Compared> {
        let disposition = Disposition::named(&self.verdict, self.decided_by)?;
        let lacked_time = |image: &ImageRecord<'_>| {
            let mut malfunctions = image.decisions.iter().filter_map(|policy| policy.malfunction);
            image.decided_by == DecidedBy::Limit || malfunctions.any(MalfunctionKind::is_lack_of_time)
        };
        Some(Compared {
            disposition,
            mode: match disposition {
                Disposition::Allowed(_) => None,
                Disposition::Denied(_) | Disposition::Refused => Some(Mode::Enforce),
                Disposition::WouldDeny(_) => Some(Mode::Audit),
            },
            reason: self.reason.clone().into_owned(),
            annotations: None,
            was_late: self.images.iter().any(lacked_time),
        })
    }
}

impl<'a> ImageRecord<'a> {
    fn new(image: &'a ImageVerdict, with_decisions: bool) -> ImageRecord<'a> {
        let ImageVerdict { judged, allowed, decided_by, .. } = image;
        let (parsed, error) = match &judged.image {
            Ok(image) => (Some(image), None),
            Err(error) => (None, Some(error)),
        };
        let said = if with_decisions { judged.said.as_slice() } else { &[] };
        ImageRecord {
            original: judged.original.as_str().into(),
            registry: parsed.map(|image| image.registry.as_str().into()),
            repository: parsed.map(|image| image.repository.as_str().into()),
            tag: parsed.and_then(|image| image.tag.as_deref()).map(Cow::from),
            digest: parsed.and_then(|image| image.digest.as_deref()).map(Cow::from),
            error: error.map(|error| error.to_string().into()),
            allowed: *allowed,
            decided_by: *decided_by,
            decisions: said.iter().map(PolicyRecord::new).collect(),
        }
    }
}

impl<'a> PolicyRecord<'a> {
    fn new(said: &'a Said) -> PolicyRecord<'a> {
        let judgement = said.judgement.as_ref();
        PolicyRecord {
            policy: said.policy.as_str().into(),
            mode: said.mode,
            outcome: said.outcome(),
            code: judgement.ok().map(|decision| decision.code.as_str().into()),
            reason: said.reason().into(),
            malfunction: judgement.err().map(Malfunction::kind),
        }
    }
}

/// Writes pairs as an object.
fn write_pairs<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

/// Reads an object of strings unchanged, so that a key given twice is noticed.
fn read_pairs<'de, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Cow<'a, [(String, String)]>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs).map(Cow::Owned)
}
