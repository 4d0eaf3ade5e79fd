//! Events of changes in directories, from the crate `notify`.
//!
//! notify reads the system's events in a thread of its own. It follows whole directories, so events of other
//! names are dropped here. It knows a directory by its path alone: a directory that was moved or deleted is
//! marked as *stale*, and the next call of [`Events::watch`] removes its watch and watches again whatever has
//! the path by then. notify does not report that a file system was unmounted, which only polling finds, and
//! reports writes to a file that was removed while a process had it open, as if they were writes to the file
//! that has the name now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::inbox::{Change, Inbox};
use super::plan::NameFilter;

/// How long [`Events::arrive`] waits for notify's thread. That thread needs microseconds; one that needs more
/// than this has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Only Linux reports that a writer has closed a file. Elsewhere a file is complete when it has stayed
/// unchanged for a while, so a write is a change like any other.
const REPORTS_CLOSING: bool = cfg!(target_os = "linux");

/// A source of events of changes in directories.
pub(super) struct Events {
    watcher: RecommendedWatcher,
    inbox: Arc<Inbox>,
    /// The names that matter, by directory. notify's thread reads them.
    names: Arc<Mutex<HashMap<PathBuf, NameFilter>>>,
    /// The directories with a watch.
    watched: BTreeMap<PathBuf, Identity>,
    /// Directories whose watch may belong to another directory than the one that has the path now.
    stale: HashSet<PathBuf>,
    mark: Option<Mark>,
    /// Lives as long as notify's thread, which panics on errors that should not occur.
    thread: Weak<()>,
}

/// Device and inode. A directory that was deleted and created again is another one.
type Identity = (u64, u64);

/// The result of watching directories.
pub(super) struct Heard {
    /// Whether events may have been missed: a directory is newly watched, or one disappeared after its path
    /// was resolved.
    pub(super) missed: bool,
    /// A directory that exists and cannot be watched, with the reason.
    pub(super) refused: Option<(PathBuf, io::Error)>,
}

impl Events {
    /// Returns a source that watches nothing yet, and puts changes into `inbox`.
    pub(super) fn new(inbox: Arc<Inbox>) -> io::Result<Events> {
        let names: Arc<Mutex<HashMap<PathBuf, NameFilter>>> = Arc::default();
        let mark = Mark::new();
        let living = Arc::new(());
        let thread = Arc::downgrade(&living);
        let filter = Filter {
            inbox: Arc::clone(&inbox),
            names: Arc::clone(&names),
            mark: mark.as_ref().map(|mark| mark.path.clone()),
            _living: living,
        };
        let handler = move |event: notify::Result<Event>| filter.handle(event);
        let mut watcher = notify::recommended_watcher(handler).map_err(system_error)?;
        // Without the mark, events of a change may arrive after the change was seen.
        let mark = mark.filter(|mark| watcher.watch(&mark.path, RecursiveMode::NonRecursive).is_ok());
        let (watched, stale) = (BTreeMap::new(), HashSet::new());
        Ok(Events { watcher, inbox, names, watched, stale, mark, thread })
    }

    /// Watches these directories and no others. A directory that was deleted and created again counts as a
    /// new one.
    pub(super) fn watch(&mut self, directories: &BTreeMap<PathBuf, NameFilter>) -> Heard {
        let mut heard = Heard { missed: false, refused: None };
        let plan = self.plan(directories, &mut heard);
        let names = plan.iter().map(|(path, (_, names))| (path.clone(), names.clone())).collect();
        // Set before a watch is added, so that no event of the watch is dropped.
        *self.names.lock() = names;
        let mut gone: Vec<PathBuf> = Vec::new();
        for (path, identity) in &self.watched {
            let same = plan.get(path).is_some_and(|(wanted, _)| wanted == identity);
            if !same || self.stale.contains(path) {
                gone.push(path.clone());
            }
        }
        self.stale.clear();
        // Removed first: two paths to one directory share the system's watch.
        for path in gone {
            // notify has removed the watch of a deleted directory already.
            let _ = self.watcher.unwatch(&path);
            self.watched.remove(&path);
        }
        for (path, (identity, names)) in plan {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::NonRecursive).map_err(system_error) {
                Ok(()) => {
                    self.watched.insert(path, identity);
                    heard.missed = true;
                }
                Err(error) => heard.failed(path, &names, error),
            }
        }
        heard
    }

    /// Returns the directories, each by one path only, with the names of all its paths.
    fn plan(
        &self,
        directories: &BTreeMap<PathBuf, NameFilter>,
        heard: &mut Heard,
    ) -> BTreeMap<PathBuf, (Identity, NameFilter)> {
        let mut paths: HashMap<Identity, PathBuf> = HashMap::new();
        let mut plan: BTreeMap<PathBuf, (Identity, NameFilter)> = BTreeMap::new();
        for (path, names) in directories {
            match identity(path) {
                Ok(identity) => {
                    let path = paths.entry(identity).or_insert_with(|| path.clone());
                    let (_, all) = plan.entry(path.clone()).or_insert((identity, NameFilter::default()));
                    all.extend(names);
                }
                Err(error) => heard.failed(path.clone(), names, error),
            }
        }
        plan
    }

    /// Waits until the events of all changes that came before this call are in the inbox. Returns false if
    /// notify's thread has ended or hangs.
    ///
    /// The call causes an event of its own, which arrives after those that the system has queued before.
    pub(super) fn arrive(&self) -> bool {
        let wanted = self.inbox.open().marks + 1;
        let opened = self.mark.as_ref().is_some_and(|mark| File::open(&mark.path).is_ok());
        if opened { self.inbox.wait_for_mark(wanted, PATIENCE) } else { self.is_alive() }
    }

    /// Returns whether notify's thread runs.
    pub(super) fn is_alive(&self) -> bool {
        self.thread.strong_count() > 0
    }

    /// Returns the changes since the last call, of the watched names only.
    pub(super) fn read(&mut self) -> Vec<(PathBuf, Change)> {
        let changes = self.inbox.open().changes.take();
        for (path, change) in &changes {
            match change {
                // notify drops the watches of all directories below one that goes.
                Change::Closed => {
                    let from =
                        self.watched.range::<Path, _>((Bound::Included(path.as_path()), Bound::Unbounded));
                    let below =
                        from.map(|(watched, _)| watched).take_while(|watched| watched.starts_with(path));
                    self.stale.extend(below.cloned());
                }
                Change::Lost => self.stale.extend(self.watched.keys().cloned()),
                Change::Written | Change::Renamed | Change::Other => {}
            }
        }
        changes
    }
}

impl Heard {
    fn failed(&mut self, directory: PathBuf, names: &NameFilter, error: io::Error) {
        match error.kind() {
            // The directory is gone since its path was resolved, and its watch with it.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.missed = true,
            // No name in this directory matters.
            io::ErrorKind::PermissionDenied if names.is_empty() => {}
            _ => {
                self.refused.get_or_insert((directory, error));
            }
        }
    }
}

fn identity(directory: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok((metadata.dev(), metadata.ino()))
}

fn system_error(error: notify::Error) -> io::Error {
    match error.kind {
        ErrorKind::Io(error) => error,
        ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        ErrorKind::MaxFilesWatch => Errno::NOSPC.into(),
        _ => io::Error::other(error),
    }
}

/// A file in memory that only this process opens. Each opening is an event.
struct Mark {
    path: PathBuf,
    /// Keeps the path valid.
    _file: rustix::fd::OwnedFd,
}

impl Mark {
    #[cfg(target_os = "linux")]
    fn new() -> Option<Mark> {
        use rustix::fd::AsRawFd;
        let file = rustix::fs::memfd_create("mark", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        Some(Mark { path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())), _file: file })
    }

    /// Returns None: only inotify(7) reports that a file is opened.
    #[cfg(not(target_os = "linux"))]
    fn new() -> Option<Mark> {
        None
    }
}

/// Puts the events that matter into the inbox. It runs in notify's thread.
struct Filter {
    inbox: Arc<Inbox>,
    names: Arc<Mutex<HashMap<PathBuf, NameFilter>>>,
    mark: Option<PathBuf>,
    _living: Arc<()>,
}

impl Filter {
    fn handle(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.add(PathBuf::new(), Change::Lost) };
        if event.need_rescan() {
            return self.add(PathBuf::new(), Change::Lost);
        }
        let Some(path) = event.paths.first() else { return };
        match change(event.kind) {
            Some(change) if self.matters(path, change, event.kind) => self.add(path.clone(), change),
            None if self.mark.as_ref() == Some(path) => self.inbox.put(|content| content.marks += 1),
            _ => {}
        }
    }

    fn add(&self, path: PathBuf, change: Change) {
        self.inbox.put(|content| content.changes.add(path, change));
    }

    fn matters(&self, path: &Path, change: Change, kind: EventKind) -> bool {
        let names = self.names.lock();
        // Of a directory without a name that matters, only its coming and going count.
        let counts = |itself: &NameFilter| {
            !itself.is_empty() || change != Change::Other || matches!(kind, EventKind::Create(_))
        };
        if names.get(path).is_some_and(counts) {
            return true;
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return false };
        names.get(directory).is_some_and(|names| names.matters(name))
    }
}

/// Returns the change that an event reports. Returns None for a file that is only opened or read, and for the
/// event by which notify repeats the two of a renaming.
fn change(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::From))
        | EventKind::Remove(_) => Some(Change::Closed),
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Change::Renamed),
        EventKind::Modify(ModifyKind::Data(_)) if REPORTS_CLOSING => Some(Change::Written),
        _ => Some(Change::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(directories: &[&Path]) -> BTreeMap<PathBuf, NameFilter> {
        directories.iter().map(|directory| ((*directory).to_owned(), NameFilter::all())).collect()
    }

    fn arrived(events: &mut Events) -> Vec<(PathBuf, Change)> {
        assert!(events.arrive());
        events.read()
    }

    #[test]
    fn a_directory_that_is_gone_when_it_is_to_be_watched_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("policies");
        fs::create_dir(&inner).unwrap();
        let all = BTreeMap::from([
            (folder.path().to_owned(), NameFilter::default()),
            (inner.clone(), NameFilter::default()),
        ]);
        let mut events = Events::new(Arc::default()).unwrap();
        assert!(events.watch(&all).missed);
        assert!(!events.watch(&all).missed);
        fs::rename(&inner, folder.path().join("old")).unwrap();
        assert!(events.watch(&all).missed);
    }

    #[test]
    fn a_change_before_the_call_has_arrived_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let mut events = Events::new(Arc::default()).unwrap();
        events.watch(&all(&[folder.path()]));
        for number in 0..500 {
            let mut writer = File::create(&file).unwrap();
            io::Write::write_all(&mut writer, b"half").unwrap();
            assert_eq!(arrived(&mut events).last(), Some(&(file.clone(), Change::Written)), "{number}");
            drop(writer);
            assert_eq!(arrived(&mut events), [(file.clone(), Change::Closed)], "{number}");
        }
        // A reader causes no event, and neither does a name that does not matter.
        fs::read(&file).unwrap();
        fs::write(folder.path().join(".hidden"), "").unwrap();
        assert_eq!(arrived(&mut events), []);
    }

    #[test]
    fn a_directory_that_takes_a_path_is_watched_and_one_that_left_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (outer, inner) = (at("a"), at("a/b"));
        let directories =
            BTreeMap::from([(outer.clone(), NameFilter::default()), (inner.clone(), NameFilter::all())]);
        let mut events = Events::new(Arc::default()).unwrap();
        for number in 0..100 {
            fs::create_dir_all(&inner).unwrap();
            while events.watch(&directories).missed {
                arrived(&mut events);
            }
            fs::write(inner.join("file"), "").unwrap();
            assert!(arrived(&mut events).contains(&(inner.join("file"), Change::Closed)), "{number}");
            match number % 3 {
                0 => fs::rename(&outer, at(&format!("old{number}"))).unwrap(),
                1 => fs::remove_dir_all(&outer).unwrap(),
                _ => fs::rename(&inner, at(&format!("old{number}"))).unwrap(),
            }
            assert!(!arrived(&mut events).is_empty(), "{number}");
            if number % 3 == 0 {
                assert!(events.watch(&directories).missed);
                arrived(&mut events);
                fs::write(at(&format!("old{number}/b/file")), "").unwrap();
                assert_eq!(arrived(&mut events), [], "{number}");
            }
        }
    }

    #[test]
    fn two_paths_to_one_directory_have_the_names_of_both() {
        let mut heard = Heard { missed: false, refused: None };
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().to_owned(), folder.path().join("."));
        let events = Events::new(Arc::default()).unwrap();
        let directories = BTreeMap::from([
            (one, NameFilter::default()),
            (other.join("../").join(folder.path().file_name().unwrap()), NameFilter::all()),
        ]);
        let plan = events.plan(&directories, &mut heard);
        assert_eq!(plan.len(), 1);
        assert!(plan.values().all(|(_, names)| !names.is_empty()) && !heard.missed);
    }
}
