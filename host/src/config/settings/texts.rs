//! The sources of the texts that `settingsFiles` puts into settings.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::reader::Unusable;
use crate::fs::{FileError, Fingerprint};
use crate::limits;

/// The source of a setting that is a text, or a map of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// A file. The setting is its text.
    File(PathBuf),
    /// A folder. The setting is a map with the text of each file under the file's name. Files whose names
    /// begin with `.` or end in `~` are left out: parts of a mounted volume, and copies by editors.
    Folder(PathBuf),
}

/// A file in a folder of texts, as it was when the folder was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) path: PathBuf,
    fingerprint: Fingerprint,
}

impl TextSource {
    /// Returns the source at `path`, which is a folder if it is `written` with `/` at its end.
    pub fn of(written: &str, path: PathBuf) -> TextSource {
        if written.ends_with('/') { TextSource::Folder(path) } else { TextSource::File(path) }
    }

    /// Returns the path of the file or folder.
    pub fn path(&self) -> &Path {
        let (TextSource::File(path) | TextSource::Folder(path)) = self;
        path
    }

    /// Returns the file, or the folder and the files in it, up to their limit.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path().to_owned()];
        if let TextSource::Folder(folder) = self {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let entries = entries.take(limits::SETTINGS_TEXTS.size()).map(|entry| entry.path());
            files.extend(entries.filter(|path| path.file_name().is_some_and(is_text)));
        }
        files
    }

    /// Returns the file of the text at a JSON Pointer of one or two tokens, the second of which is `name`.
    pub(super) fn file_of(&self, name: Option<&str>) -> Option<PathBuf> {
        match (self, name) {
            (TextSource::File(path), None) => Some(path.clone()),
            (TextSource::Folder(folder), Some(name)) => Some(folder.join(name)),
            _ => None,
        }
    }
}

/// Lists the texts in a folder, sorted by name.
///
/// # Errors
/// Returns the path of the folder or of a file in it, and the reason why it cannot be used.
pub(super) fn list(folder: &Path) -> Result<Vec<Listed>, (PathBuf, Unusable)> {
    let of_folder = |why| (folder.to_owned(), why);
    let unreadable = |error: std::io::Error| of_folder(Unusable::File(FileError::Unreadable(error)));
    if !fs::metadata(folder).map_err(unreadable)?.is_dir() {
        return Err(of_folder(Unusable::NoFolder));
    }
    let mut texts = Vec::new();
    for (number, entry) in fs::read_dir(folder).map_err(unreadable)?.enumerate() {
        if number >= limits::SETTINGS_TEXTS.size() {
            let limit = limits::SETTINGS_TEXTS.says("", limits::SETTINGS_TEXTS.default);
            return Err(of_folder(Unusable::OverLimit(limit)));
        }
        let entry = entry.map_err(unreadable)?;
        if !is_text(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err((path, Unusable::Subfolder)),
            Ok(metadata) => metadata,
            Err(error) => return Err((path, Unusable::File(FileError::Unreadable(error)))),
        };
        let Ok(name) = entry.file_name().into_string() else { return Err((path, Unusable::Name)) };
        texts.push(Listed { name, path, fingerprint: Fingerprint::from(&metadata) });
    }
    if texts.is_empty() {
        return Err(of_folder(Unusable::NoFile));
    }
    texts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(texts)
}

fn is_text(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b".") && !name.ends_with(b"~")
}
