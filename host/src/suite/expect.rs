//! Expectations of a verdict. Pure.
//!
//! An expectation of a review, of one of its images, or of a policy's decision on an image is an outcome
//! (`allow`), or a map with an outcome and texts (`{ deny: CODE, reason: TEXT }`). `read` has the grammar,
//! `texts` the texts, `unmet` the comparison with a verdict, and `blank` the
//! expectations that `--update` adds.

mod blank;
mod read;
mod texts;
mod unmet;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use self::blank::Blank;
pub(super) use self::texts::{TextReader, Texts};
use crate::config::yaml::edit::Change;
use crate::config::yaml::{self, Document};
use crate::config::{Mode, PolicyName, pointer};
use crate::limits;
use crate::review::verdict::{MalfunctionKind, Outcome};
use crate::text;

/// The place of the expectation in a fixture.
const STATUS: &str = "/status";

/// An expectation of a verdict: of the review, of each image, and of each policy.
#[derive(Clone, Debug)]
pub struct Expect {
    /// In the order of the file.
    assertions: Vec<Assertion>,
}

/// The images and policies that an expectation may name, and the host's mode.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The images as the review writes them.
    pub images: &'a [String],
    /// The policies under test.
    pub policies: &'a [PolicyName],
    /// The mode of the whole host. In mode `audit` a review with a denied image is allowed.
    pub mode: Mode,
    /// Whether an empty value is a place for an expectation, and no error.
    pub is_update: bool,
}

/// One part of an expectation.
#[derive(Clone, Debug)]
struct Assertion {
    subject: Subject,
    wanted: Wanted,
}

/// The subject of an assertion: the review, one of its images, or a policy's decision on an image.
#[derive(Clone, Debug, Default)]
struct Subject {
    /// The image as the review writes it. None for the review.
    image: Option<String>,
    /// The policy's name.
    policy: Option<String>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Outcome(WantedOutcome),
    Texts(Part, Texts),
    Blank(Blank),
}

/// An expected outcome.
#[derive(Clone, Debug)]
struct WantedOutcome {
    word: Word,
    /// The code of a decision, or the kind of a malfunction. None: any.
    detail: Option<String>,
    written: Written,
    /// The JSON Pointer of the word, of the key's value, or of the boolean.
    pointer: String,
}

/// The notation of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// `allow`
    Word,
    /// `allow: CODE`
    Key,
    /// `allowed: true`, of a fixture's `status`.
    Boolean,
}

/// The name of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Allow,
    Deny,
    Abstain,
    Malfunction,
}

impl Word {
    /// The outcomes of a review and of an image.
    const COMBINED: [Word; 3] = [Word::Allow, Word::Deny, Word::Malfunction];
    /// The outcomes of a policy.
    const ALL: [Word; 4] = [Word::Allow, Word::Deny, Word::Abstain, Word::Malfunction];

    fn name(self) -> &'static str {
        match self {
            Word::Allow => "allow",
            Word::Deny => "deny",
            Word::Abstain => "abstain",
            Word::Malfunction => "malfunction",
        }
    }

    fn of(name: &str) -> Option<Word> {
        Word::ALL.into_iter().find(|word| word.name() == name)
    }
}

impl From<Outcome> for Word {
    fn from(outcome: Outcome) -> Word {
        match outcome {
            Outcome::Allow => Word::Allow,
            Outcome::Deny => Word::Deny,
            Outcome::Abstain => Word::Abstain,
        }
    }
}

impl Expect {
    /// Reads the expectation of a review at a JSON Pointer of a suite file.
    ///
    /// # Errors
    /// Returns every problem, in the order of the file.
    pub fn read(document: &Document, pointer: &str, known: &Known<'_>) -> Result<Expect, Vec<yaml::Problem>> {
        read::review(document, pointer, known)
    }

    /// Reads a map from images to their expectations at a JSON Pointer of a suite file.
    ///
    /// # Errors
    /// Returns every problem, in the order of the file.
    pub fn read_images(
        document: &Document,
        pointer: &str,
        known: &Known<'_>,
    ) -> Result<Expect, Vec<yaml::Problem>> {
        read::images(document, pointer, known)
    }

    /// Returns the expectation of a fixture's `status`. Its reason is contained in the response's, and its
    /// audit annotations equal those of the response.
    pub fn of_status(
        allowed: bool,
        reason: Option<String>,
        audit_annotations: BTreeMap<String, String>,
    ) -> Expect {
        let word = if allowed { Word::Allow } else { Word::Deny };
        let pointer = format!("{STATUS}/allowed");
        let outcome = WantedOutcome { word, detail: None, written: Written::Boolean, pointer };
        // An empty reason is contained in every reason.
        let reason = reason.filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| {
            let texts = Texts::contained(format!("{STATUS}/reason"), reason);
            Wanted::Texts(Part::Reason, texts)
        });
        let annotations = audit_annotations.into_iter().map(|(key, value)| {
            let pointer = format!("{STATUS}/auditAnnotations/{}", pointer::escape(&key));
            Wanted::Texts(Part::AuditAnnotation(key), Texts::equal(pointer, value))
        });
        let wanted = std::iter::once(Wanted::Outcome(outcome)).chain(reason).chain(annotations);
        let assertions = wanted.map(|wanted| Assertion { subject: Subject::default(), wanted });
        Expect { assertions: assertions.collect() }
    }
}

/// A part of an expectation that a verdict does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The image, escaped. None for the whole review.
    pub image: Option<String>,
    /// The policy whose decision on the image differs. None for the image, or the review.
    pub policy: Option<String>,
    /// The part that differs.
    pub part: Part,
    /// The expectation in words, escaped: `deny forbidden-tag`, or `a text that contains "x"`.
    pub expected: String,
    /// The part of the verdict in words, escaped: `deny not-pinned: it has no digest`.
    pub found: String,
    /// The JSON Pointer of the expectation in its file. None if it is part of no file.
    pub pointer: Option<String>,
    /// A change of the file after which the verdict meets the expectation. None where no single one is clear.
    pub edit: Option<Change>,
}

/// A part of a verdict, of an image's verdict, or of a policy's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whether it allows or denies, with the code.
    Outcome,
    /// Its reason.
    Reason,
    /// The audit annotation with this key, as the file writes it.
    AuditAnnotation(String),
    /// The policies' warnings.
    Warnings,
    /// The policies' log lines.
    Log,
}

impl fmt::Display for Part {
    /// Writes the part as a suite file names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Outcome => f.write_str("outcome"),
            Part::Reason => f.write_str("reason"),
            Part::AuditAnnotation(key) => {
                write!(f, "auditAnnotations[{}]", quoted(key, limits::AUDIT_KEY.size()))
            }
            Part::Warnings => f.write_str("warnings"),
            Part::Log => f.write_str("log"),
        }
    }
}

impl fmt::Display for Unmet {
    /// Writes two lines, of which the second has `got` below `expected`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            [&self.image, &self.policy].into_iter().flatten().map(String::as_str).collect();
        let part = Some(self.part.to_string()).filter(|_| self.part != Part::Outcome);
        let subject = Some(names.join(", ")).filter(|subject| !subject.is_empty());
        let place: String = [subject, part].into_iter().flatten().map(|name| name + ": ").collect();
        let got = place.chars().count() + "expected".len();
        write!(f, "{place}expected {}\n{:>got$} {}", self.expected, "got", self.found)
    }
}

/// Returns the name of a kind of malfunction.
fn kind(kind: MalfunctionKind) -> String {
    json!(kind).as_str().unwrap_or_default().to_owned()
}

/// Returns a text in quotation marks, escaped and cut.
fn quoted(text: &str, bytes: usize) -> String {
    format!("\"{}\"", text::escape_and_truncate(text, bytes))
}

#[cfg(test)]
mod tests;
