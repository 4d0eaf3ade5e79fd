//! Reports that files may have changed, and which files are being written. A wake-up is only a hint, so its
//! receiver reads the files itself.
//!
//! Directories are watched, never files: a file that is replaced by renaming takes its watch away, and a
//! Kubernetes volume changes by swapping the symbolic link `..data` beside the file. A directory in which a
//! component of a file's path is looked up is watched for that component if the component is the file itself,
//! a symbolic link, or missing. This includes directories reached through symbolic links. Every other
//! directory on the path is watched only for being moved or deleted. Events get lost, and some file systems
//! have none, so all files are polled from time to time too.
//!
//! A file that is open for writing must not be read, and errors in one that has just changed must not be
//! reported: either may be incomplete.

mod plan;
mod events;
mod file_states;
mod inbox;
mod pause;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::events::Events;
pub use self::file_states::FileStates;
use self::inbox::Inbox;
pub use self::inbox::{Change, Changes};
use self::pause::{Burst, QUIET, QUIET_AFTER_RENAME};
use self::plan::WatchPlan;
use crate::fs::Fingerprint;
use crate::limits;
use crate::text;

/// Interval of wake-ups without events: events get lost (network and overlay file systems, full queues).
const POLL: Duration = Duration::from_secs(10);

/// The files to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Files, whether they exist or not.
    pub files: BTreeSet<PathBuf>,
    /// Folders in which every file is watched whose name does not begin with `.`.
    pub folders: BTreeSet<PathBuf>,
}

/// A watcher of files.
pub struct Watcher {
    /// In a cell because the reload, with a shared reference, asks about the files that it reads, and pending
    /// events are read then.
    seen: RefCell<Seen>,
    inbox: Arc<Inbox>,
}

struct Seen {
    inbox: Arc<Inbox>,
    /// None if the system provides no events. Then only polling finds changes.
    events: Option<Events>,
    /// Why there are no events, or none from some directories.
    trouble: Option<String>,
    files: FileStates,
    /// Whether an event came since the last pass, so that a change seen by the next pass was not missed by
    /// the system.
    told: bool,
    burst: Option<Burst>,
    /// When a reload that was deferred wants another pass.
    again: Option<Instant>,
    /// When the last wake-up was given.
    hinted: Instant,
}

/// Guard that ends the watching when dropped.
pub struct StopWatching(Arc<Inbox>);

impl Drop for StopWatching {
    fn drop(&mut self) {
        self.0.put(|content| content.stopped = true);
    }
}

impl Watcher {
    /// Returns a watcher that watches nothing yet.
    pub fn new() -> (Watcher, StopWatching) {
        let inbox: Arc<Inbox> = Arc::default();
        let seen = Seen {
            inbox: Arc::clone(&inbox),
            events: None,
            trouble: None,
            files: FileStates::default(),
            told: false,
            burst: None,
            again: None,
            hinted: Instant::now(),
        };
        (Watcher { seen: RefCell::new(seen), inbox: Arc::clone(&inbox) }, StopWatching(inbox))
    }

    /// Returns a function that causes a wake-up at once, for changes other than of files.
    pub fn hinter(&self) -> impl Fn() + Send + Sync + use<> {
        let inbox = Arc::clone(&self.inbox);
        move || inbox.put(|content| content.hinted = true)
    }

    /// Watches these files and no others, and compares them with the last pass. Directories that cannot be
    /// watched are left to polling; [`Watcher::trouble`] gives the reason.
    pub fn watch(&mut self, wanted: &Wanted) {
        let seen = self.seen.get_mut();
        let plan = WatchPlan::of(wanted);
        seen.listen(&plan);
        seen.drain();
        let told = std::mem::take(&mut seen.told);
        let now = Instant::now();
        let mut files = plan.files.clone();
        files.extend(seen.files.paths());
        let files: Vec<_> = files.into_iter().map(|path| (fingerprint(&path), path)).collect();
        // Events of the changes before these fingerprints arrive with this. An event may also belong to a
        // change that only the next pass sees.
        seen.catch_up();
        for (fingerprint, path) in files {
            let kept = plan.files.contains(&path);
            seen.files.observe(path, fingerprint, kept, told || seen.told, now);
        }
    }

    /// Returns why changes are found late, and the remedy.
    pub fn trouble(&self) -> Option<String> {
        self.seen.borrow().trouble.clone()
    }

    /// Waits until files may have changed and the burst of changes is over, or until the time `until`.
    /// Returns false when the watching is to stop.
    pub fn wait(&mut self, until: Option<Instant>) -> bool {
        let seen = self.seen.get_mut();
        seen.wait_until(until);
        loop {
            seen.drain();
            let (hinted, stopped) = {
                let mut content = self.inbox.open();
                (std::mem::take(&mut content.hinted), content.stopped)
            };
            if stopped {
                return false;
            }
            let now = Instant::now();
            let left = seen.next_hint().saturating_duration_since(now);
            if hinted || left.is_zero() {
                (seen.burst, seen.again, seen.hinted) = (None, None, now);
                return true;
            }
            self.inbox.wait(left);
        }
    }

    /// Reads files. Returns None if one of them is being written or was written during the read, because the
    /// content may be incomplete. A wake-up follows when the writing ends, or when it has lasted so long that
    /// the files are read as they are.
    pub fn read_complete<T>(&self, files: &[&Path], read: impl FnOnce() -> T) -> Option<T> {
        let incomplete = |written: &[PathBuf]| {
            let mut seen = self.seen.borrow_mut();
            files.iter().any(|file| seen.is_incomplete(file, written))
        };
        self.seen.borrow_mut().drain();
        if incomplete(&[]) {
            return None;
        }
        let content = read();
        // The event of a write that was under way when the read began may arrive only now.
        let written = self.seen.borrow_mut().catch_up();
        (!incomplete(&written)).then_some(content)
    }

    /// Returns whether a file is being written. If so, a wake-up follows as for [`Watcher::read_complete`].
    pub fn is_written(&self, path: &Path) -> bool {
        let mut seen = self.seen.borrow_mut();
        seen.catch_up();
        seen.is_incomplete(path, &[])
    }

    /// Returns whether a file changed so recently that errors in it must not be reported. If so, a wake-up
    /// follows when it has stayed unchanged for a while.
    pub fn is_fresh(&self, path: &Path) -> bool {
        let path = &absolute(path);
        let mut seen = self.seen.borrow_mut();
        seen.drain();
        let until = seen.files.fresh_until(path, fingerprint(path), Instant::now());
        seen.wait_until(until)
    }
}

impl Seen {
    fn listen(&mut self, plan: &WatchPlan) {
        let poll = POLL.as_secs();
        self.events.take_if(|events| !events.is_alive());
        if self.events.is_none() {
            match Events::new(Arc::clone(&self.inbox)) {
                Ok(events) => self.events = Some(events),
                Err(error) => {
                    self.trouble = Some(format!(
                        "changed files are found only every {poll} s, since the system reports no changes: \
                            {error} (raise `sysctl fs.inotify.max_user_instances`, or the limit of open \
                            files)"
                    ));
                }
            }
        }
        let Some(events) = &mut self.events else { return };
        let heard = events.watch(&plan.directories);
        self.trouble = heard.refused.map(|(directory, error)| {
            let remedy = match error.kind() {
                io::ErrorKind::StorageFull => "raise `sysctl fs.inotify.max_user_watches`",
                _ => "let the host read it",
            };
            let directory = text::path(&directory);
            format!(
                "changes in {directory} are found only every {poll} s, since it cannot be watched: {error} \
                    ({remedy})"
            )
        });
        if heard.missed {
            self.changed(Instant::now(), QUIET);
        }
    }

    /// Returns whether a file is being written, or is one of those that were `written` during a read. If so,
    /// a wake-up follows.
    fn is_incomplete(&mut self, path: &Path, written: &[PathBuf]) -> bool {
        let (path, now) = (&absolute(path), Instant::now());
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let open = self.files.written_until(&real, path, now);
        // The wake-up for a file that is closed by now follows the closing.
        self.wait_until(open) || written.contains(&real) && !self.files.is_restless(path, now)
    }

    /// Records the events of all changes that came before this call. Returns as [`Seen::drain`] does.
    fn catch_up(&mut self) -> Vec<PathBuf> {
        let lost = self.events.as_ref().is_some_and(|events| !events.arrive());
        let written = self.drain();
        if lost {
            // The next pass watches again, with another thread.
            self.events = None;
            self.files.all_closed();
            self.changed(Instant::now(), QUIET);
        }
        written
    }

    /// Records the events that have arrived. Returns the files to which bytes were written, closed or not.
    fn drain(&mut self) -> Vec<PathBuf> {
        let mut written = Vec::new();
        let Seen { events: Some(events), .. } = self else { return written };
        let now = Instant::now();
        for (file, change) in events.read() {
            self.told = true;
            match change {
                Change::Written => {
                    written.push(file.clone());
                    self.files.wrote(file, now);
                }
                Change::Renamed => {
                    self.files.closed(&file);
                    self.changed(now, QUIET_AFTER_RENAME);
                }
                Change::Closed => {
                    self.files.closed(&file);
                    self.changed(now, QUIET);
                }
                Change::Other => self.changed(now, QUIET),
                Change::Lost => {
                    self.files.all_closed();
                    self.changed(now, QUIET);
                }
            }
        }
        written
    }

    fn changed(&mut self, now: Instant, quiet: Duration) {
        self.burst.get_or_insert_with(|| Burst::new(now)).changed(now, quiet);
    }

    /// Returns when the next wake-up is due if no event comes before.
    fn next_hint(&self) -> Instant {
        let change = self.burst.as_ref().map(Burst::over).into_iter().chain(self.again).min();
        let change = change.map(|change| change.max(self.hinted + limits::RELOAD_PAUSE.time()));
        change.into_iter().chain([self.hinted + POLL]).min().unwrap_or(self.hinted)
    }

    /// Schedules a wake-up for the time `until`. Returns whether there is one.
    fn wait_until(&mut self, until: Option<Instant>) -> bool {
        self.again = self.again.into_iter().chain(until).min();
        until.is_some()
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the fingerprint of a file, or None if there is no file.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    fs::metadata(path).ok().as_ref().map(Fingerprint::from)
}
