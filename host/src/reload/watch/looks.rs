//! Which files are being written, and how long the others have been as they are: by what the system tells, and by what
//! they look like from one look to the next. Pure.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits;

/// What has stayed the same for so long is not half of something.
const SETTLED: Duration = Duration::from_secs(1);

/// What tells one content of a file from another, as far as it can be told without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Fingerprint {
        Fingerprint {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is known of files.
#[derive(Default)]
pub struct Looks {
    looks: BTreeMap<PathBuf, Look>,
    /// Files that are open for writing, by their real paths.
    written: BTreeMap<PathBuf, Writing>,
}

struct Look {
    /// None where there is no file.
    fingerprint: Option<Fingerprint>,
    /// Since when it has been so.
    since: Instant,
    /// Since when it has not stayed the same for long enough.
    restless: Instant,
    /// It changed and nothing told of it, so nothing will tell that it is whole.
    unseen: bool,
}

struct Writing {
    since: Instant,
    last: Instant,
}

impl Looks {
    /// Someone has written to a file, and not closed it yet.
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

    /// Nobody writes to a file any more.
    pub fn closed(&mut self, file: &Path) {
        self.written.remove(file);
        if let Some(look) = self.looks.get_mut(file) {
            look.unseen = false;
        }
    }

    /// It is not known any more who writes to what.
    pub fn all_closed(&mut self) {
        self.written.clear();
    }

    /// The files that were looked at.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.looks.keys().cloned().collect()
    }

    /// Takes note of what a file looks like. `told`: if it has changed, the system has told of it. One that is not `kept` is
    /// forgotten after a while.
    pub fn look(
        &mut self,
        path: PathBuf,
        fingerprint: Option<Fingerprint>,
        kept: bool,
        told: bool,
        now: Instant,
    ) {
        match self.looks.get(&path) {
            Some(look) if look.fingerprint == fingerprint => {
                if !kept && look.settled() <= now {
                    self.looks.remove(&path);
                }
            }
            _ => self.changed(path, fingerprint, !told, now),
        }
    }

    fn changed(&mut self, path: PathBuf, fingerprint: Option<Fingerprint>, unseen: bool, now: Instant) {
        let before = self.looks.get(&path);
        let restless = before.filter(|look| look.since + SETTLED > now).map_or(now, |look| look.restless);
        let look = Look { fingerprint, since: now, restless, unseen: unseen && before.is_some() };
        self.looks.insert(path, look);
    }

    /// Until when a file counts as being written at most; none when it is not. `real` is what `path` leads to.
    pub fn written_until(&self, real: &Path, path: &Path, now: Instant) -> Option<Instant> {
        let open = self.written.get(real).map(Writing::until);
        let unseen = self.looks.get(path).filter(|look| look.unseen).map(Look::settled);
        open.into_iter().chain(unseen).filter(|until| *until > now).max()
    }

    /// Until when a file, which looks so now, counts as having only just become what it is; none when it does not.
    pub fn fresh_until(
        &mut self,
        path: &Path,
        fingerprint: Option<Fingerprint>,
        now: Instant,
    ) -> Option<Instant> {
        let known = self.looks.get(path).is_some_and(|look| look.fingerprint == fingerprint);
        // What nobody has ever seen has not just gone.
        if !known && (fingerprint.is_some() || self.looks.contains_key(path)) {
            self.changed(path.to_owned(), fingerprint, false, now);
        }
        self.looks.get(path).map(Look::settled).filter(|settled| *settled > now)
    }
}

impl Look {
    /// When it counts as what it is.
    fn settled(&self) -> Instant {
        (self.since + SETTLED).min(self.restless + limits::WRITE_TIME.time())
    }
}

impl Writing {
    /// When what it writes counts as it is.
    fn until(&self) -> Instant {
        (self.last + limits::WRITE_PAUSE.time()).min(self.since + limits::WRITE_TIME.time())
    }
}
