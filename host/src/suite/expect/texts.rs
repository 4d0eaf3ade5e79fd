//! Expectations of texts: contained, equal, or matched by a regular expression.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::quoted;
use crate::config::yaml::{Document, Problem, quote};
use crate::config::{found, list, pointer, suggestion};
use crate::limits;
use crate::text;

/// The only key of a text that is a map.
const IS: &str = "is";

/// Limit of the expected texts that a message shows.
const MAX_SHOWN: usize = 8;

/// An expectation of a list of texts. An empty list means that there is none.
#[derive(Clone, Debug)]
pub(in crate::suite) struct Texts {
    /// The JSON Pointer of the whole.
    pub(super) pointer: String,
    notation: Notation,
    texts: Vec<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    /// One text.
    One,
    /// A list, of which each text must be met by some text.
    List,
    /// A string of a fixture's `status`, which knows no other notation.
    Status,
}

#[derive(Clone, Debug)]
struct Text {
    /// The JSON Pointer of the string.
    pointer: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Contains(String),
    /// A regular expression that compiles. Each use compiles the expression again, so that a suite of many
    /// cases does not keep all compiled expressions in memory.
    Matches(String),
    Is(String),
}

/// The difference between an expectation and the texts of a verdict.
pub(in crate::suite) struct Difference {
    /// The unmet texts, in words.
    pub(super) expected: String,
    /// The JSON Pointer of the unmet text, or of the whole.
    pub(super) pointer: String,
    /// The place and the value after which the expectation is met.
    pub(super) edit: Option<(String, Value)>,
}

impl Texts {
    /// Returns the expectation of a text that contains another.
    pub(super) fn contained(pointer: String, text: String) -> Texts {
        Texts::status(pointer, Test::Contains(text))
    }

    /// Returns the expectation of a text that equals another.
    pub(super) fn equal(pointer: String, text: String) -> Texts {
        Texts::status(pointer, Test::Is(text))
    }

    fn status(pointer: String, test: Test) -> Texts {
        let text = Text { pointer: pointer.clone(), test };
        Texts { pointer, notation: Notation::Status, texts: vec![text] }
    }

    /// Returns the difference to the texts of a verdict. Returns None if all is met.
    pub(in crate::suite) fn difference(&self, found: &[String]) -> Option<Difference> {
        let mut known = BTreeSet::new();
        let mut new: Vec<&str> =
            found.iter().map(String::as_str).filter(|text| known.insert(*text)).collect();
        if self.texts.is_empty() && new.is_empty() {
            return None;
        }
        let (mut met, mut unmet) = (Vec::new(), Vec::new());
        for text in &self.texts {
            let is_met_by = text.test.matcher();
            if found.iter().any(|found| is_met_by(found)) {
                new.retain(|found| !is_met_by(found));
                met.push(text);
            } else {
                unmet.push(text);
            }
        }
        if unmet.is_empty() && !met.is_empty() {
            return None;
        }
        let pointer = match unmet.as_slice() {
            [text] => &text.pointer,
            _ => &self.pointer,
        };
        let edit = self.edit(&met, &unmet, &new);
        Some(Difference { expected: in_words(&unmet), pointer: pointer.clone(), edit })
    }

    /// Returns whether the expectation is that there is no text.
    pub(super) fn is_none(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the expectation in words.
    pub(in crate::suite) fn in_words(&self) -> String {
        in_words(&self.texts.iter().collect::<Vec<_>>())
    }

    /// Returns the place and the value that keep the texts that are met, and write the `new` ones.
    fn edit(&self, met: &[&Text], unmet: &[&Text], new: &[&str]) -> Option<(String, Value)> {
        match (self.notation, unmet, new) {
            (Notation::Status, _, [text]) => Some((self.pointer.clone(), json!(text))),
            // An empty reason is contained in every reason.
            (Notation::Status, [Text { test: Test::Contains(_), .. }], []) => {
                Some((self.pointer.clone(), json!("")))
            }
            (Notation::Status, ..) => None,
            (_, [Text { pointer, test: Test::Is(_) }], [text]) => Some((pointer.clone(), json!(text))),
            (_, [Text { pointer, .. }], [text]) => Some((pointer.clone(), as_written(text))),
            _ => {
                let met = met.iter().map(|text| text.test.as_value());
                let all = met.chain(new.iter().map(|text| as_written(text)));
                Some((self.pointer.clone(), all.collect()))
            }
        }
    }
}

fn in_words(texts: &[&Text]) -> String {
    let words = texts.iter().take(MAX_SHOWN).map(|text| text.test.in_words());
    let more = texts.len().saturating_sub(MAX_SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    let words = words.chain(more).collect::<Vec<_>>().join(" and ");
    if words.is_empty() { "none".to_owned() } else { words }
}

impl Test {
    /// Returns a function that tells whether a text meets the expectation.
    fn matcher(&self) -> Box<dyn Fn(&str) -> bool + '_> {
        match self {
            Test::Contains(text) => Box::new(move |found| found.contains(text)),
            Test::Is(text) => Box::new(move |found| found == text),
            Test::Matches(expression) => {
                let regex = compile(expression);
                Box::new(move |found| regex.as_ref().is_ok_and(|regex| regex.is_match(found)))
            }
        }
    }

    fn in_words(&self) -> String {
        let most = limits::TEXT.size();
        match self {
            Test::Contains(text) => format!("a text that contains {}", quoted(text, most)),
            Test::Is(text) => quoted(text, most),
            Test::Matches(expression) => {
                format!("a text that matches /{}/", text::escape_and_truncate(expression, most))
            }
        }
    }

    fn as_value(&self) -> Value {
        match self {
            Test::Contains(text) => json!(text),
            Test::Is(text) => json!({ IS: text }),
            Test::Matches(expression) => json!(format!("/{expression}/")),
        }
    }
}

/// Returns the notation of a text that a verdict has.
pub(super) fn as_written(found: &str) -> Value {
    if expression(found).is_some() || found.is_empty() { json!({ IS: found }) } else { json!(found) }
}

/// Returns the regular expression of `/…/`.
fn expression(text: &str) -> Option<&str> {
    text.strip_prefix('/')?.strip_suffix('/')
}

fn compile(expression: &str) -> Result<Regex, regex::Error> {
    let most = limits::EXPRESSION_SIZE.size();
    RegexBuilder::new(expression).size_limit(most).dfa_size_limit(most).build()
}

/// A text that no policy writes: texts are escaped, and hold no control character.
const NO_TEXT: &str = "\u{1}";

/// Reader of the texts of one expectation.
pub(in crate::suite) struct TextReader<'a> {
    document: &'a Document,
    /// The number of regular expressions so far.
    expressions: usize,
}

impl<'a> TextReader<'a> {
    pub(in crate::suite) fn new(document: &'a Document) -> TextReader<'a> {
        TextReader { document, expressions: 0 }
    }

    /// Reads a text, or a list of texts.
    pub(in crate::suite) fn texts(&mut self, value: &Value, pointer: &str) -> Result<Texts, Vec<Problem>> {
        let (notation, items) = match value {
            Value::Array(items) => {
                let place = |index| format!("{pointer}/{index}");
                let items = items.iter().enumerate().map(|(index, item)| (place(index), item));
                (Notation::List, items.collect())
            }
            value => (Notation::One, vec![(pointer.to_owned(), value)]),
        };
        let (mut texts, mut problems) = (Vec::new(), Vec::new());
        for (pointer, value) in items {
            match self.text(value, &pointer) {
                Ok(text) => texts.push(text),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Texts { pointer: pointer.to_owned(), notation, texts })
    }

    fn text(&mut self, value: &Value, pointer: &str) -> Result<Text, Problem> {
        let (pointer, test) = match value {
            Value::String(text) => (pointer.to_owned(), self.test(text, pointer)?),
            Value::Object(map) => {
                let is = format!("{pointer}/{IS}");
                match map.get(IS) {
                    _ if let Some(key) = map.keys().find(|key| *key != IS) => {
                        let hint = suggestion(key, &[IS]).unwrap_or_else(|| "valid here: `is`".to_owned());
                        let span = self.document.key_span(&format!("{pointer}/{}", pointer::escape(key)));
                        return Err(Problem::new(span, format!("unknown key {}: {hint}", quote(key))));
                    }
                    Some(Value::String(text)) => (is, Test::Is(text.clone())),
                    Some(value) => return Err(self.not_a_text(value, &is)),
                    None => return Err(self.not_a_text(value, pointer)),
                }
            }
            value => return Err(self.not_a_text(value, pointer)),
        };
        Ok(Text { pointer, test })
    }

    /// Reads a string: a text that is contained, or a regular expression.
    fn test(&mut self, text: &str, pointer: &str) -> Result<Test, Problem> {
        let problem = |message: &str| Err(Problem::new(self.document.span(pointer), message));
        let Some(expression) = expression(text) else {
            return match text {
                "" => problem("every text contains an empty one: write `[]` if there is none"),
                text => Ok(Test::Contains(text.to_owned())),
            };
        };
        if self.expressions == limits::EXPRESSIONS.size() {
            return problem(&limits::EXPRESSIONS.says("", limits::EXPRESSIONS.default));
        }
        self.expressions += 1;
        match compile(expression) {
            // An expression that matches an empty text and one that no policy writes cannot fail.
            Ok(regex) if regex.is_match("") && regex.is_match(NO_TEXT) => {
                let message = format!("the regular expression {} matches every text", quote(expression));
                problem(&message)
            }
            Ok(_) => Ok(Test::Matches(expression.to_owned())),
            Err(error) => problem(&format!("the regular expression {}: {}", quote(expression), why(&error))),
        }
    }

    fn not_a_text(&self, value: &Value, pointer: &str) -> Problem {
        let hint = match value {
            Value::Bool(_) | Value::Number(_) => ": put it in quotes",
            Value::Null => ": write `[]` if there is none",
            _ => "",
        };
        let notations = list(&["TEXT", "/EXPRESSION/", "{ is: TEXT }"], ", ");
        let message = format!("expected a text ({notations}), found {}{hint}", found(value));
        let span =
            if value.is_null() { self.document.key_span(pointer) } else { self.document.span(pointer) };
        Problem::new(span, message)
    }
}

/// Returns the reason why an expression does not compile, on one line.
fn why(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(most) => limits::EXPRESSION_SIZE.says("", *most as u64),
        error => {
            // The message has the expression first, on lines of its own.
            let error = error.to_string();
            let why = error.rsplit("error: ").next().unwrap_or_default();
            text::escape_and_truncate(why, limits::TEXT.size())
        }
    }
}
