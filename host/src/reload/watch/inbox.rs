//! Changes on their way from the system's thread to the thread that reloads, and what else wakes that thread.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::limits;

/// A change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes were written, and more may follow.
    Written,
    /// The writer closed the file, or the file was deleted or moved away.
    Closed,
    /// The file appeared complete, by renaming.
    Renamed,
    /// Another change, or a change of a directory.
    Other,
    /// Events were dropped: by the system, because its queue was full, or by [`Changes`].
    Lost,
}

/// Pending changes, the oldest first.
#[derive(Debug, Default)]
pub struct Changes(Vec<(PathBuf, Change)>);

impl Changes {
    /// Adds a change. One that is equal to the last one is dropped, since a file that is being written causes
    /// an event for each piece. Above the limit all changes become a single [`Change::Lost`].
    pub fn add(&mut self, path: PathBuf, change: Change) {
        let new = (path, change);
        if self.0.last() == Some(&new) {
            return;
        }
        if self.0.len() >= limits::FILE_EVENTS.size() {
            self.0.clear();
            self.0.push((PathBuf::new(), Change::Lost));
            return;
        }
        self.0.push(new);
    }

    /// Removes and returns all changes.
    pub fn take(&mut self) -> Vec<(PathBuf, Change)> {
        std::mem::take(&mut self.0)
    }
}

/// The inbox of the thread that reloads.
#[derive(Default)]
pub(super) struct Inbox {
    content: Mutex<Content>,
    arrived: Condvar,
}

#[derive(Default)]
pub(super) struct Content {
    pub(super) changes: Changes,
    /// How often this process's own mark has arrived (see [`Events`](super::events::Events)).
    pub(super) marks: u64,
    /// Whether a wake-up was requested for a change other than of files.
    pub(super) hinted: bool,
    /// Whether the watching is to end.
    pub(super) stopped: bool,
}

impl Inbox {
    pub(super) fn open(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    /// Changes the content, and wakes the thread that waits for it.
    pub(super) fn put(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock());
        self.arrived.notify_all();
    }

    /// Waits up to `longest` until there is content.
    pub(super) fn wait(&self, longest: Duration) {
        let is_empty =
            |content: &mut Content| content.changes.0.is_empty() && !content.hinted && !content.stopped;
        self.arrived.wait_while_for(&mut self.content.lock(), is_empty, longest);
    }

    /// Waits until the mark has arrived `wanted` times. Returns false after `longest`.
    pub(super) fn wait_for_mark(&self, wanted: u64, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        let mut content = self.content.lock();
        while content.marks < wanted {
            if self.arrived.wait_until(&mut content, until).timed_out() {
                return content.marks >= wanted;
            }
        }
        true
    }
}
