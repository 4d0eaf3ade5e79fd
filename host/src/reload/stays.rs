//! Why a reload leaves all as it is: something is wrong, or not finished.

use std::path::Path;

use super::Problem;
use crate::reload::watch::Watcher;

/// Why all stays as it is.
pub(super) enum Stays {
    /// For what is wrong.
    Broken(Problem),
    /// A file is waited for.
    Unfinished,
}

impl Stays {
    /// For what is wrong with files, unless they may be half of something.
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

/// Reads files, unless one of them is being written.
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
    // Whoever began meanwhile may have been read half.
    if is_written() { Err(Stays::Unfinished) } else { Ok(content) }
}
