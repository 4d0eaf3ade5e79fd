//! The state of each file: whether it is being written, and how long it has been unchanged, which decides
//! when an error in it is believed. The sources are the system's events and the fingerprints of successive
//! passes. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fs::Fingerprint;
use crate::limits;

/// Time without change after which a file counts as complete.
const SETTLED: Duration = Duration::from_secs(1);

/// The state of the files.
#[derive(Default)]
pub struct FileStates {
    states: BTreeMap<PathBuf, FileState>,
    /// Files that are open for writing, by their real paths.
    written: BTreeMap<PathBuf, Writing>,
}

struct FileState {
    /// None if there is no file.
    fingerprint: Option<Fingerprint>,
    /// When the file took this form.
    since: Instant,
    /// When the current series of changes began, in which no form lasted for [`SETTLED`].
    unsettled_since: Instant,
    /// Whether the file changed without an event. Then no event will report its completion either.
    missed: bool,
}

struct Writing {
    since: Instant,
    last: Instant,
}

impl FileStates {
    /// Records that bytes were written to a file that is not closed yet.
    pub fn wrote(&mut self, file: PathBuf, now: Instant) {
        if self.written.len() >= limits::WRITTEN_FILES.size() {
            self.written.retain(|_, writing| writing.until() > now);
        }
        if let Some(writing) = self.written.get_mut(&file) {
            writing.last = now;
        } else if self.written.len() < limits::WRITTEN_FILES.size() {
            self.written.insert(file, Writing { since: now, last: now });
        }
    }

    /// Records that a file is no longer being written.
    pub fn closed(&mut self, file: &Path) {
        self.written.remove(file);
        if let Some(state) = self.states.get_mut(file) {
            state.missed = false;
        }
    }

    /// Forgets which files are being written, after events were lost.
    pub fn all_closed(&mut self) {
        self.written.clear();
    }

    /// Returns the files whose state is known.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.states.keys().cloned().collect()
    }

    /// Records the fingerprint of a file. The flag `told` means that the system reported events, so the
    /// system did not miss a change. A file that is not `kept` is removed once it has settled.
    pub fn observe(
        &mut self,
        path: PathBuf,
        fingerprint: Option<Fingerprint>,
        kept: bool,
        told: bool,
        now: Instant,
    ) {
        match self.states.get(&path) {
            Some(state) if state.fingerprint == fingerprint => {
                if !kept && state.settled() <= now {
                    self.states.remove(&path);
                }
            }
            _ => self.changed(path, fingerprint, !told, now),
        }
    }

    fn changed(&mut self, path: PathBuf, fingerprint: Option<Fingerprint>, missed: bool, now: Instant) {
        let before = self.states.get(&path);
        let unsettled_since =
            before.filter(|state| state.since + SETTLED > now).map_or(now, |state| state.unsettled_since);
        let state =
            FileState { fingerprint, since: now, unsettled_since, missed: missed && before.is_some() };
        self.states.insert(path, state);
    }

    /// Returns until when a file counts as being written at the latest, or None if it does not. `real` is the
    /// path to which `path` resolves.
    pub fn written_until(&self, real: &Path, path: &Path, now: Instant) -> Option<Instant> {
        let open = self.written.get(real).map(Writing::until);
        let missed = self.states.get(path).filter(|state| state.missed).map(FileState::settled);
        open.into_iter().chain(missed).filter(|until| *until > now).max()
    }

    /// Returns whether a file has changed for so long that it is read as it is, although it still changes.
    pub fn is_restless(&self, path: &Path, now: Instant) -> bool {
        let state = self.states.get(path).filter(|state| state.since + SETTLED > now);
        state.is_some_and(|state| state.settled() <= now)
    }

    /// Records the current fingerprint of a file, and returns until when the file counts as freshly changed.
    /// Returns None if the file has settled.
    pub fn fresh_until(
        &mut self,
        path: &Path,
        fingerprint: Option<Fingerprint>,
        now: Instant,
    ) -> Option<Instant> {
        let known = self.states.get(path).is_some_and(|state| state.fingerprint == fingerprint);
        // A file that is missing and was never seen has not just been removed.
        if !known && (fingerprint.is_some() || self.states.contains_key(path)) {
            self.changed(path.to_owned(), fingerprint, false, now);
        }
        self.states.get(path).map(FileState::settled).filter(|settled| *settled > now)
    }
}

impl FileState {
    /// Returns when the file counts as complete.
    fn settled(&self) -> Instant {
        (self.since + SETTLED).min(self.unsettled_since + limits::WRITE_TIME.time())
    }
}

impl Writing {
    /// Returns when the file is read as it is, although it is still open for writing.
    fn until(&self) -> Instant {
        (self.last + limits::WRITE_PAUSE.time()).min(self.since + limits::WRITE_TIME.time())
    }
}
