//! The wire form `ImageReview`: reads the request of an apiserver, and writes the response. Pure.
//!
//! The form is `imagepolicy.k8s.io/v1alpha1` (k8s.io/api/imagepolicy/v1alpha1/types.go). Reading is as
//! lenient as the apiserver's own decoder (unknown fields, `null` for absent, a prefilled `status`), except
//! where leniency could hide an image from the policies: a duplicate key is rejected.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::{Object, Pairs, shown};
use super::{Container, Refusal, Review, ReviewError, images_of};
use crate::config::HostLimits;
use crate::review::verdict::Verdict;
use crate::text;

/// The `apiVersion` of an ImageReview.
pub const API_VERSION: &str = "imagepolicy.k8s.io/v1alpha1";
const KIND: &str = "ImageReview";

/// Reads a request's body.
///
/// # Errors
/// Returns an error if the body is no valid ImageReview. The kind of error determines the response.
pub fn parse(body: &[u8], limits: &HostLimits) -> Result<Review, ReviewError> {
    let Object(wire) =
        serde_json::from_slice::<Object<Wire>>(body).map_err(|error| classify(body, &error))?;
    check_kind(wire.kind.as_deref(), wire.api_version.as_deref())?;
    let Some(Object(spec)) = wire.spec else { return Err(Refusal::NoSpec.into()) };
    let review = Review {
        namespace: spec.namespace.unwrap_or_default(),
        annotations: spec.annotations.map(|Pairs(pairs)| pairs).unwrap_or_default(),
        images: images_of(spec.containers.unwrap_or_default()),
    };
    Ok(review.bounded(limits)?)
}

/// Returns the response with a verdict and these audit annotations. The form has no field for warnings, so
/// they are among the annotations.
pub fn render(verdict: &Verdict, audit_annotations: BTreeMap<String, String>) -> Response<'_> {
    Response {
        api_version: API_VERSION,
        kind: KIND,
        status: Status { allowed: verdict.allowed(), reason: verdict.answered_reason(), audit_annotations },
    }
}

/// Returns the size of the body that an apiserver sends for a review.
pub fn body_bytes(review: &Review) -> u64 {
    let annotations = review.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let sent = Sent {
        kind: KIND,
        api_version: API_VERSION,
        metadata: BTreeMap::from([("creationTimestamp", None)]),
        spec: SentSpec {
            containers: review
                .images
                .iter()
                .map(|image| BTreeMap::from([("image", image.as_str())]))
                .collect(),
            annotations: annotations.collect(),
            namespace: &review.namespace,
        },
        status: BTreeMap::from([("allowed", false)]),
    };
    // Serialization cannot fail for these types.
    serde_json::to_vec(&sent).map_or(0, |body| body.len() as u64)
}

/// A review in the form that an apiserver sends, to compute the size of the body.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: BTreeMap<&'static str, Option<()>>,
    spec: SentSpec<'a>,
    status: BTreeMap<&'static str, bool>,
}

#[derive(Serialize)]
struct SentSpec<'a> {
    containers: Vec<BTreeMap<&'static str, &'a str>>,
    annotations: BTreeMap<&'a str, &'a str>,
    namespace: &'a str,
}

/// The response to the apiserver.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response<'a> {
    api_version: &'static str,
    kind: &'static str,
    status: Status<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    allowed: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    kind: Option<String>,
    api_version: Option<String>,
    spec: Option<Object<Spec>>,
}

#[derive(Deserialize)]
struct Spec {
    containers: Option<Vec<Object<Container>>>,
    annotations: Option<Pairs>,
    namespace: Option<String>,
}

fn check_kind(kind: Option<&str>, api_version: Option<&str>) -> Result<(), ReviewError> {
    if (kind, api_version) == (Some(KIND), Some(API_VERSION)) {
        return Ok(());
    }
    let shown = |value: Option<&str>| match value {
        Some(value) => format!("`{}`", text::escape_and_truncate(value, 64)),
        None => "none".to_owned(),
    };
    Err(ReviewError::NotAnImageReview(format!(
        "this is kind {} of apiVersion {}, not ImageReview of {API_VERSION}",
        shown(kind),
        shown(api_version)
    )))
}

/// Distinguishes a malformed ImageReview, which is denied, from a body that is no ImageReview. Only the
/// `kind` and `apiVersion` that can be read count, whatever errors the rest has.
fn classify(body: &[u8], error: &serde_json::Error) -> ReviewError {
    let mut head = Head::default();
    let whole = (&mut head).deserialize(&mut serde_json::Deserializer::from_slice(body));
    let not_json = |error: &str| ReviewError::NotAnImageReview(format!("this is no JSON: {error}"));
    match check_kind(head.kind.as_deref(), head.api_version.as_deref()) {
        Ok(()) => Refusal::Malformed(shown(error)).into(),
        Err(_) if body.trim_ascii().is_empty() => not_json("the body is empty"),
        Err(no_image_review) => match whole.and_then(|()| serde_json::from_slice::<IgnoredAny>(body)) {
            Err(error) if !error.is_data() => not_json(&shown(&error)),
            _ => no_image_review,
        },
    }
}

/// The `kind` and `apiVersion` of an object, kept even if a later part of the object cannot be read.
#[derive(Default)]
struct Head {
    kind: Option<String>,
    api_version: Option<String>,
}

impl<'de> DeserializeSeed<'de> for &mut Head {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let (field, wanted) = match key.as_str() {
                "kind" => (&mut self.kind, KIND),
                "apiVersion" => (&mut self.api_version, API_VERSION),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let Word(word) = map.next_value()?;
            // Of a duplicate field, the value that leads to a denial counts.
            if field.as_deref() != Some(wanted) {
                *field = word;
            }
        }
        Ok(())
    }
}

/// A string, or None for any other value.
struct Word(Option<String>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Word(value.as_str().map(str::to_owned)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Review, ReviewError> {
        super::parse(body.as_bytes(), &HostLimits { images: 3, annotations: 40, ..HostLimits::default() })
    }

    fn review(spec: &str) -> Result<Review, ReviewError> {
        parse(&format!(
            r#"{{"kind":"ImageReview","apiVersion":"{API_VERSION}","metadata":{{}},"spec":{spec}}}"#
        ))
    }

    fn images(images: &[&str]) -> Review {
        Review { images: images.iter().map(|&image| image.to_owned()).collect(), ..Review::default() }
    }

    #[test]
    fn lenient_where_the_apiserver_is() {
        for (spec, expected) in [
            (r#"{}"#, images(&[])),
            (r#"{"containers":null,"annotations":null,"namespace":null}"#, images(&[])),
            (r#"{"containers":[]}"#, images(&[])),
            (r#"{"containers":[{"image":"a"},{"image":"a"},{}]}"#, images(&["a", "a", ""])),
            (r#"{"containers":[{"image":"a","name":"x"}],"surplus":{"a":[1,2,{}]}}"#, images(&["a"])),
        ] {
            assert_eq!(review(spec), Ok(expected), "{spec}");
        }
        let prefilled = format!(
            "{{\"kind\":\"ImageReview\",\"apiVersion\":\"{API_VERSION}\",\
             \"metadata\":{{\"creationTimestamp\":null}},\
             \"spec\":{{\"containers\":[{{\"image\":\"a\"}}]}},\"status\":{{\"allowed\":true}}}}\n"
        );
        assert_eq!(parse(&prefilled), Ok(images(&["a"])));
    }

    #[test]
    fn an_image_review_that_is_malformed_or_too_large_is_refused() {
        for (spec, expected) in [
            ("null", "no `spec`"),
            ("[]", "invalid type: sequence, expected an object"),
            (r#"[[["nginx"]],null,"d"]"#, "invalid type: sequence, expected an object"),
            (r#"{"containers":[["nginx"]]}"#, "invalid type: sequence, expected an object"),
            (r#"{"containers":[{"image":1e999}]}"#, "number out of range"),
            (r#"{"containers":[{"image":"\ud800"}]}"#, "hex escape"),
            ("{\"containers\":[{\"image\":\"a\nb\"}]}", "control character"),
            (r#"{"containers":[{"image":"a"}"#, "malformed ImageReview"),
            (r#"{"containers":{}}"#, "expected a sequence"),
            (r#"{"containers":["nginx"]}"#, "malformed ImageReview"),
            (r#"{"containers":[{"image":1}]}"#, "expected a string"),
            (r#"{"containers":[{"image":"a","image":"b"}]}"#, "duplicate field `image`"),
            (r#"{"containers":[],"containers":[{"image":"a"}]}"#, "duplicate field `containers`"),
            (r#"{"annotations":{"a.b/c":"1","a.b/c":"2"}}"#, "annotation `a.b/c` is given twice"),
            (r#"{"annotations":[]}"#, "expected a map of strings"),
            (r#"{"containers":[{},{},{},{}]}"#, "4 images; this host takes at most 3 (limits.images)"),
            (
                r#"{"namespace":"0123456789012345678901234567890123456789012345678901234567890123"}"#,
                "namespace has 64",
            ),
            (r#"{"annotations":{"x.image-policy.k8s.io/y":"123456789012345678"}}"#, "hold 41 bytes"),
        ] {
            match review(spec) {
                Err(ReviewError::Refused(refusal)) => {
                    let message = refusal.to_string();
                    assert!(message.contains(expected), "{spec}: {message}")
                }
                other => panic!("{spec}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_image_review_is_denied_however_deep_and_wherever_it_breaks() {
        let deep = |open: &str, close: &str, times| open.repeat(times) + &close.repeat(times);
        let head = format!(r#""kind":"ImageReview","apiVersion":"{API_VERSION}""#);
        for image in
            [deep("[", "]", 300), deep(r#"{"a":"#, "}", 300).replace(":}", ":1}"), "1e999".to_owned()]
        {
            let spec = format!(r#""spec":{{"containers":[{{"image":{image}}}]}}"#);
            for body in [format!("{{{head},{spec}}}"), format!("{{{spec},{head}}}")] {
                match parse(&body) {
                    Err(ReviewError::Refused(refusal)) => {
                        assert!(!refusal.to_string().contains("struct"), "{refusal}");
                    }
                    other => panic!("{body}: {other:?}"),
                }
            }
        }
        let twice = format!(r#"{{"kind":"Pod",{head},"kind":"Pod"}}"#);
        assert!(matches!(parse(&twice), Err(ReviewError::Refused(_))), "{:?}", parse(&twice));
    }

    #[test]
    fn what_is_no_image_review_is_told_so() {
        for (body, expected) in [
            ("", "the body is empty"),
            ("nginx", "expected ident"),
            ("{", "EOF while parsing"),
            ("[]", "kind none"),
            (r#"["ImageReview","imagepolicy.k8s.io/v1alpha1",{}]"#, "kind none"),
            ("{}", "kind none"),
            (r#"{"kind":["ImageReview"],"apiVersion":"imagepolicy.k8s.io/v1alpha1"}"#, "kind none"),
            (r#"{"spec":{]"#, "no JSON"),
            (r#"{"kind":"ImageReview"}"#, "apiVersion none"),
            (r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#, "kind `AdmissionReview`"),
            (r#"{"kind":"ImageReview","apiVersion":"imagepolicy.k8s.io/v1"}"#, "`imagepolicy.k8s.io/v1`"),
            ("{\"kind\":\"a\\u001b[2J\\u202e\"}", "`a\\u{1b}[2J\\u{202e}`"),
        ] {
            match parse(body) {
                Err(ReviewError::NotAnImageReview(message)) => {
                    assert!(message.contains(expected), "{body}: {message}")
                }
                other => panic!("{body}: {other:?}"),
            }
        }
    }
}
