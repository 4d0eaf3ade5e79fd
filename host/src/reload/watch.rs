//! Tells that files may have changed, and which of them are being written. Hints only: whoever gets one looks for himself.
//!
//! Directories are watched, never files: a file that is replaced by renaming takes its watch away with it, and a
//! Kubernetes volume changes by swapping the symbolic link `..data` beside the file. Watched is every directory in which a
//! part of a file's path is looked up, those that its symbolic links lead to among them; of those above only whether they
//! are moved or deleted. Since events get lost, and some file systems have none, all is looked at from time to time too.
//!
//! A file that is open for writing is not to be read, and what is wrong with one that has just changed not to be told:
//! it may be half of what it is to become.

mod events;
mod looks;
mod places;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;

use self::events::{Change, Events};
pub use self::looks::{Fingerprint, Looks};
use self::places::Places;
use crate::limits;
use crate::text;

/// Changes come in bursts; this much quiet ends one.
const QUIET: Duration = Duration::from_millis(30);
/// After a rename: what is renamed is whole, and only its neighbours may follow.
const QUIET_AFTER_RENAME: Duration = Duration::from_millis(10);
/// A burst that does not end is answered all the same.
const LONGEST: Duration = Duration::from_millis(250);
/// Events get lost (network and overlay file systems, full queues), so a hint is given this often without any.
const POLL: Duration = Duration::from_secs(10);

/// Which files matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Files, whether they are there or not.
    pub files: BTreeSet<PathBuf>,
    /// Folders of which every file matters whose name does not begin with `.`.
    pub folders: BTreeSet<PathBuf>,
}

/// Watches files.
pub struct Watcher {
    /// In a cell since a reload asks about the files that it reads, and what has happened to them is read then.
    seen: RefCell<Seen>,
    wake: Arc<Wake>,
}

struct Seen {
    /// None where the system gives none: then polling alone must do.
    events: Option<Events>,
    /// Why there are no events, or not from everywhere.
    trouble: Option<String>,
    looks: Looks,
    /// Something has been told of since the last look, so what has changed did not do so unseen.
    told: bool,
    burst: Option<Burst>,
    /// When somebody wants to look again who has been told to wait.
    again: Option<Instant>,
    /// When the last hint was given.
    hinted: Instant,
}

/// Changes that nobody has been told of.
struct Burst {
    began: Instant,
    over: Instant,
}

/// What ends a wait from outside.
struct Wake {
    event: OwnedFd,
    stop: AtomicBool,
}

impl Wake {
    fn up(&self) {
        // It fails only when it is full of wake-ups that nobody has taken yet.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// Ends the watching when dropped.
pub struct StopWatching(Arc<Wake>);

impl Drop for StopWatching {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.up();
    }
}

impl Watcher {
    /// A watcher that watches nothing yet.
    ///
    /// # Errors
    /// The system gives no more file descriptors.
    pub fn new() -> io::Result<(Watcher, StopWatching)> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake = Arc::new(Wake { event, stop: AtomicBool::new(false) });
        let seen = Seen {
            events: None,
            trouble: None,
            looks: Looks::default(),
            told: false,
            burst: None,
            again: None,
            hinted: Instant::now(),
        };
        Ok((Watcher { seen: RefCell::new(seen), wake: Arc::clone(&wake) }, StopWatching(wake)))
    }

    /// Gives a hint at once when it is called: something may have changed that is no file.
    pub fn hinter(&self) -> impl Fn() + Send + Sync + use<> {
        let wake = Arc::clone(&self.wake);
        move || wake.up()
    }

    /// Watches these and no others, and looks at them. What cannot be watched is left to polling; [`Watcher::trouble`] says
    /// why.
    pub fn watch(&mut self, wanted: &Wanted) {
        let seen = self.seen.get_mut();
        let places = Places::of(wanted);
        seen.listen(&places);
        seen.drain();
        let told = std::mem::take(&mut seen.told);
        let now = Instant::now();
        let mut files = places.files.clone();
        files.extend(seen.looks.paths());
        let looks: Vec<_> = files.into_iter().map(|path| (fingerprint(&path), path)).collect();
        // What has just come is told of by now; what it tells of may also be for the next look.
        seen.drain();
        for (fingerprint, path) in looks {
            let kept = places.files.contains(&path);
            seen.looks.look(path, fingerprint, kept, told || seen.told, now);
        }
    }

    /// Why changes are found late, and what helps.
    pub fn trouble(&self) -> Option<String> {
        self.seen.borrow().trouble.clone()
    }

    /// Waits until something may have changed and a burst of changes is over, or until then. False when it is time to stop.
    pub fn wait(&mut self, until: Option<Instant>) -> bool {
        let seen = self.seen.get_mut();
        seen.wait_until(until);
        loop {
            seen.drain();
            let woken = rustix::io::read(&self.wake.event, &mut [0; 8]).is_ok();
            if self.wake.stop.load(Ordering::Acquire) {
                return false;
            }
            let now = Instant::now();
            let left = seen.next_hint().saturating_duration_since(now);
            if woken || left.is_zero() {
                (seen.burst, seen.again, seen.hinted) = (None, None, now);
                return true;
            }
            let mut descriptors = vec![PollFd::new(&self.wake.event, PollFlags::IN)];
            descriptors.extend(seen.events.as_ref().map(|events| PollFd::new(events, PollFlags::IN)));
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            // What goes wrong here is an interruption by a signal.
            let _ = poll(&mut descriptors, Some(&timeout));
        }
    }

    /// Whether a file is being written, and so is not to be read. There will be a hint when that is over, or has gone on for
    /// so long that the file counts as it is.
    pub fn is_written(&self, path: &Path) -> bool {
        let path = &absolute(path);
        let mut seen = self.seen.borrow_mut();
        seen.drain();
        let now = Instant::now();
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let until = seen.looks.written_until(&real, path, now);
        seen.wait_until(until)
    }

    /// Whether a file has only just become what it is, and so what is wrong with it is not to be told. There will be a hint
    /// when it has stayed so for a while.
    pub fn is_fresh(&self, path: &Path) -> bool {
        let path = &absolute(path);
        let mut seen = self.seen.borrow_mut();
        seen.drain();
        let until = seen.looks.fresh_until(path, fingerprint(path), Instant::now());
        seen.wait_until(until)
    }
}

impl Seen {
    fn listen(&mut self, places: &Places) {
        let poll = POLL.as_secs();
        if self.events.is_none() {
            match Events::new() {
                Ok(events) => self.events = Some(events),
                Err(error) => {
                    self.trouble = Some(format!(
                        "changed files are found only every {poll} s, since the system reports no changes: {error} (raise \
                         `sysctl fs.inotify.max_user_instances`, or the limit of open files)"
                    ));
                }
            }
        }
        let Some(events) = &mut self.events else { return };
        let heard = events.watch(&places.directories);
        self.trouble = heard.refused.map(|(directory, error)| {
            let remedy = match error {
                rustix::io::Errno::NOSPC => "raise `sysctl fs.inotify.max_user_watches`",
                _ => "let the host read it",
            };
            let directory = text::path(&directory);
            format!(
                "changes in {directory} are found only every {poll} s, since it cannot be watched: {error} ({remedy})"
            )
        });
        if heard.missed {
            self.changed(Instant::now(), QUIET);
        }
    }

    /// Takes note of what the system has to tell.
    fn drain(&mut self) {
        let Seen { events: Some(events), .. } = self else { return };
        let now = Instant::now();
        for (file, change) in events.read() {
            self.told = true;
            match change {
                Change::Written => self.looks.wrote(file, now),
                Change::Renamed => {
                    self.looks.closed(&file);
                    self.changed(now, QUIET_AFTER_RENAME);
                }
                Change::Closed => {
                    self.looks.closed(&file);
                    self.changed(now, QUIET);
                }
                Change::Other => self.changed(now, QUIET),
                Change::Lost => {
                    self.looks.all_closed();
                    self.changed(now, QUIET);
                }
            }
        }
    }

    fn changed(&mut self, now: Instant, quiet: Duration) {
        let burst = self.burst.get_or_insert(Burst { began: now, over: now });
        burst.over = burst.over.max(now + quiet).min(burst.began + LONGEST);
    }

    /// When the next hint is due, unless something happens before.
    fn next_hint(&self) -> Instant {
        let change = self.burst.as_ref().map(|burst| burst.over).into_iter().chain(self.again).min();
        let change = change.map(|change| change.max(self.hinted + limits::RELOAD_PAUSE.time()));
        change.into_iter().chain([self.hinted + POLL]).min().unwrap_or(self.hinted)
    }

    /// Whether somebody has to wait until then; if so there is a hint.
    fn wait_until(&mut self, until: Option<Instant>) -> bool {
        self.again = self.again.into_iter().chain(until).min();
        until.is_some()
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What tells one content of a file from another, as far as it can be told without reading; none where there is no file.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    fs::metadata(path).ok().as_ref().map(Fingerprint::from)
}
