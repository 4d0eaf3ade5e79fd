//! Audit annotations of a response: all their keys, and the values that come from policies. Pure.
//!
//! The host's own keys have no `.`. A policy's key always has one, after the policy's name, so no policy can
//! forge a key of the host.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::reason::join;
use super::{Decision, ImageVerdict, Malfunction, Outcome, Said};
use crate::config::Mode;
use crate::limits;
use crate::text;

/// Audit annotation of every response: the generation that judged the review.
pub(super) const GENERATION: &str = "generation";
/// Audit annotation of every response: the basis of the verdict.
pub(super) const DECIDED_BY: &str = "decided-by";
/// Audit annotation: the reason of a denial that the host's mode `audit` prevents.
pub(super) const WOULD_DENY: &str = "would-deny";
/// Audit annotation: the id of a review that is denied, or would be in mode `enforce`.
pub(crate) const REVIEW: &str = "review";

/// Keys below a policy's name that the host writes.
const MALFUNCTION: &str = "malfunction";
const WARNINGS: &str = "warnings";
const AUDIT: &str = "audit";

/// A key below a policy's name. Keys written by the host sort first, so the limit of annotations never drops
/// one of these in favour of a policy's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    /// Written by the host.
    Host { policy: &'a str, key: &'static str },
    /// Given by the policy.
    Policy { policy: &'a str, key: &'a str },
}

/// A value as given. Only the values that are shown are turned into text.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Warnings(&'a [String]),
    Malfunction(&'a Malfunction),
    Audit(&'a Said),
}

impl Value<'_> {
    fn is(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Text(one), Value::Text(other)) => one == other,
            (Value::Warnings(one), Value::Warnings(other)) => one == other,
            (Value::Malfunction(one), Value::Malfunction(other)) => one == other,
            (Value::Audit(one), Value::Audit(other)) => {
                one.outcome() == other.outcome() && one.reason() == other.reason()
            }
            _ => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Value::Text(text) => text::escape(text),
            Value::Warnings(warnings) => {
                let warnings: Vec<_> = warnings.iter().map(|warning| text::escape(warning)).collect();
                warnings.join("; ")
            }
            Value::Malfunction(malfunction) => text::escape(&malfunction.to_string()),
            Value::Audit(said) => {
                let would = format!("would {}: ", said.outcome());
                let message =
                    said.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
                let room = limits::AUDIT_VALUE.size().saturating_sub(would.len() + message.len());
                format!("{would}{}{message}", text::truncate(&said.reason(), room))
            }
        }
    }
}

/// All values of one key, each with the index of its image.
type Values<'a> = Vec<(usize, Value<'a>)>;

/// Returns the annotations and warnings of policies, and the decisions of policies in mode `audit`, by key.
pub(super) fn of_policies(images: &[ImageVerdict]) -> BTreeMap<String, String> {
    let mut spelled: BTreeMap<String, Values<'_>> = BTreeMap::new();
    for (key, values) in collected(images) {
        spelled.entry(key.spelling()).or_default().extend(values);
    }
    spelled.into_iter().map(|(key, values)| (key, in_one(values, images))).collect()
}

/// Returns the first keys in order, within the limit, with all their values. Keys beyond the limit are
/// dropped at once.
fn collected(images: &[ImageVerdict]) -> BTreeMap<Key<'_>, Values<'_>> {
    let mut found: BTreeMap<Key<'_>, Values<'_>> = BTreeMap::new();
    for (place, image) in images.iter().enumerate() {
        for said in &image.judged.said {
            for (key, value) in given(said) {
                found.entry(key).or_default().push((place, value));
                // A dropped key never returns, because the keys before it stay.
                if found.len() > limits::AUDIT_ANNOTATIONS.size() {
                    found.pop_last();
                }
            }
        }
    }
    found
}

/// Returns the keys and values of one policy and one image.
fn given(said: &Said) -> impl Iterator<Item = (Key<'_>, Value<'_>)> {
    let policy = said.policy.as_str();
    let host = move |key, value| (Key::Host { policy, key }, value);
    let decision = said.judgement.as_ref().ok();
    let annotations = decision.into_iter().flat_map(|decision| &decision.audit_annotations);
    let warnings = decision.filter(|decision| !decision.warnings.is_empty());
    let malfunction = said.judgement.as_ref().err();
    let audit = said.mode == Mode::Audit && said.outcome() != Outcome::Abstain;
    annotations
        .map(move |(key, value)| (Key::Policy { policy, key }, Value::Text(value)))
        .chain(warnings.map(|Decision { warnings, .. }| host(WARNINGS, Value::Warnings(warnings))))
        .chain(malfunction.map(|malfunction| host(MALFUNCTION, Value::Malfunction(malfunction))))
        .chain(audit.then(|| host(AUDIT, Value::Audit(said))))
}

/// Returns one value for all images: the value alone if every image has the same, otherwise each value with
/// its image.
fn in_one(mut values: Values<'_>, images: &[ImageVerdict]) -> String {
    // Two keys of one policy may have one spelling.
    values.sort_by_key(|(place, _)| *place);
    let of_each = values.chunk_by(|(one, _), (other, _)| one == other).count() == images.len();
    let most = limits::AUDIT_VALUE.size();
    match values.as_slice() {
        [(_, first), rest @ ..] if of_each && rest.iter().all(|(_, value)| value.is(first)) => {
            text::truncate(&first.text(), most)
        }
        _ => {
            let image = |place: usize| images.get(place).map_or("", |image| image.judged.original.as_str());
            let part = |(place, value): &(usize, Value<'_>)| {
                format!("{}: {}", text::image(image(*place)), value.text())
            };
            join(values.iter().map(part), values.len(), most)
        }
    }
}

impl Key<'_> {
    /// Returns `POLICY.key` in the form that the apiserver accepts (`checkKeyFormat` in
    /// k8s.io/apiserver/pkg/admission/attributes.go): letters, digits, `-`, `_` and `.`, a letter or digit at
    /// both ends, at most 63 bytes. A key that is cut, or that collides with a key of the host, ends in a
    /// digest of the whole key, so that no two policies share a key.
    fn spelling(&self) -> String {
        let (policy, given) = match *self {
            Key::Host { policy, key } => (policy, key),
            Key::Policy { policy, key } => (policy, key),
        };
        let clean: String = given
            .chars()
            .take(limits::AUDIT_KEY.size())
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
            .collect();
        let clean = clean.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let fits = policy.len() + 1 + given.len() <= limits::AUDIT_KEY.size();
        let forged = matches!(self, Key::Policy { .. })
            && ([AUDIT, MALFUNCTION, WARNINGS].contains(&clean) || ends_in_digest(clean));
        if fits && !forged && !clean.is_empty() {
            return format!("{policy}.{clean}");
        }
        let digest = Sha256::digest(format!("{policy}.{given}"));
        let digest: String = digest.iter().take(DIGEST / 2).map(|byte| format!("{byte:02x}")).collect();
        // The three parts are joined by one `.` and one `-`.
        let room = limits::AUDIT_KEY.size() - digest.len() - 2;
        let of_policy = policy.len().min(room.saturating_sub(clean.len()).max(room / 2));
        let of_key = clean.len().min(room - of_policy);
        let head = |text: &str, bytes: usize| text.get(..bytes).unwrap_or(text).to_owned();
        format!("{}.{}-{digest}", head(policy, of_policy), head(clean, of_key))
    }
}

/// The keys of the host in a verdict.
pub(crate) const OWN: [&str; 3] = [DECIDED_BY, GENERATION, WOULD_DENY];

/// Returns whether an annotation of a policy may have this key in a response.
pub(crate) fn may_be_of(policy: &str, key: &str) -> bool {
    let is_clean = |key: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        key.chars().all(fits) && key.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let of_policy = key.strip_prefix(policy).and_then(|key| key.strip_prefix('.'));
    // Before a digest the policy's name may be cut.
    of_policy.is_some_and(is_clean) || ends_in_digest(key)
}

/// Hexadecimal digits of a digest in a key.
const DIGEST: usize = 12;

fn ends_in_digest(key: &str) -> bool {
    let end = key.rsplit_once('-').map_or("", |(_, end)| end);
    end.len() == DIGEST && end.bytes().all(|byte| byte.is_ascii_hexdigit())
}
