//! Settings of a policy: those in its entry of host.yaml, those in the file that `settingsFrom` names, and
//! the texts in the files that `settingsFiles` names.
//!
//! A top-level key belongs in one place, unless the entry and the file of `settingsFrom` both hold a list.
//! Two lists are joined, so that the lists of several owners add up. Any other duplicate is an error, because
//! nothing indicates which of the two counts.

mod reader;
mod texts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub use self::reader::{ReadFile, SettingsFileError, SettingsReader, Unusable};
pub use self::texts::TextSource;
use super::{Config, ConfigError, PolicyConfig, pointer};
use crate::config::yaml::{Document, Location, Problem, quote};
use crate::text;

/// A file of settings that was read, for the positions of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingsFile {
    path: PathBuf,
    document: Document,
    /// Top-level keys of the entry's own settings. If the file continues a list of the entry, the value is
    /// the number of the entry's own items.
    own: BTreeMap<String, usize>,
}

/// Settings of a suite that replace parts of a policy's settings, with their place.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// The suite file.
    pub path: PathBuf,
    /// Its content.
    pub document: Arc<Document>,
    /// JSON Pointer to the settings in the file.
    pub pointer: String,
}

impl PolicyConfig {
    /// Merges the settings of an overlay into those of the entry and its file (RFC 7396).
    pub fn merge_settings(&mut self, overlay: Overlay) {
        if let Some(patch) = overlay.document.value.pointer(&overlay.pointer) {
            merge(&mut self.settings, patch);
        }
        self.overlays.push(overlay);
    }

    /// Adds the settings of a file to those of the entry. `config` contains the entry.
    ///
    /// # Errors
    /// Returns an error if the file is no YAML, holds no settings, or repeats a key that is no list.
    pub fn add_settings(&mut self, path: &Path, bytes: &[u8], config: &Config) -> Result<(), ConfigError> {
        let mut document =
            Document::parse(bytes).map_err(|error| ConfigError::invalid(path, bytes, error.problems))?;
        let broken = |pointer: &str, message: String| {
            let problem = Problem::new(document.key_span(pointer), message);
            Err(ConfigError::invalid(path, bytes, vec![problem]))
        };
        let own = match &self.settings {
            Value::Object(own) => own,
            _ => {
                return broken(
                    "",
                    "the entry's own `settings` are no map that a file could add to".to_owned(),
                );
            }
        };
        if document.value.is_null() {
            return broken("", "the file is empty: write `{}` if no settings are meant".to_owned());
        }
        let others = [("settings", !own.is_empty()), ("settingsFiles", !self.settings_files.is_empty())];
        if let Some((key, _)) = others.iter().find(|(_, is_there)| *is_there)
            && !document.value.is_object()
        {
            return broken("", format!("expected a map, since it adds to the entry's `{key}`"));
        }
        let twice = self.set_twice(own, &document, config);
        if !twice.is_empty() {
            return Err(ConfigError::invalid(path, bytes, twice));
        }
        let lengths = own.iter().map(|(key, value)| (key.clone(), value.as_array().map_or(0, Vec::len)));
        let lengths = lengths.collect();
        // From here on the document serves for positions only.
        match (&mut self.settings, std::mem::take(&mut document.value)) {
            (Value::Object(own), Value::Object(added)) => {
                for (key, value) in added {
                    match (own.get_mut(&key), value) {
                        (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
                        (_, value) => drop(own.insert(key, value)),
                    }
                }
            }
            (own, value) => *own = value,
        }
        self.settings_file = Some(SettingsFile { path: path.to_owned(), document, own: lengths });
        Ok(())
    }

    /// Returns a problem for each key of a settings file that the entry sets too, unless both are lists.
    fn set_twice(&self, own: &Map<String, Value>, document: &Document, config: &Config) -> Vec<Problem> {
        let mut twice = Vec::new();
        for (key, value) in document.value.as_object().into_iter().flatten() {
            let (first, why) = match own.get(key) {
                Some(Value::Array(_)) if value.is_array() => continue,
                Some(first) if first.is_array() || value.is_array() => {
                    ("settings", "both must be lists to be joined")
                }
                Some(_) => ("settings", "only lists are joined: remove one"),
                None if self.settings_files.contains_key(key) => ("settingsFiles", "remove one"),
                None => continue,
            };
            let pointer = format!("/{}", pointer::escape(key));
            let place = config.locate(&format!("{}/{first}{pointer}", self.pointer));
            let message = format!("{} is set twice, also at {place}: {why}", quote(key));
            twice.push(Problem::new(document.key_span(&pointer), message));
        }
        twice
    }

    /// Sets a key of the settings to the texts of its source in `settings_files`.
    fn add_texts(&mut self, key: String, texts: Value) {
        // The checks of the entry and of its settings file allow texts beside a map only.
        if let Value::Object(settings) = &mut self.settings {
            settings.insert(key, texts);
        }
    }

    /// Returns the files that the entry names: its component, its settings file, and the files of texts.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let texts = self.settings_files.values().filter_map(|source| match source {
            TextSource::File(path) => Some(path.as_path()),
            TextSource::Folder(_) => None,
        });
        std::iter::once(self.module.file()).chain(self.settings_from.as_deref()).chain(texts)
    }

    /// Returns the folders of texts that the entry names.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.settings_files.values().filter_map(|source| match source {
            TextSource::File(_) => None,
            TextSource::Folder(path) => Some(path.as_path()),
        })
    }

    /// Returns the files and folders of the settings, with the files that are in the folders now.
    pub fn files_of_settings(&self) -> impl Iterator<Item = PathBuf> {
        let texts = self.settings_files.values().flat_map(TextSource::files);
        self.settings_from.clone().into_iter().chain(texts)
    }
}

impl Config {
    /// Returns the position of a setting, as the beginning of a message: `host.yaml:12:5: settings/allow/0`.
    /// `pointer` is a JSON Pointer into the settings of the policy, `within` a place in the string there. The
    /// message has the line and column of that place in the file. If the file writes the string in another
    /// way, such as with escapes, the message has the place in words.
    #[must_use]
    pub fn locate_setting(&self, policy: &PolicyConfig, pointer: &str, within: Option<Location>) -> String {
        let in_overlay =
            |overlay: &&Overlay| overlay.document.holds(&format!("{}{pointer}", overlay.pointer));
        if let Some(Overlay { path, document, pointer: at }) = policy.overlays.iter().rev().find(in_overlay) {
            return located(path, document, &format!("{at}{pointer}"), pointer, within);
        }
        if let Some(place) = self.locate_text(policy, pointer, within) {
            return place;
        }
        if let Some(file) = &policy.settings_file
            && let Some(pointer) = file.pointer(pointer)
        {
            return located(&file.path, &file.document, &pointer, &pointer, within);
        }
        match policy.pointer.as_str() {
            // A policy of the command line is in no file.
            "" => setting(pointer, within),
            entry => {
                let in_file = format!("{entry}/settings{pointer}");
                located(&self.path, &self.document, &in_file, pointer, within)
            }
        }
    }

    /// Returns the position of a setting from `settingsFiles` as [`Config::locate_setting`] does: a place in
    /// a text by the file of the text, and anything else by the key in host.yaml. Returns None for a setting
    /// from elsewhere.
    fn locate_text(&self, policy: &PolicyConfig, pointer: &str, within: Option<Location>) -> Option<String> {
        let mut tokens = pointer.split('/').skip(1).map(pointer::unescape);
        let key = tokens.next()?;
        let source = policy.settings_files.get(&key)?;
        let text = policy.settings.pointer(pointer).and_then(Value::as_str);
        let file = text.and_then(|_| source.file_of(tokens.next().as_deref()));
        let file = file.as_deref().map(text::path);
        if let (Some(file), Some(at)) = (&file, within.filter(|at| text.is_some_and(|text| at.is_in(text)))) {
            return Some(format!("{file}:{at}"));
        }
        let named = self.locate(&format!("{}/settingsFiles/{}", policy.pointer, pointer::escape(&key)));
        let source = file.unwrap_or_else(|| text::path(source.path()));
        Some(format!("{named}: {} (from {source})", setting(pointer, within)))
    }
}

impl SettingsFile {
    /// Translates a JSON Pointer into the joined settings to a pointer into the file. Returns None for a
    /// value of the entry.
    fn pointer(&self, pointer: &str) -> Option<String> {
        let mut tokens = pointer.splitn(4, '/').skip(1);
        let Some(key) = tokens.next() else { return self.own.is_empty().then(String::new) };
        let Some(own) = self.own.get(&pointer::unescape(key)) else {
            return Some(pointer.to_owned());
        };
        let index = tokens.next()?.parse::<usize>().ok()?.checked_sub(*own)?;
        // A token that follows a map of the entry is no index, or the file has no list for it.
        let rest = tokens.next().map_or(String::new(), |rest| format!("/{rest}"));
        let translated = format!("/{key}/{index}");
        self.document.holds(&translated).then(|| format!("{translated}{rest}"))
    }
}

/// Merges a patch into a value: null removes a key, maps are merged, all else is replaced (RFC 7396).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Default::default());
    }
    let Value::Object(map) = value else { return };
    for (key, patch) in patch {
        match patch {
            Value::Null => drop(map.remove(key)),
            patch => merge(map.entry(key).or_insert(Value::Null), patch),
        }
    }
}

/// Returns the position of the setting at `pointer`, which the file holds at `in_file`.
fn located(
    path: &Path,
    document: &Document,
    in_file: &str,
    pointer: &str,
    within: Option<Location>,
) -> String {
    let exact = within.and_then(|within| document.locate_in_text(in_file, within));
    let (at, rest) = match exact {
        Some(at) => (at, None),
        None => (document.locate(in_file), within),
    };
    format!("{}:{at}: {}", text::path(path), setting(pointer, rest))
}

/// Names a setting, and a place in its text.
fn setting(pointer: &str, within: Option<Location>) -> String {
    match within {
        Some(within) => format!("{} of the text at settings{pointer}", within.in_words()),
        None => format!("settings{pointer}"),
    }
}
