//! Reads the settings that stand in files of their own: `settingsFrom` and `settingsFiles`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::texts::{self, Listed, TextSource};
use crate::config::{Config, ConfigError, PolicyConfig, pointer, yaml};
use crate::fs::FileError;
use crate::limits::{self, Limit};
use crate::text;

/// How often a folder is read that changes meanwhile.
const ATTEMPTS: usize = 3;

/// Reads a file up to a limit of its bytes. Returns None if the file is being written.
pub type ReadFile<'a> = dyn Fn(&Path, u64) -> Option<Result<Vec<u8>, FileError>> + 'a;

/// Reason why the settings in a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFileError {
    /// A file that is being written.
    #[error("its settings are being written")]
    BeingWritten,
    /// A file or folder that cannot be used, with the place in host.yaml that names it.
    #[error("{}: {why}{step} ({named} names it)", text::path(path), step = why.next_step())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        why: Unusable,
        /// The key and its place.
        named: String,
    },
    /// A file with errors: not UTF-8, no YAML, or settings that do not fit the entry of the policy.
    #[error("{}", .0.to_string().replace('\n', "; "))]
    Invalid(ConfigError),
}

/// Reason why a file or folder of settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error(transparent)]
    File(FileError),
    /// It exceeds a limit, whose message this is.
    #[error("{0}")]
    OverLimit(String),
    /// A folder in the place of a text.
    #[error("it is a folder: end its path with `/` to have the text of each file in it")]
    Folder,
    /// A file in the place of a folder.
    #[error("it is no folder: write its path without `/` at the end to have its text")]
    NoFolder,
    /// A folder without files.
    #[error("no file is in it, as if its file system were not mounted: put a file there, or remove the key")]
    NoFile,
    /// A folder in a folder.
    #[error("a folder among texts: move its files up, or begin its name with `.` to leave it out")]
    Subfolder,
    /// A file whose name cannot be a key.
    #[error("its name is not UTF-8: rename it")]
    Name,
    /// A text without a byte.
    #[error("it is empty: write the text, or remove the key")]
    Empty,
}

impl Unusable {
    fn next_step(&self) -> &'static str {
        match self {
            Unusable::File(error) => error.next_step(),
            _ => "",
        }
    }
}

impl SettingsFileError {
    /// Returns the file or folder. Returns None if a file is being written.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            SettingsFileError::BeingWritten => None,
            SettingsFileError::Unusable { path, .. } => Some(path),
            SettingsFileError::Invalid(error) => error.path(),
        }
    }
}

/// The limits that the files of all policies have left.
#[derive(Clone, Copy)]
struct Left {
    bytes: u64,
    texts: u64,
}

/// A reader of the settings of all policies of a configuration.
pub struct SettingsReader<'a> {
    config: &'a Config,
    read: &'a ReadFile<'a>,
    left: Left,
}

impl<'a> SettingsReader<'a> {
    /// Creates a reader for the policies of `config`, and those in its `policyDirectory`.
    pub fn new(config: &'a Config, read: &'a ReadFile<'a>) -> Self {
        let left = Left { bytes: limits::SETTINGS_FILES.default, texts: limits::SETTINGS_TEXTS.default };
        SettingsReader { config, read, left }
    }

    /// Adds the settings in the files of a policy to those of its entry, unless they were added before.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used. The settings are incomplete then.
    pub fn add(&mut self, policy: &mut PolicyConfig) -> Result<(), SettingsFileError> {
        if policy.has_file_settings {
            return Ok(());
        }
        if let Some(path) = policy.settings_from.clone() {
            let named = self.named(policy, "settingsFrom", "");
            let bytes = self.bytes(&path, &limits::SETTINGS_FILE, &named)?;
            policy.add_settings(&path, &bytes, self.config).map_err(SettingsFileError::Invalid)?;
        }
        for (key, source) in policy.settings_files.clone() {
            let named = self.named(policy, "settingsFiles", &format!("/{}", pointer::escape(&key)));
            let value = match &source {
                TextSource::File(path) => Value::String(self.text(path, &named)?),
                TextSource::Folder(folder) => Value::Object(self.folder(folder, &named)?),
            };
            policy.add_texts(key, value);
        }
        policy.has_file_settings = true;
        Ok(())
    }

    /// Returns a key of an entry and the place of the value at `rest` below it.
    fn named(&self, policy: &PolicyConfig, key: &str, rest: &str) -> String {
        format!("`{key}` at {}", self.config.locate(&format!("{}/{key}{rest}", policy.pointer)))
    }

    fn bytes(&mut self, path: &Path, limit: &Limit, named: &str) -> Result<Vec<u8>, SettingsFileError> {
        let bytes = (self.read)(path, limit.default).ok_or(SettingsFileError::BeingWritten)?;
        let bytes = bytes.map_err(|error| match error {
            FileError::TooLarge(size, most) => over(path, limit.says(size, most), named),
            error => unusable(path, Unusable::File(error), named),
        })?;
        let size = bytes.len() as u64;
        self.left.bytes = self.left.bytes.checked_sub(size).ok_or_else(|| {
            over(path, limits::SETTINGS_FILES.says("", limits::SETTINGS_FILES.default), named)
        })?;
        Ok(bytes)
    }

    /// Returns the text of a file, without a byte order mark.
    fn text(&mut self, path: &Path, named: &str) -> Result<String, SettingsFileError> {
        self.left.texts = self.left.texts.checked_sub(1).ok_or_else(|| {
            over(path, limits::SETTINGS_TEXTS.says("", limits::SETTINGS_TEXTS.default), named)
        })?;
        let bytes = match self.bytes(path, &limits::SETTINGS_TEXT, named) {
            Err(SettingsFileError::Unusable { why: Unusable::File(FileError::Irregular), .. })
                if path.is_dir() =>
            {
                return Err(unusable(path, Unusable::Folder, named));
            }
            bytes => bytes?,
        };
        if bytes.is_empty() {
            return Err(unusable(path, Unusable::Empty, named));
        }
        match yaml::utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(problem) => {
                Err(SettingsFileError::Invalid(ConfigError::invalid(path, &bytes, vec![problem])))
            }
        }
    }

    /// Returns the texts of the files in a folder by their names. A volume that is swapped meanwhile is read
    /// again, so that no mixture of its old and new files comes into force.
    fn folder(&mut self, folder: &Path, named: &str) -> Result<Map<String, Value>, SettingsFileError> {
        let list = || texts::list(folder).map_err(|(path, why)| unusable(&path, why, named));
        let left = self.left;
        for _ in 0..ATTEMPTS {
            self.left = left;
            let files = list()?;
            let texts = self.texts(&files, named);
            if list()? == files {
                return texts;
            }
        }
        Err(SettingsFileError::BeingWritten)
    }

    fn texts(&mut self, files: &[Listed], named: &str) -> Result<Map<String, Value>, SettingsFileError> {
        let text = |file: &Listed| Ok((file.name.clone(), Value::String(self.text(&file.path, named)?)));
        files.iter().map(text).collect()
    }
}

fn unusable(path: &Path, why: Unusable, named: &str) -> SettingsFileError {
    SettingsFileError::Unusable { path: path.to_owned(), why, named: named.to_owned() }
}

fn over(path: &Path, limit: String, named: &str) -> SettingsFileError {
    unusable(path, Unusable::OverLimit(limit), named)
}
