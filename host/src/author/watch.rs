//! Changes of the files that an author edits: which files have changed, and when the last of them was saved.

mod concern;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use self::concern::{Changed, watched};
use super::sources::Watched;
use crate::fs::Fingerprint;
use crate::limits;
use crate::reload::watch::{StopWatching, Wanted, Watcher};

/// Files that have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Their paths, sorted.
    pub paths: Vec<PathBuf>,
    /// Time of the last change. A removed file counts as changed when its removal was noticed.
    pub at: SystemTime,
}

/// State of the files that an author edits.
pub struct Follower {
    watcher: Watcher,
    wanted: Wanted,
    known: BTreeMap<PathBuf, Fingerprint>,
}

impl Follower {
    /// Returns a follower that follows nothing yet, and the guard that ends it.
    pub fn new() -> (Follower, StopWatching) {
        let (watcher, stop) = Watcher::new();
        (Follower { watcher, wanted: Wanted::default(), known: BTreeMap::new() }, stop)
    }

    /// Follows these files and no others. A change since a file was last known is reported. A file that was
    /// not followed before is known as it was at the time `since`.
    pub fn follow(&mut self, watched: Watched, since: SystemTime) {
        let before = std::mem::take(&mut self.known);
        let Watched { files, folders } = watched;
        self.wanted = Wanted { files: files.into_iter().collect(), folders: folders.into_iter().collect() };
        let now = fingerprints(&self.wanted);
        let known = now.into_iter().filter_map(|(path, new)| {
            let is_known =
                || !fs::metadata(&path).and_then(|file| file.modified()).is_ok_and(|at| at > since);
            let known = before.get(&path).copied().or_else(|| is_known().then_some(new))?;
            Some((path, known))
        });
        self.known = known.collect();
    }

    /// Waits until files have changed and none of them is being written. Returns None when the following is
    /// to stop.
    pub fn changed(&mut self) -> Option<Saved> {
        loop {
            self.watcher.watch(&self.wanted);
            let now = fingerprints(&self.wanted);
            let changed = now.iter().filter(|(path, new)| self.known.get(*path) != Some(new));
            let removed = self.known.keys().filter(|path| !now.contains_key(*path));
            let mut paths: Vec<_> = changed.map(|(path, _)| path).chain(removed).cloned().collect();
            if !paths.is_empty() && !paths.iter().any(|path| self.watcher.is_written(path)) {
                paths.sort();
                let saved = paths.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max();
                self.known = now;
                return Some(Saved { paths, at: saved.unwrap_or_else(SystemTime::now) });
            }
            if !self.watcher.wait(None) {
                return None;
            }
        }
    }
}

/// Returns the fingerprints of the files that exist, including those in the folders.
fn fingerprints(wanted: &Wanted) -> BTreeMap<PathBuf, Fingerprint> {
    let in_folders = wanted.folders.iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.take(limits::DIRECTORY.size()).map(|entry| entry.path()).filter(|path| !is_hidden(path))
    });
    let files = wanted.files.iter().cloned().chain(in_folders);
    let fingerprint = |path: PathBuf| {
        let metadata = fs::metadata(&path).ok()?;
        // A folder changes with every file in it.
        metadata.is_file().then(|| (path, Fingerprint::from(&metadata)))
    };
    files.filter_map(fingerprint).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_reported_once_and_those_before_following_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "1").unwrap();
        fs::write(path("b"), "1").unwrap();
        let (mut follower, stop) = Follower::new();
        let watched = || Watched { files: vec![path("a"), path("later")], folders: vec![path("")] };
        follower.follow(watched(), SystemTime::now());
        fs::write(path("a"), "22").unwrap();
        let saved = follower.changed().unwrap();
        assert_eq!(saved.paths, [path("a")]);
        assert!(SystemTime::now().duration_since(saved.at).unwrap().as_secs() < 60);

        fs::write(path("later"), "1").unwrap();
        fs::write(path(".hidden"), "1").unwrap();
        fs::remove_file(path("b")).unwrap();
        // Following again does not lose a change.
        follower.follow(watched(), SystemTime::UNIX_EPOCH);
        let mut paths = follower.changed().unwrap().paths;
        paths.sort();
        assert_eq!(paths, [path("later")]);
        drop(stop);
        assert_eq!(follower.changed(), None);
    }
}
