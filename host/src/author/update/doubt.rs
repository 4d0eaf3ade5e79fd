//! Results that an update does not write: they look like an error in a file or in a policy, and a case that
//! expects them would hide the error.

use serde_json::Value;

use crate::review::verdict::{DecidedBy, Said};
use crate::suite::{CaseReport, Part, Unmet};
use crate::text;

/// A result that is probably no intended one. The texts are escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    /// A reference that does not parse.
    #[error(
        "`{image}` is no image reference ({error}): correct it, or write by hand that it is denied, with \
         `deny` and a `reason` in a suite file, or `allowed: false` in a fixture"
    )]
    Reference {
        /// The image.
        image: String,
        /// The error of the parser.
        error: String,
    },
    /// A policy that malfunctioned.
    #[error(
        "policy {policy} has a malfunction on `{image}`, {error}: mend the policy, or write by hand that it \
         is expected, with `malfunction` in a suite file, or `allowed: false` in a fixture"
    )]
    Malfunction {
        /// The policy.
        policy: String,
        /// The image.
        image: String,
        /// The message of the malfunction.
        error: String,
    },
    /// A review that the host denies before any policy runs.
    #[error("no policy has judged the review ({0}): correct it, or write the expectation by hand")]
    Request(String),
}

/// Returns the doubt about a result that an expectation does not meet: a malfunction, a reference or a review
/// that was not judged, unless the file expects it already. `document` is the value of the file.
pub(super) fn doubt(document: &Value, report: &CaseReport, unmet: &Unmet) -> Option<Doubt> {
    let verdict = report.verdict.as_ref()?;
    let names = |word: &str| unmet.pointer.as_ref().is_some_and(|pointer| names(document, pointer, word));
    // A text of an expected denial may change. The denial itself is written by hand.
    let is_denial_known = unmet.part != Part::Outcome && names("deny");
    if verdict.images.is_empty() && verdict.disposition.decided_by() == DecidedBy::Request && !is_denial_known
    {
        return Some(Doubt::Request(text::escape(&verdict.reason)));
    }
    let is_malfunction_known = names("malfunction");
    for image in &verdict.images {
        let name = text::image(&image.judged.original);
        if unmet.image.as_ref().is_some_and(|image| *image != name) {
            continue;
        }
        if let (Err(error), false) = (&image.judged.image, is_denial_known) {
            return Some(Doubt::Reference { image: name, error: text::escape(&error.to_string()) });
        }
        let is_in_scope = |said: &&Said| unmet.policy.as_ref().is_none_or(|policy| *policy == said.policy);
        let mut said = image.judged.said.iter().filter(|_| !is_malfunction_known).filter(is_in_scope);
        if let Some(said) = said.find(|said| said.judgement.is_err()) {
            let (policy, error) = (text::escape(&said.policy), text::escape(&said.reason()));
            return Some(Doubt::Malfunction { policy, image: name, error });
        }
    }
    None
}

/// Returns whether the expectation at a JSON Pointer, or a map that holds it, has an outcome with this name.
fn names(document: &Value, pointer: &str, word: &str) -> bool {
    let mut at = pointer;
    loop {
        let is_named = match document.pointer(at) {
            Some(Value::String(text)) => text == word,
            Some(Value::Object(map)) => map.contains_key(word),
            _ => false,
        };
        match at.rsplit_once('/') {
            _ if is_named => return true,
            Some((parent, _)) => at = parent,
            None => return false,
        }
    }
}
