//! A policy's settings, read so that every mistake is told at once, each with its place.

use serde_json::{Map, Value};

use crate::contract::SettingsError;
use crate::shorten;

/// How many mistakes are told at a time.
const MISTAKES: usize = 32;

/// Settings being read: ask for every key there may be, then [`finish`](Settings::finish).
#[derive(Debug)]
pub struct Settings {
    values: Map<String, Value>,
    keys: Vec<&'static str>,
    mistakes: Vec<SettingsError>,
}

impl Settings {
    /// Settings are one JSON object.
    pub fn read(json: &str) -> Result<Self, Vec<SettingsError>> {
        let whole = |message: String| vec![SettingsError { pointer: String::new(), message }];
        match serde_json::from_str(json) {
            Ok(Value::Object(values)) => Ok(Self { values, keys: Vec::new(), mistakes: Vec::new() }),
            Ok(other) => Err(whole(format!("wanted a mapping, found {}", kind(&other)))),
            Err(error) => Err(whole(format!("not JSON: {error}"))),
        }
    }

    /// A list of strings, each read by `parse`. None where the key is not there; what is wrong is left out.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let mut found = Vec::new();
        match self.take(key)? {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let read = match item {
                        Value::String(text) => parse(text),
                        other => Err(format!("wanted a string, found {}", kind(other))),
                    };
                    match read {
                        Ok(value) => found.push(value),
                        Err(message) => self.mistake(&format!("/{key}/{index}"), message),
                    }
                }
            }
            other => {
                self.mistake(&format!("/{key}"), format!("wanted a list of strings, found {}", kind(&other)))
            }
        }
        Some(found)
    }

    /// `true` or `false`. None where the key is not there, or is wrong.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(flag) => return Some(flag),
            other => {
                self.mistake(&format!("/{key}"), format!("wanted true or false, found {}", kind(&other)))
            }
        }
        None
    }

    /// One line of at most `most` bytes. None where the key is not there, or is wrong.
    pub fn line(&mut self, key: &'static str, most: usize) -> Option<String> {
        let wrong = match self.take(key)? {
            Value::String(text) if text.trim().is_empty() => {
                "empty: write a line, or leave the key out".into()
            }
            Value::String(text) if text.contains(char::is_control) => {
                "wanted one line without control characters".into()
            }
            Value::String(text) if text.len() > most => {
                format!("{} bytes: wanted at most {most}", text.len())
            }
            Value::String(text) => return Some(text),
            other => format!("wanted a string, found {}", kind(&other)),
        };
        self.mistake(&format!("/{key}"), wrong);
        None
    }

    /// Adds a mistake; one that spoils all of it has the empty pointer. The host shows the first 32, and takes no list
    /// without end.
    pub fn mistake(&mut self, pointer: &str, message: impl Into<String>) {
        if self.mistakes.len() < MISTAKES {
            self.mistakes.push(SettingsError { pointer: pointer.to_owned(), message: message.into() });
        }
    }

    /// Whether nothing asked for so far is wrong.
    pub fn is_sound(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// What was read, if there is nothing wrong with it, nor any key left that nobody asked for.
    pub fn finish<T>(mut self, read: T) -> Result<T, Vec<SettingsError>> {
        let keys = self.keys.join(", ");
        for key in std::mem::take(&mut self.values).keys() {
            let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            self.mistake(&pointer, format!("unknown key `{}`: there are {keys}", shorten(key, 64)));
        }
        if self.mistakes.is_empty() { Ok(read) } else { Err(self.mistakes) }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.keys.push(key);
        self.values.remove(key)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
