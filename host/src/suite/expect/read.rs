//! The grammar of expectations, with every problem at its place.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::blank::Blank;
use super::texts::TextReader;
use super::{Assertion, Expect, Known, Part, Subject, Wanted, WantedOutcome, Word, Written};
use crate::config::yaml::{Document, Problem, Span, quote};
use crate::config::{Mode, PolicyName, found, list, pointer, suggestion};
use crate::image::Image;
use crate::limits;
use crate::review::verdict::{Decision, MalfunctionKind, annotations};
use crate::text;

const REASON: &str = "reason";
const AUDIT_ANNOTATIONS: &str = "auditAnnotations";
const WARNINGS: &str = "warnings";
const LOG: &str = "log";
const IMAGES: &str = "images";

/// Limit of the problems for which the nearest name is searched: a file with more is probably not the
/// intended file.
const MAX_SUGGESTED: usize = 50;
/// Limit of the names that a message lists.
const MAX_LISTED: usize = 10;

/// Reads the expectation of a review.
pub(super) fn review(document: &Document, pointer: &str, known: &Known<'_>) -> Result<Expect, Vec<Problem>> {
    let mut reader = Reader::new(document, known);
    reader.expectation(Level::Review, &Subject::default(), pointer);
    reader.finish()
}

/// Reads a map from images to their expectations.
pub(super) fn images(document: &Document, pointer: &str, known: &Known<'_>) -> Result<Expect, Vec<Problem>> {
    let mut reader = Reader::new(document, known);
    reader.images(pointer);
    reader.finish()
}

/// The level of an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Review,
    Image,
    Policy,
}

impl Level {
    fn outcomes(self) -> &'static [Word] {
        if self == Level::Policy { &Word::ALL } else { &Word::COMBINED }
    }

    /// Returns the keys of an expectation, besides the names of policies.
    fn keys(self) -> Vec<&'static str> {
        let images = Some(IMAGES).filter(|_| self == Level::Review);
        let texts = [REASON, AUDIT_ANNOTATIONS, WARNINGS, LOG];
        self.outcomes().iter().map(|word| word.name()).chain(texts).chain(images).collect()
    }
}

struct Reader<'a> {
    document: &'a Document,
    known: &'a Known<'a>,
    /// The images of the review.
    images: HashSet<&'a str>,
    policies: HashSet<&'a str>,
    texts: TextReader<'a>,
    assertions: Vec<Assertion>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(document: &'a Document, known: &'a Known<'a>) -> Reader<'a> {
        Reader {
            document,
            known,
            images: known.images.iter().map(String::as_str).collect(),
            policies: known.policies.iter().map(|policy| policy.as_str()).collect(),
            texts: TextReader::new(document),
            assertions: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn finish(mut self) -> Result<Expect, Vec<Problem>> {
        self.check_contradictions();
        if self.problems.is_empty() {
            return Ok(Expect { assertions: self.assertions });
        }
        // The sort is stable, so that problems at one position keep their order.
        self.problems.sort_by_key(|problem| problem.span.at);
        Err(self.problems)
    }

    /// Reads an expectation: a word, or a map.
    fn expectation(&mut self, level: Level, subject: &Subject, pointer: &str) {
        let value = self.value(pointer);
        match value {
            Value::String(word) => self.word(level, subject, word, pointer),
            Value::Object(map) if !map.is_empty() => self.map(level, subject, map, pointer),
            Value::Null if self.known.is_update => {
                self.assert(subject, Wanted::Blank(Blank::at(pointer.to_owned())));
            }
            Value::Null | Value::Object(_) => {
                let outcomes = names(level.outcomes());
                self.problem(pointer, format!("nothing is expected here: write {}", list(&outcomes, " or ")));
            }
            value => {
                let outcomes = list(&names(level.outcomes()), ", ");
                self.problem(pointer, format!("expected {outcomes} or a map, found {}", found(value)));
            }
        }
    }

    fn word(&mut self, level: Level, subject: &Subject, word: &str, pointer: &str) {
        let outcomes = level.outcomes();
        match Word::of(word) {
            Some(word) if outcomes.contains(&word) => {
                let pointer = pointer.to_owned();
                let outcome = WantedOutcome { word, detail: None, written: Written::Word, pointer };
                self.assert(subject, Wanted::Outcome(outcome));
            }
            Some(_) => self.problem(pointer, ABSTAIN.to_owned()),
            None => {
                let outcomes = names(outcomes);
                let hint = self.suggestion(word, &outcomes).map_or(String::new(), |hint| format!(": {hint}"));
                let outcomes = list(&outcomes, ", ");
                self.problem(pointer, format!("expected {outcomes} or a map, found {}{hint}", quote(word)));
            }
        }
    }

    fn map(&mut self, level: Level, subject: &Subject, map: &Map<String, Value>, pointer: &str) {
        let mut first: Option<(Word, Span)> = None;
        for (key, value, child) in self.entries(map, pointer) {
            let outcome = Word::of(key).filter(|word| level.outcomes().contains(word));
            match (key, outcome) {
                (_, Some(word)) => {
                    let span = self.document.key_span(&child);
                    if let Some((before, at)) = &first {
                        let message = format!("two outcomes: `{}` is at {at}", before.name());
                        self.problems.push(Problem::new(span, message));
                        continue;
                    }
                    first = Some((word, span));
                    self.outcome(subject, word, value, child);
                }
                (REASON, _) => self.part(subject, Part::Reason, value, &child),
                (WARNINGS, _) => self.part(subject, Part::Warnings, value, &child),
                (LOG, _) => self.part(subject, Part::Log, value, &child),
                (AUDIT_ANNOTATIONS, _) => self.annotations(level, subject, value, &child),
                (IMAGES, _) if level == Level::Review => self.images(&child),
                (policy, _) if level == Level::Image && self.policies.contains(policy) => {
                    let subject = Subject { policy: Some(policy.to_owned()), ..subject.clone() };
                    self.expectation(Level::Policy, &subject, &child);
                }
                (key, _) if Word::of(key).is_some() => {
                    self.problems.push(Problem::new(self.document.key_span(&child), ABSTAIN));
                }
                (key, _) => self.unknown(level, key, &child),
            }
        }
    }

    /// Reads the value of an outcome's key: the code, the kind, or nothing.
    fn outcome(&mut self, subject: &Subject, word: Word, value: &Value, pointer: String) {
        let detail = match value {
            Value::Null => None,
            Value::String(kind) if word == Word::Malfunction => {
                let kinds = kinds();
                let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                if !kinds.contains(&kind.as_str()) {
                    let hint = self.suggestion(kind, &kinds).unwrap_or_else(|| listed("valid here", &kinds));
                    let message = format!("{} is no kind of malfunction: {hint}", quote(kind));
                    return self.problem(&pointer, message);
                }
                Some(kind.clone())
            }
            Value::String(code) if Decision::is_code(code) => Some(code.clone()),
            Value::String(code) => {
                let code = text::escape_and_truncate(code, limits::CODE.size());
                return self.problem(&pointer, limits::CODE.says(code, limits::CODE.default));
            }
            value => {
                let detail = if word == Word::Malfunction { "a kind" } else { "a code" };
                let hint = if value.is_number() { ": put it in quotes" } else { "" };
                let message = format!("expected {detail}, or nothing for any, found {}{hint}", found(value));
                return self.problem(&pointer, message);
            }
        };
        let outcome = WantedOutcome { word, detail, written: Written::Key, pointer };
        self.assert(subject, Wanted::Outcome(outcome));
    }

    fn part(&mut self, subject: &Subject, part: Part, value: &Value, pointer: &str) {
        match self.texts.texts(value, pointer) {
            Ok(texts) => self.assert(subject, Wanted::Texts(part, texts)),
            Err(problems) => self.problems.extend(problems),
        }
    }

    fn annotations(&mut self, level: Level, subject: &Subject, value: &Value, pointer: &str) {
        let Some(map) = self.filled(value, pointer, "a map from keys to texts") else { return };
        for (key, value, child) in self.entries(map, pointer) {
            match self.no_annotation(level, key) {
                Some(why) => {
                    let message = format!("no audit annotation has the key {}: {why}", quote(key));
                    self.problems.push(Problem::new(self.document.key_span(&child), message));
                }
                None => self.part(subject, Part::AuditAnnotation(key.to_owned()), value, &child),
            }
        }
    }

    /// Returns the reason why no verdict has an audit annotation with a key: `[]` could not fail. Returns
    /// None if one may.
    fn no_annotation(&self, level: Level, key: &str) -> Option<String> {
        if key.len() > limits::AUDIT_KEY.size() {
            return Some(format!("it has over {} bytes", limits::AUDIT_KEY.default));
        }
        let mut policies = self.known.policies.iter().map(PolicyName::as_str);
        let is_own = level == Level::Review && annotations::OWN.contains(&key);
        if level == Level::Policy || is_own || policies.any(|policy| annotations::may_be_of(policy, key)) {
            return None;
        }
        let first = self.known.policies.first().map_or("POLICY", PolicyName::as_str);
        let own = match level {
            Level::Review => format!("; the host's own are {}", list(&annotations::OWN, ", ")),
            _ => String::new(),
        };
        Some(format!("here a policy's keys begin with its name, as in `{first}.KEY`{own}"))
    }

    fn images(&mut self, pointer: &str) {
        let value = self.value(pointer);
        let Some(map) = self.filled(value, pointer, "a map from images to expectations") else { return };
        for (image, _, child) in self.entries(map, pointer) {
            if self.images.contains(image) {
                let subject = Subject { image: Some(image.to_owned()), policy: None };
                self.expectation(Level::Image, &subject, &child);
            } else {
                let message = format!("the review has no image {}: {}", quote(image), self.near_image(image));
                self.problems.push(Problem::new(self.document.key_span(&child), message));
            }
        }
    }

    /// Returns a hint at the image that an unknown image may stand for.
    fn near_image(&self, unknown: &str) -> String {
        if self.problems.len() >= MAX_SUGGESTED {
            return "see the review".to_owned();
        }
        let name = |reference| Image { original: String::new(), ..reference };
        let same = Image::parse(unknown).ok().map(name).and_then(|unknown| {
            let mut images = self.known.images.iter();
            images.find(|image| Image::parse(image).is_ok_and(|image| name(image) == unknown))
        });
        if let Some(image) = same {
            return format!("write the same image as the review does, `{}`", text::image(image));
        }
        let mut known = HashSet::new();
        let images = self.known.images.iter().filter(|image| known.insert(image.as_str()));
        let images: Vec<String> = images.map(|image| text::image(image)).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        self.suggestion(unknown, &images).unwrap_or_else(|| listed("it has", &images))
    }

    fn unknown(&mut self, level: Level, key: &str, pointer: &str) {
        let policies = self.known.policies.iter().map(|policy| policy.as_str());
        let valid: Vec<&str> = match level {
            Level::Image => level.keys().into_iter().chain(policies).collect(),
            _ => level.keys(),
        };
        let hint = match level {
            Level::Review if self.policies.contains(key) => {
                format!("a policy stands below an image: `{IMAGES}: {{ IMAGE: {{ {key}: OUTCOME }} }}`")
            }
            Level::Review if self.images.contains(key) => format!("an image stands below `{IMAGES}`"),
            Level::Image => self.suggestion(key, &valid).unwrap_or_else(|| {
                let policies: Vec<&str> = self.known.policies.iter().map(|policy| policy.as_str()).collect();
                let keys = list(&level.keys(), ", ");
                format!("valid here: {keys}, and {}", listed("policies under test", &policies))
            }),
            _ => self.suggestion(key, &valid).unwrap_or_else(|| listed("valid here", &valid)),
        };
        let unknown = if level == Level::Image { "unknown key or policy" } else { "unknown key" };
        let message = format!("{unknown} {}: {hint}", quote(key));
        self.problems.push(Problem::new(self.document.key_span(pointer), message));
    }

    /// Checks that some verdict can meet all assertions together.
    fn check_contradictions(&mut self) {
        let outcomes = |level: Level| {
            self.assertions.iter().filter_map(move |assertion| match &assertion.wanted {
                Wanted::Outcome(outcome) if assertion.subject.level() == level => {
                    Some((&assertion.subject, outcome))
                }
                _ => None,
            })
        };
        let Some((_, review)) = outcomes(Level::Review).next() else { return };
        let at = self.place(review);
        let mut problems = Vec::new();
        if review.word == Word::Allow {
            for Assertion { subject, wanted } in &self.assertions {
                let Wanted::Texts(Part::Reason, reason) = wanted else { continue };
                if subject.level() == Level::Review && !reason.is_none() {
                    let message = format!("contradiction: a review that is allowed (see {at}) has no reason");
                    problems.push(Problem::new(self.document.key_span(&reason.pointer), message));
                }
            }
        }
        if self.known.mode == Mode::Enforce && review.word == Word::Allow {
            for (_, image) in outcomes(Level::Image).filter(|(_, image)| image.word == Word::Deny) {
                let message =
                    format!("contradiction: no image of a review that is allowed (see {at}) is denied");
                problems.push(Problem::new(self.place(image), message));
            }
        }
        if self.known.mode == Mode::Enforce && review.word == Word::Deny {
            let allowed: HashSet<&str> = outcomes(Level::Image)
                .filter(|(_, image)| image.word == Word::Allow)
                .filter_map(|(subject, _)| subject.image.as_deref())
                .collect();
            if !allowed.is_empty() && self.images.is_subset(&allowed) {
                let message =
                    "contradiction: every image is expected to be allowed, and then so is the review";
                problems.push(Problem::new(at, message));
            }
        }
        self.problems.extend(problems);
    }

    /// Returns the place of an outcome: of the word, or of the key.
    fn place(&self, outcome: &WantedOutcome) -> Span {
        match outcome.written {
            Written::Key => self.document.key_span(&outcome.pointer),
            Written::Word | Written::Boolean => self.document.span(&outcome.pointer),
        }
    }

    fn assert(&mut self, subject: &Subject, wanted: Wanted) {
        self.assertions.push(Assertion { subject: subject.clone(), wanted });
    }

    fn value(&self, pointer: &str) -> &'a Value {
        self.document.value.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// Returns a map with at least one entry.
    fn filled<'v>(&mut self, value: &'v Value, pointer: &str, what: &str) -> Option<&'v Map<String, Value>> {
        match value {
            Value::Object(map) if !map.is_empty() => return Some(map),
            Value::Object(_) => self.problem(pointer, format!("nothing is expected here: write {what}")),
            value => self.problem(pointer, format!("expected {what}, found {}", found(value))),
        }
        None
    }

    /// Returns the entries of a map with their pointers, in the order of the file.
    fn entries<'m>(&self, map: &'m Map<String, Value>, pointer: &str) -> Vec<(&'m str, &'m Value, String)> {
        let place = |key: &str| format!("{pointer}/{}", pointer::escape(key));
        let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.as_str(), value, place(key))).collect();
        entries.sort_by_cached_key(|(_, _, child)| self.document.key_span(child).at);
        entries
    }

    /// Records a problem of a value. A value that is missing has the place of its key.
    fn problem(&mut self, pointer: &str, message: String) {
        let document = self.document;
        let span =
            if self.value(pointer).is_null() { document.key_span(pointer) } else { document.span(pointer) };
        self.problems.push(Problem::new(span, message));
    }

    /// Returns a suggestion of the most similar valid word, as long as there are few problems.
    fn suggestion(&self, word: &str, valid: &[&str]) -> Option<String> {
        if self.problems.len() < MAX_SUGGESTED { suggestion(word, valid) } else { None }
    }
}

impl Subject {
    fn level(&self) -> Level {
        match (&self.image, &self.policy) {
            (None, _) => Level::Review,
            (Some(_), None) => Level::Image,
            (Some(_), Some(_)) => Level::Policy,
        }
    }
}

const ABSTAIN: &str = "`abstain` is an outcome of a policy: write it below a policy's name";

fn names(words: &[Word]) -> Vec<&'static str> {
    words.iter().map(|word| word.name()).collect()
}

/// Returns the names of all kinds of malfunctions.
fn kinds() -> Vec<String> {
    MalfunctionKind::ALL.iter().map(|kind| super::kind(*kind)).collect()
}

/// Returns the first of some names, after a word about them.
fn listed(of: &str, names: &[&str]) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let names = names.get(..MAX_LISTED).unwrap_or(names);
    format!("{of}: {}{more}", list(names, ", "))
}
