//! Reasons why a reload changes nothing: a file is wrong, or incomplete.

use std::path::Path;

use super::Problem;
use crate::reload::watch::Watcher;

/// The reason why a reload changes nothing.
pub(super) enum Stays {
    /// A file or setting is wrong.
    Broken(Problem),
    /// A file may be incomplete.
    Unfinished,
}

impl Stays {
    /// Returns the reason for an error in `files`: `Unfinished` if one of them changed a moment ago and may
    /// be incomplete, otherwise `Broken`.
    pub(super) fn unless_finished(
        watcher: Option<&Watcher>,
        files: &[&Path],
        problem: impl FnOnce() -> Problem,
    ) -> Stays {
        match watcher.is_some_and(|watcher| files.iter().any(|file| watcher.is_fresh(file))) {
            true => Stays::Unfinished,
            false => Stays::Broken(problem()),
        }
    }
}

/// Reads files. Returns `Unfinished` if one of them is being written.
pub(super) fn read_whole<T>(
    watcher: Option<&Watcher>,
    files: &[&Path],
    read: impl FnOnce() -> T,
) -> Result<T, Stays> {
    let is_written = || watcher.is_some_and(|watcher| files.iter().any(|file| watcher.is_written(file)));
    if is_written() {
        return Err(Stays::Unfinished);
    }
    let content = read();
    // A write that began during the read may have been read in part.
    if is_written() { Err(Stays::Unfinished) } else { Ok(content) }
}
