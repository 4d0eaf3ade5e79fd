//! A policy's settings, read with all mistakes at once, each with its place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

use crate::contract::SettingsError;
use crate::shorten;

/// Limit of the mistakes that are reported at once.
const MISTAKES: usize = 32;

/// Settings that are being read: ask for every possible key, then call [`finish`](Settings::finish).
///
/// Values stay text until they are asked for, so that reading takes little memory, and no more stack the
/// deeper they are nested.
#[derive(Debug)]
pub struct Settings<'a> {
    values: BTreeMap<String, &'a RawValue>,
    keys: Vec<&'static str>,
    mistakes: Vec<SettingsError>,
}

impl<'a> Settings<'a> {
    /// Settings are one JSON object.
    pub fn read(json: &'a str) -> Result<Self, Vec<SettingsError>> {
        let whole = |message: String| vec![SettingsError::new("", message)];
        let not_json = |error| whole(format!("not JSON: {error}"));
        let value: &RawValue = serde_json::from_str(json).map_err(not_json)?;
        match kind(value) {
            MAPPING => {
                let values = serde_json::from_str(json).map_err(not_json)?;
                Ok(Self { values, keys: Vec::new(), mistakes: Vec::new() })
            }
            other => Err(whole(format!("wanted a mapping, found {other}"))),
        }
    }

    /// Returns a list of strings, each read by `parse`, without the wrong ones. Returns None if the key is
    /// missing.
    pub fn list<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
            self.mistake(&format!("/{key}"), format!("wanted a list of strings, found {}", kind(value)));
            return Some(Vec::new());
        };
        let mut found = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let read = text(item).map_err(|error| error.to_string());
            match read.and_then(|text| parse(&text).map_err(|error| error.to_string())) {
                Ok(value) => found.push(value),
                Err(message) => self.mistake(&format!("/{key}/{index}"), message),
            }
        }
        Some(found)
    }

    /// Returns a boolean. Returns None if the key is missing or wrong.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let read = serde_json::from_str(value.get());
        if read.is_err() {
            self.mistake(&format!("/{key}"), format!("wanted true or false, found {}", kind(value)));
        }
        read.ok()
    }

    /// Returns the value of one of these words. Returns None if the key is missing or wrong.
    pub fn choice(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.take(key)?;
        let read = text(value).ok();
        let found = read.and_then(|read| words.iter().copied().find(|word| *word == read));
        if found.is_none() {
            self.mistake(&format!("/{key}"), format!("wanted {}", words.join(" or ")));
        }
        found
    }

    /// Returns one line of at most `most` bytes. Returns None if the key is missing or wrong.
    pub fn line(&mut self, key: &'static str, most: usize) -> Option<String> {
        let value = self.take(key)?;
        let wrong = match text(value) {
            Ok(text) if text.trim().is_empty() => "empty: write a line, or leave the key out".into(),
            Ok(text) if text.contains(char::is_control) => {
                "wanted one line without control characters".into()
            }
            Ok(text) if text.len() > most => format!("{} bytes: wanted at most {most}", text.len()),
            Ok(text) => return Some(text.into_owned()),
            Err(error) => error.to_string(),
        };
        self.mistake(&format!("/{key}"), wrong);
        None
    }

    /// Adds a mistake. A mistake of the whole settings has the empty pointer. The host shows the first 32.
    pub fn mistake(&mut self, pointer: &str, message: impl Into<String>) {
        if self.mistakes.len() < MISTAKES {
            self.mistakes.push(SettingsError::new(pointer, message));
        }
    }

    /// Returns whether no mistake was found so far.
    pub fn is_sound(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Returns `read` if no mistake was found and no key is left over.
    pub fn finish<T>(mut self, read: T) -> Result<T, Vec<SettingsError>> {
        let keys = self.keys.join(", ");
        for key in std::mem::take(&mut self.values).keys() {
            let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            self.mistake(&pointer, format!("unknown key `{}`: there are {keys}", shorten(key, 64)));
        }
        if self.mistakes.is_empty() { Ok(read) } else { Err(self.mistakes) }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a RawValue> {
        self.keys.push(key);
        self.values.remove(key)
    }
}

/// The reason why a value has no text.
enum NoText {
    /// The kind of another value.
    Kind(&'static str),
    /// An escape that stands for no character.
    Unicode(serde_json::Error),
}

impl fmt::Display for NoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoText::Kind(kind) => write!(f, "wanted a string, found {kind}"),
            NoText::Unicode(error) => write!(f, "wanted a string of Unicode: {error}"),
        }
    }
}

/// Returns the text of a string.
fn text(value: &RawValue) -> Result<Cow<'_, str>, NoText> {
    match value.get().strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(value.get()).map(Cow::Owned).map_err(NoText::Unicode),
        None => Err(NoText::Kind(kind(value))),
    }
}

const MAPPING: &str = "a mapping";

/// The first character says it, since it is JSON.
fn kind(value: &RawValue) -> &'static str {
    match value.get().bytes().next() {
        Some(b'{') => MAPPING,
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}
