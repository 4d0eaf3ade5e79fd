//! Tells that something in a set of directories may have changed. Hints only: whoever gets one looks for himself.
//!
//! Directories are watched, never files: a file that is replaced by renaming takes its watch away with it, and a
//! Kubernetes volume changes by swapping the symbolic link `..data` beside the file. The directory above each is watched
//! too, where one that is deleted, swapped or made anew shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// Changes come in bursts; this much quiet ends one.
const QUIET: Duration = Duration::from_millis(50);
/// A burst that does not end is answered all the same.
const LONGEST: Duration = Duration::from_millis(500);
/// Events get lost (network and overlay file systems, full queues), so a hint is given this often without any.
const POLL: Duration = Duration::from_secs(10);

/// Watches directories.
pub struct Watcher {
    /// None where the system gives no more watches: then polling alone must do.
    events: Option<RecommendedWatcher>,
    /// Where the system was asked to look.
    watched: BTreeSet<PathBuf>,
    /// What is asked for: an event elsewhere, in a directory above, is none of ours.
    wanted: Arc<Mutex<BTreeSet<PathBuf>>>,
    hints: Receiver<Hint>,
    changed: Sender<Hint>,
}

enum Hint {
    Changed,
    Stop,
}

/// Ends the watching when dropped.
pub struct StopWatching(Sender<Hint>);

impl Drop for StopWatching {
    fn drop(&mut self) {
        // An error means that the watcher is gone already.
        let _ = self.0.send(Hint::Stop);
    }
}

impl Watcher {
    /// A watcher that watches nothing yet.
    pub fn new() -> (Watcher, StopWatching) {
        let (sender, hints) = channel();
        let (changed, wanted) = (sender.clone(), Arc::<Mutex<BTreeSet<PathBuf>>>::default());
        let other_changes = sender.clone();
        let asked_for = Arc::clone(&wanted);
        let handler = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| {
                concerns(&asked_for.lock().unwrap_or_else(PoisonError::into_inner), &event)
            }) {
                let _ = changed.send(Hint::Changed);
            }
        };
        let events = notify::recommended_watcher(handler)
            .inspect_err(|error| {
                tracing::warn!(
                    "file changes are not reported by the system, so they are looked for every {} s: {error}",
                    POLL.as_secs()
                );
            })
            .ok();
        let stop = StopWatching(sender);
        let watched = BTreeSet::new();
        (Watcher { events, watched, wanted, hints, changed: other_changes }, stop)
    }

    /// Gives a hint when it is called: something may have changed that is no file.
    pub fn hinter(&self) -> impl Fn() + Send + Sync + use<> {
        let changed = self.changed.clone();
        move || {
            // An error means that nobody waits for hints any more.
            let _ = changed.send(Hint::Changed);
        }
    }

    /// Watches these directories and no others. One that does not exist, or cannot be watched, is left to polling.
    pub fn watch(&mut self, directories: BTreeSet<PathBuf>) {
        let above = directories.iter().filter_map(|directory| directory.parent()).map(Path::to_owned);
        let places: BTreeSet<_> = directories.iter().cloned().chain(above).collect();
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = directories;

        let Some(events) = &mut self.events else { return };
        for gone in self.watched.difference(&places) {
            // It may be gone from the file system too, and its watch with it.
            let _ = events.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for place in places {
            // Watching again is how a directory that was deleted and made anew is found.
            match events.watch(&place, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(place);
                }
                Err(error) => tracing::debug!("{}: left to polling: {error}", place.display()),
            }
        }
        self.watched = watched;
    }

    /// Waits until something may have changed and a burst of changes is over. False when it is time to stop.
    pub fn wait(&self) -> bool {
        match self.hints.recv_timeout(POLL) {
            Ok(Hint::Changed) => {}
            Ok(Hint::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        }
        let burst = Instant::now();
        while let Some(left) = LONGEST.checked_sub(burst.elapsed()) {
            match self.hints.recv_timeout(QUIET.min(left)) {
                Ok(Hint::Changed) => {}
                Ok(Hint::Stop) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}

/// Whether an event is about one of the directories or something in it. A read is no change, and the reload reads what is
/// watched: it would wake itself for ever. An event without a path may be about anything.
fn concerns(directories: &BTreeSet<PathBuf>, event: &notify::Event) -> bool {
    let ours = |path: &PathBuf| {
        directories.contains(path) || path.parent().is_some_and(|parent| directories.contains(parent))
    };
    !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(ours))
}
