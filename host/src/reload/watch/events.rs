//! Events of changes in directories, from inotify(7).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::places::Names;

/// Size of the read buffer in bytes: room for hundreds of events.
const BUFFER: usize = 64 * 1024;

/// A change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Bytes were written, and more may follow.
    Written,
    /// The writer closed the file, or the file was deleted or moved away.
    Closed,
    /// The file appeared complete, by renaming.
    Renamed,
    /// Another change, or a change of a directory.
    Other,
    /// The system dropped events, because its queue was full.
    Lost,
}

/// A reader of changes in directories.
pub(super) struct Events {
    inotify: OwnedFd,
    buffer: Vec<MaybeUninit<u8>>,
    watched: HashMap<i32, (PathBuf, Names)>,
}

/// The result of watching directories.
pub(super) struct Heard {
    /// Whether events may have been missed: a directory is newly watched, or one disappeared after its path
    /// was resolved.
    pub(super) missed: bool,
    /// A directory that exists and cannot be watched, with the reason.
    pub(super) refused: Option<(PathBuf, Errno)>,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Events {
    pub(super) fn new() -> Result<Events, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Events { inotify, buffer: vec![MaybeUninit::uninit(); BUFFER], watched: HashMap::new() })
    }

    /// Watches these directories and no others. A directory that was deleted and created again counts as a
    /// new one.
    pub(super) fn watch(&mut self, directories: &BTreeMap<PathBuf, Names>) -> Heard {
        let mut watched: HashMap<i32, (PathBuf, Names)> = HashMap::new();
        let mut refused = None;
        let mut gone_meanwhile = false;
        for (directory, names) in directories {
            match self.add(directory, names) {
                // Several paths to the same directory share one watch.
                Ok(number) => {
                    watched
                        .entry(number)
                        .or_insert_with(|| (directory.clone(), Names::default()))
                        .1
                        .extend(names);
                }
                // The watch on the parent directory covers other names only, so no event reported the
                // removal.
                Err(Errno::NOENT | Errno::NOTDIR) => gone_meanwhile = true,
                // No name in this directory matters.
                Err(Errno::ACCESS) if names.is_empty() => {}
                Err(error) => refused = refused.or(Some((directory.clone(), error))),
            }
        }
        for gone in self.watched.keys().filter(|number| !watched.contains_key(number)) {
            // A deleted directory has lost its watch already.
            let _ = inotify::remove_watch(&self.inotify, *gone);
        }
        let new = watched.keys().any(|number| !self.watched.contains_key(number));
        self.watched = watched;
        Heard { missed: new || gone_meanwhile, refused }
    }

    fn add(&self, directory: &Path, names: &Names) -> Result<i32, Errno> {
        // Flags are added, since another path to the same directory may have set flags before.
        let itself =
            WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        let inside = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::EXCL_UNLINK;
        let flags = if names.is_empty() { itself } else { itself | inside };
        inotify::add_watch(&self.inotify, directory, flags)
    }

    /// Returns the changes since the last call, of the watched names only.
    pub(super) fn read(&mut self) -> Vec<(PathBuf, Change)> {
        let mut changes = Vec::new();
        let mut reader = Reader::new(&self.inotify, &mut self.buffer);
        // An error means that no more events are pending.
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push((PathBuf::new(), Change::Lost));
                continue;
            }
            // Events of removed watches may still arrive.
            let Some((directory, names)) = self.watched.get(&event.wd()) else { continue };
            match event.file_name() {
                Some(name) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    if names.matters(name) {
                        let change = (directory.join(name), change(flags));
                        // A file that is being written causes an event for each piece.
                        if changes.last() != Some(&change) {
                            changes.push(change);
                        }
                    }
                }
                None => changes.push((directory.clone(), Change::Other)),
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.watched.remove(&event.wd());
            }
        }
        changes
    }
}

fn change(flags: ReadFlags) -> Change {
    if flags.contains(ReadFlags::MODIFY) {
        Change::Written
    } else if flags.contains(ReadFlags::MOVED_TO) {
        Change::Renamed
    } else if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        Change::Closed
    } else {
        Change::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_gone_when_it_is_to_be_watched_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("policies");
        std::fs::create_dir(&inner).unwrap();
        let all =
            BTreeMap::from([(folder.path().to_owned(), Names::default()), (inner.clone(), Names::default())]);
        let mut events = Events::new().unwrap();
        assert!(events.watch(&all).missed);
        assert!(!events.watch(&all).missed);
        std::fs::rename(&inner, folder.path().join("old")).unwrap();
        assert!(events.watch(&all).missed);
    }
}
