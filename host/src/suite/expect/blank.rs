//! Places without an expectation, where `--update` writes the outcome.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::texts::as_written;
use super::unmet::Scope;
use super::{Assertion, Expect, STATUS, Subject, Wanted, Word};
use crate::config::yaml::edit::Change;
use crate::review::verdict::{ImageVerdict, Verdict};

/// A place without an expectation.
#[derive(Clone, Debug)]
pub(super) struct Blank {
    /// JSON Pointer to the empty value, or to the map that lacks `key`.
    pub(super) pointer: String,
    key: Option<&'static str>,
    is_status: bool,
}

impl Blank {
    /// Returns the place of an empty value.
    pub(super) fn at(pointer: String) -> Blank {
        Blank { pointer, key: None, is_status: false }
    }

    /// Returns the change that adds the expectation of an outcome.
    pub(super) fn edit(&self, scope: &Scope<'_>) -> Change {
        let value = match scope {
            Scope::Review(verdict) if self.is_status => status(verdict),
            Scope::Review(verdict) => of_review(verdict),
            scope => of_one(scope),
        };
        let pointer = self.pointer.clone();
        match self.key {
            Some(key) => Change::Insert { parent: pointer, key: key.to_owned(), value },
            None => Change::Value { pointer, value },
        }
    }
}

impl Expect {
    /// Returns the expectation of a case that has none, at a JSON Pointer of a suite file. `is_empty` tells
    /// whether the key `expect` is there, without a value. Every verdict differs, and the edit adds it.
    pub fn blank(case: &str, is_empty: bool) -> Expect {
        const KEY: &str = "expect";
        match is_empty {
            true => Expect::of_blank(Blank::at(format!("{case}/{KEY}"))),
            false => Expect::of_blank(Blank { pointer: case.to_owned(), key: Some(KEY), is_status: false }),
        }
    }

    /// Returns the expectation of a fixture without a `status`. `is_empty` tells whether the key is there,
    /// without a value. Every verdict differs, and the edit adds it.
    pub fn blank_status(is_empty: bool) -> Expect {
        let blank = match is_empty {
            true => Blank { is_status: true, ..Blank::at(STATUS.to_owned()) },
            false => Blank { pointer: String::new(), key: STATUS.get(1..), is_status: true },
        };
        Expect::of_blank(blank)
    }

    fn of_blank(blank: Blank) -> Expect {
        Expect { assertions: vec![Assertion { subject: Subject::default(), wanted: Wanted::Blank(blank) }] }
    }
}

/// Returns the `status` of a fixture.
fn status(verdict: &Verdict) -> Value {
    match verdict.answered_reason() {
        "" => json!({ "allowed": verdict.allowed() }),
        reason => json!({ "allowed": verdict.allowed(), "reason": reason }),
    }
}

/// Returns the expectation of a review: `allow` if all images are allowed, else the outcome of its image, or
/// of each image.
fn of_review(verdict: &Verdict) -> Value {
    let images: BTreeMap<_, _> =
        verdict.images.iter().map(|image| (image.judged.original.as_str(), image)).collect();
    let is_plain = verdict.allowed() == images.values().all(|image| image.allowed);
    if is_plain && (verdict.allowed() || images.len() <= 1) {
        return of_one(&Scope::Review(verdict));
    }
    let of_image =
        |(name, image): (&&str, &&ImageVerdict)| ((*name).to_owned(), of_one(&Scope::Image(image)));
    let images: Map<String, Value> = images.iter().map(of_image).collect();
    json!({ "images": images })
}

/// Returns the expectation of one outcome: a word, or with the first code. A denial without a code has its
/// reason.
pub(super) fn of_one(scope: &Scope<'_>) -> Value {
    let word = scope.own_word();
    if matches!(word, Word::Allow | Word::Abstain) {
        return json!(word.name());
    }
    if let Some(detail) = scope.details(word).first() {
        return json!({ word.name(): detail });
    }
    let reason = match scope {
        Scope::Review(verdict) => Some(verdict.answered_reason().to_owned()),
        Scope::Image(image) => image.because().next(),
        Scope::Policy(_) | Scope::Missing(_) => None,
    };
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => json!({ word.name(): null, "reason": as_written(&reason) }),
        None => json!(word.name()),
    }
}
