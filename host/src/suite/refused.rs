//! The expectation that policies refuse their settings.

use std::fmt;

use serde_json::Value;

use super::expect::{TextReader, Texts};
use crate::config::yaml::{Document, Problem};
use crate::config::{PolicyName, list, pointer, suggestion};
use crate::policy::{LoadError, SettingsError};
use crate::text;

/// The errors that policies must report of their settings.
#[derive(Debug)]
pub struct ExpectRefused {
    /// The policies, each with its expected errors.
    pub policies: Vec<(PolicyName, Vec<ExpectError>)>,
}

/// An expected error of settings.
#[derive(Debug)]
pub struct ExpectError {
    /// JSON Pointer into the settings. None: anywhere.
    pub pointer: Option<String>,
    /// Text of the message. None: any.
    message: Option<Texts>,
}

impl ExpectRefused {
    /// Reads `refused` at a JSON Pointer of a suite file. `policies` are those of which the case changes the
    /// settings.
    ///
    /// # Errors
    /// Returns every problem, with its place.
    pub fn read(
        document: &Document,
        at: &str,
        policies: &[PolicyName],
    ) -> Result<ExpectRefused, Vec<Problem>> {
        let mut reader = Reader { document, texts: TextReader::new(document), problems: Vec::new() };
        let read = reader.refused(at, policies);
        if reader.problems.is_empty() { Ok(read) } else { Err(reader.problems) }
    }
}

struct Reader<'a> {
    document: &'a Document,
    texts: TextReader<'a>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn refused(&mut self, at: &str, policies: &[PolicyName]) -> ExpectRefused {
        let value = self.document.value.pointer(at).cloned().unwrap_or_default();
        let by_policy = |key: &String| !(key.is_empty() || key.starts_with('/'));
        let mut read = ExpectRefused { policies: Vec::new() };
        match (&value, policies) {
            (Value::Object(map), _) if !map.is_empty() && map.keys().all(by_policy) => {
                for key in map.keys() {
                    let at = format!("{at}/{}", pointer::escape(key));
                    match policies.iter().find(|policy| policy.as_str() == key) {
                        Some(policy) => read.policies.push((policy.clone(), self.errors(&at))),
                        None => self.unknown(&at, key, policies),
                    }
                }
            }
            (_, [policy]) => read.policies.push((policy.clone(), self.errors(at))),
            _ => {
                let message = "the case changes the settings of several policies: name each one, such as \
                    `refused: { POLICY: { /KEY: TEXT } }`";
                self.problem(at, message);
            }
        }
        read
    }

    fn errors(&mut self, at: &str) -> Vec<ExpectError> {
        match self.document.value.pointer(at).cloned().unwrap_or_default() {
            Value::Object(map) if !map.is_empty() => {
                map.iter().map(|(key, value)| self.error(key, value, at)).collect()
            }
            Value::Null => vec![ExpectError { pointer: None, message: None }],
            text @ Value::String(_) => vec![ExpectError { pointer: None, message: self.text(&text, at) }],
            _ => {
                let message = "expected JSON Pointers into the settings with a text of each message, such as \
                    `{ /allow/0: pattern }`, or one text";
                self.problem(at, message);
                Vec::new()
            }
        }
    }

    fn error(&mut self, key: &str, value: &Value, at: &str) -> ExpectError {
        let at = format!("{at}/{}", pointer::escape(key));
        if !key.is_empty() && !key.starts_with('/') {
            let message = "expected a JSON Pointer into the settings, such as `/allow/0`";
            self.problems.push(Problem::new(self.document.key_span(&at), message));
        }
        let message = if value.is_null() { None } else { self.text(value, &at) };
        ExpectError { pointer: Some(key.to_owned()), message }
    }

    fn text(&mut self, value: &Value, at: &str) -> Option<Texts> {
        self.texts.texts(value, at).map_err(|problems| self.problems.extend(problems)).ok()
    }

    fn unknown(&mut self, at: &str, key: &str, policies: &[PolicyName]) {
        let names: Vec<_> = policies.iter().map(PolicyName::as_str).collect();
        let hint = suggestion(key, &names).unwrap_or_else(|| {
            let names = list(&names, ", ");
            format!("the case changes the settings of {names}; the pointer of a setting begins with `/`")
        });
        let message = format!("{}: {hint}", text::escape_and_truncate(key, 64));
        self.problems.push(Problem::new(self.document.key_span(at), message));
    }

    fn problem(&mut self, at: &str, message: &str) {
        self.problems.push(Problem::new(self.document.span(at), message));
    }
}

impl ExpectError {
    /// Returns whether the end of a load meets the expectation. `error` is None if the settings are accepted.
    pub fn is_met(&self, error: Option<&LoadError>) -> bool {
        let errors: &[SettingsError] = match error {
            Some(LoadError::Settings(errors)) => errors,
            _ => &[],
        };
        errors.iter().any(|error| {
            self.pointer.as_ref().is_none_or(|pointer| *pointer == error.pointer)
                && self
                    .message
                    .as_ref()
                    .is_none_or(|message| message.difference(std::slice::from_ref(&error.message)).is_none())
        })
    }
}

impl fmt::Display for ExpectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error")?;
        if let Some(pointer) = &self.pointer {
            write!(f, " at settings{pointer}")?;
        }
        match &self.message {
            Some(message) => write!(f, " with {}", message.in_words()),
            None => Ok(()),
        }
    }
}
