//! The comparison of an expectation with a verdict.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::blank::of_one;
use super::{Assertion, Expect, Part, Subject, Unmet, Wanted, WantedOutcome, Word, Written, kind, quoted};
use crate::config::Mode;
use crate::config::yaml::edit::Change;
use crate::limits;
use crate::review::verdict::{DecidedBy, ImageVerdict, Said, Verdict, join};
use crate::text;

impl Expect {
    /// Returns the differences between the expectation and a verdict, in the order of the file.
    pub fn unmet(&self, verdict: &Verdict) -> Vec<Unmet> {
        let found = Found {
            verdict,
            images: verdict.images.iter().map(|image| (image.judged.original.as_str(), image)).collect(),
            annotations: OnceCell::new(),
        };
        self.assertions.iter().filter_map(|assertion| found.unmet(assertion)).collect()
    }
}

/// The words for an expectation that is not written yet.
const NOTHING: &str = "nothing yet";

/// A verdict that expectations are compared with.
struct Found<'a> {
    verdict: &'a Verdict,
    images: HashMap<&'a str, &'a ImageVerdict>,
    /// The audit annotations of the review.
    annotations: OnceCell<BTreeMap<String, String>>,
}

/// The part of a verdict that belongs to a subject.
pub(super) enum Scope<'a> {
    Review(&'a Verdict),
    Image(&'a ImageVerdict),
    Policy(&'a Said),
    /// The verdict has no such part, for this reason.
    Missing(String),
}

impl<'a> Found<'a> {
    fn unmet(&self, assertion: &Assertion) -> Option<Unmet> {
        let Assertion { subject, wanted } = assertion;
        let scope = self.scope(subject);
        let (part, expected, found, pointer, edit) = match (&scope, wanted) {
            (Scope::Missing(why), Wanted::Blank(blank)) => {
                (Part::Outcome, NOTHING.to_owned(), format!("none: {why}"), blank.pointer.clone(), None)
            }
            (scope, Wanted::Blank(blank)) => {
                let (found, edit) = (scope.outcome_as(scope.own_word()), Some(blank.edit(scope)));
                (Part::Outcome, NOTHING.to_owned(), found, blank.pointer.clone(), edit)
            }
            (Scope::Missing(why), Wanted::Outcome(outcome)) => {
                (Part::Outcome, outcome.in_words(), format!("none: {why}"), outcome.pointer.clone(), None)
            }
            (Scope::Missing(why), Wanted::Texts(part, texts)) => {
                (part.clone(), texts.in_words(), format!("none: {why}"), texts.pointer.clone(), None)
            }
            (scope, Wanted::Outcome(outcome)) => {
                if scope.meets(outcome) {
                    return None;
                }
                let edit = Some(scope.edit(outcome));
                (Part::Outcome, outcome.in_words(), scope.outcome(outcome), outcome.pointer.clone(), edit)
            }
            (scope, Wanted::Texts(part, texts)) => {
                let (found, others) = self.texts(scope, part);
                let difference = texts.difference(&found)?;
                let edit = difference.edit.map(|(pointer, value)| Change::Value { pointer, value });
                (part.clone(), difference.expected, shown(&found, &others), difference.pointer, edit)
            }
        };
        let image = subject.image.as_deref().map(text::image);
        let policy = subject.policy.clone();
        Some(Unmet { image, policy, part, expected, found, pointer: Some(pointer), edit })
    }

    fn scope(&self, subject: &Subject) -> Scope<'a> {
        let Some(name) = subject.image.as_deref() else { return Scope::Review(self.verdict) };
        let Some(image) = self.images.get(name) else {
            return Scope::Missing(match self.verdict.images.is_empty() {
                true => format!("the host judged no image: {}", self.verdict.reason),
                false => "the review has no such image".to_owned(),
            });
        };
        let Some(name) = subject.policy.as_deref() else { return Scope::Image(image) };
        let said = &image.judged.said;
        match said.iter().find(|said| said.policy == name) {
            Some(said) => Scope::Policy(said),
            // Without any decision, the host itself decides.
            None if said.is_empty() => Scope::Missing(image.reason()),
            None => Scope::Missing("the policy's scope leaves out this image".to_owned()),
        }
    }

    /// Returns the texts of a part. For an annotation that is missing, the keys of the others follow.
    fn texts(&self, scope: &Scope<'a>, part: &Part) -> (Vec<String>, Vec<String>) {
        let texts = match (part, scope) {
            (Part::AuditAnnotation(key), scope) => return self.annotation(scope, key),
            (Part::Reason, Scope::Review(verdict)) if verdict.answered_reason().is_empty() => Vec::new(),
            (Part::Reason, Scope::Review(verdict)) => vec![verdict.answered_reason().to_owned()],
            (Part::Reason, Scope::Image(image)) => image.because().collect(),
            (Part::Reason, Scope::Policy(said)) => vec![said.reason()],
            (Part::Warnings, scope) => {
                let decisions = scope.said().into_iter().filter_map(|said| said.judgement.as_ref().ok());
                decisions.flat_map(|decision| decision.warnings.clone()).collect()
            }
            (Part::Log, scope) => {
                scope.said().into_iter().flat_map(|said| &said.log).map(|line| line.message.clone()).collect()
            }
            (Part::Outcome | Part::Reason, _) => Vec::new(),
        };
        (texts, Vec::new())
    }

    /// Returns the values of an audit annotation. If there is none, the keys of the others follow.
    fn annotation(&self, scope: &Scope<'a>, key: &str) -> (Vec<String>, Vec<String>) {
        let one = |found: &BTreeMap<String, String>| match found.get(key) {
            Some(value) => (vec![value.clone()], Vec::new()),
            None => (Vec::new(), found.keys().cloned().collect()),
        };
        match scope {
            Scope::Review(verdict) => one(self.annotations.get_or_init(|| verdict.audit_annotations())),
            // Keys and values as of a review with this image alone.
            Scope::Image(image) => {
                let images = vec![(*image).clone()];
                let (reason, generation) = (String::new(), String::new());
                let disposition = self.verdict.disposition;
                one(&Verdict { disposition, reason, generation, images }.policy_annotations())
            }
            Scope::Policy(said) => {
                let given = said.judgement.as_ref().map_or(&[][..], |decision| &decision.audit_annotations);
                let (of_key, others): (Vec<_>, Vec<_>) = given.iter().cloned().partition(|(of, _)| of == key);
                let values: Vec<_> = of_key.into_iter().map(|(_, value)| value).collect();
                let is_missing = values.is_empty();
                (values, others.into_iter().map(|(key, _)| key).filter(|_| is_missing).collect())
            }
            Scope::Missing(_) => (Vec::new(), Vec::new()),
        }
    }
}

impl<'a> Scope<'a> {
    /// Returns the results of policies.
    fn said(&self) -> Vec<&'a Said> {
        match self {
            Scope::Review(verdict) => verdict.images.iter().flat_map(|image| &image.judged.said).collect(),
            Scope::Image(image) => image.judged.said.iter().collect(),
            Scope::Policy(said) => vec![said],
            Scope::Missing(_) => Vec::new(),
        }
    }

    fn meets(&self, wanted: &WantedOutcome) -> bool {
        let is_wanted = |detail| self.details(wanted.word).contains(detail);
        // A fixture's `allowed: false` has no word for a malfunction.
        let is_malfunction = wanted.word == Word::Deny
            && wanted.written != Written::Boolean
            && self.is_denied_by_malfunctions();
        self.is(wanted.word) && !is_malfunction && wanted.detail.as_ref().is_none_or(is_wanted)
    }

    /// Returns whether malfunctions deny, and no decision does.
    fn is_denied_by_malfunctions(&self) -> bool {
        let decided_by = match self {
            Scope::Review(verdict) => Some(verdict.disposition.decided_by()),
            Scope::Image(image) => Some(image.decided_by),
            Scope::Policy(_) | Scope::Missing(_) => None,
        };
        decided_by == Some(DecidedBy::FailurePolicy) && self.details(Word::Deny).is_empty()
    }

    /// Returns whether the outcome has a name. A malfunction of any policy is a malfunction.
    fn is(&self, word: Word) -> bool {
        match (word, self) {
            (Word::Malfunction, _) => self.said().iter().any(|said| said.judgement.is_err()),
            (Word::Allow, Scope::Review(verdict)) => verdict.allowed(),
            (Word::Deny, Scope::Review(verdict)) => !verdict.allowed(),
            (Word::Allow, Scope::Image(image)) => image.allowed,
            (Word::Deny, Scope::Image(image)) => !image.allowed,
            (word, Scope::Policy(said)) => {
                said.judgement.as_ref().is_ok_and(|decision| Word::from(decision.outcome) == word)
            }
            (Word::Abstain, Scope::Review(_) | Scope::Image(_)) | (_, Scope::Missing(_)) => false,
        }
    }

    /// Returns the codes of the decisions with an outcome, or the kinds of the malfunctions. Decisions in
    /// mode `audit` decide on no image.
    pub(super) fn details(&self, word: Word) -> Vec<String> {
        let is_in_force = |said: &Said| matches!(self, Scope::Policy(_)) || said.mode == Mode::Enforce;
        let details = self.said().into_iter().filter_map(|said| match &said.judgement {
            Ok(decision) if word == decision.outcome.into() && is_in_force(said) => {
                Some(decision.code.clone())
            }
            Err(malfunction) if word == Word::Malfunction => Some(kind(malfunction.kind())),
            _ => None,
        });
        details.collect()
    }

    /// Returns the name of the outcome: the expected name if only the code or the kind differs.
    fn word(&self, wanted: &WantedOutcome) -> Word {
        if self.is(wanted.word) && !self.details(wanted.word).is_empty() {
            return wanted.word;
        }
        self.own_word()
    }

    /// Returns the name of the outcome.
    pub(super) fn own_word(&self) -> Word {
        match Word::ALL.into_iter().find(|word| self.is(*word)) {
            Some(Word::Deny) if self.is_denied_by_malfunctions() => Word::Malfunction,
            Some(word) => word,
            None => Word::Deny,
        }
    }

    /// Describes the outcome with its codes and reasons.
    fn outcome(&self, wanted: &WantedOutcome) -> String {
        self.outcome_as(self.word(wanted))
    }

    fn outcome_as(&self, word: Word) -> String {
        match self {
            Scope::Review(verdict) if word != Word::Malfunction => {
                of_review(verdict, word, self.details(word))
            }
            Scope::Image(image) if word != Word::Malfunction => of_image(image, word),
            _ => {
                let is_of = |said: &&Said| word != Word::Malfunction || said.judgement.is_err();
                let items = self.said().into_iter().filter(is_of).map(detailed);
                format!("{} {}", word.name(), in_one(items.collect()))
            }
        }
    }

    fn edit(&self, wanted: &WantedOutcome) -> Change {
        let word = self.word(wanted);
        let pointer = wanted.pointer.clone();
        // A denial gets its code where the outcome changes: any denial would meet `deny` alone.
        let is_coded = wanted.detail.is_some()
            || (word != wanted.word && matches!(word, Word::Deny | Word::Malfunction));
        let detail = self.details(word).into_iter().next().filter(|_| is_coded);
        match wanted.written {
            Written::Word => Change::Value { pointer, value: of_one(self) },
            Written::Boolean => Change::Value { pointer, value: json!(wanted.word != Word::Allow) },
            Written::Key if word == wanted.word => Change::Value { pointer, value: json!(detail) },
            Written::Key => Change::Key { pointer, key: word.name().to_owned(), value: json!(detail) },
        }
    }
}

impl WantedOutcome {
    fn in_words(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{} {detail}", self.word.name()),
            None => self.word.name().to_owned(),
        }
    }
}

/// Describes the outcome of a review: its codes and its reason.
fn of_review(verdict: &Verdict, word: Word, mut codes: Vec<String>) -> String {
    codes.sort();
    codes.dedup();
    let codes = Some(codes.join(", ")).filter(|codes| !codes.is_empty());
    let codes =
        codes.map_or(String::new(), |codes| format!(" {}", text::truncate(&codes, limits::TEXT.size())));
    let reason = match verdict.would_deny() {
        Some(reason) => format!(": the host is in mode audit; otherwise: {reason}"),
        None if verdict.reason.is_empty() => String::new(),
        None => format!(": {}", verdict.reason),
    };
    format!("{}{codes}{reason}", word.name())
}

/// Describes the outcome of an image: the decisions that it rests on, or the host's reason.
fn of_image(image: &ImageVerdict, word: Word) -> String {
    let is_by_policies = matches!(image.decided_by, DecidedBy::Policies | DecidedBy::FailurePolicy);
    let is_of = |said: &&Said| said.mode == Mode::Enforce && Word::from(said.outcome()) == word;
    let items = image.judged.said.iter().filter(|_| is_by_policies).filter(is_of).map(|said| {
        let malfunction = if said.judgement.is_err() { "malfunction " } else { "" };
        format!("{malfunction}{}", detailed(said))
    });
    let items: Vec<_> = items.collect();
    match items.is_empty() {
        true => format!("{}: {}", word.name(), image.reason()),
        false => format!("{} {}", word.name(), in_one(items)),
    }
}

/// Describes the result of a policy: the code and the reason, or the kind and the message.
fn detailed(said: &Said) -> String {
    match &said.judgement {
        Ok(decision) if decision.reason.is_empty() => decision.code.clone(),
        Ok(decision) => format!("{}: {}", decision.code, decision.reason),
        Err(malfunction) => format!("{}: {}", kind(malfunction.kind()), said.reason()),
    }
}

/// Describes texts, or the keys of other annotations if there is none.
fn shown(found: &[String], others: &[String]) -> String {
    let most = limits::TEXT.size();
    let others: Vec<String> = others.iter().map(|key| text::escape(key)).collect();
    match (found, others.as_slice()) {
        ([], []) => "none".to_owned(),
        ([], others) => format!("none; there are {}", text::truncate(&others.join(", "), most)),
        (found, _) => in_one(found.iter().map(|text| quoted(text, most)).collect()),
    }
}

fn in_one(items: Vec<String>) -> String {
    let count = items.len();
    join(items.into_iter(), count, 2 * limits::TEXT.size())
}
