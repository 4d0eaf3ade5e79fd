//! What the system tells of changes in directories: inotify(7).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::places::Names;

/// Room for what is read at once, in bytes: hundreds of events.
const BUFFER: usize = 64 * 1024;

/// What has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Bytes were written to it, by someone who may go on.
    Written,
    /// Whoever wrote to it is done, or it is gone.
    Closed,
    /// It has come whole, by renaming.
    Renamed,
    /// Something else, or something to a directory.
    Other,
    /// More has happened than the system keeps.
    Lost,
}

/// Reports changes in directories.
pub(super) struct Events {
    inotify: OwnedFd,
    buffer: Vec<MaybeUninit<u8>>,
    watched: HashMap<i32, (PathBuf, Names)>,
}

/// What became of watching directories.
pub(super) struct Heard {
    /// Events may have been missed: a directory is watched that was not before, or one is gone since its place was found.
    pub(super) missed: bool,
    /// One that exists and cannot be watched, and why.
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

    /// Watches these directories and no others. One that was deleted and made anew is another.
    pub(super) fn watch(&mut self, directories: &BTreeMap<PathBuf, Names>) -> Heard {
        let mut watched: HashMap<i32, (PathBuf, Names)> = HashMap::new();
        let mut refused = None;
        let mut gone_meanwhile = false;
        for (directory, names) in directories {
            match self.add(directory, names) {
                // The same directory at another place has one watch.
                Ok(number) => {
                    watched
                        .entry(number)
                        .or_insert_with(|| (directory.clone(), Names::default()))
                        .1
                        .extend(names);
                }
                // The directory above was asked for other names only, so it has not told.
                Err(Errno::NOENT | Errno::NOTDIR) => gone_meanwhile = true,
                // Nothing that matters is in it.
                Err(Errno::ACCESS) if names.is_empty() => {}
                Err(error) => refused = refused.or(Some((directory.clone(), error))),
            }
        }
        for gone in self.watched.keys().filter(|number| !watched.contains_key(number)) {
            // It may be gone from the file system too, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, *gone);
        }
        let new = watched.keys().any(|number| !self.watched.contains_key(number));
        self.watched = watched;
        Heard { missed: new || gone_meanwhile, refused }
    }

    fn add(&self, directory: &Path, names: &Names) -> Result<i32, Errno> {
        // Added, since the same directory may be asked for at another place.
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

    /// What has happened since, to what matters.
    pub(super) fn read(&mut self) -> Vec<(PathBuf, Change)> {
        let mut changes = Vec::new();
        let mut reader = Reader::new(&self.inotify, &mut self.buffer);
        // An error means that there is no more.
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push((PathBuf::new(), Change::Lost));
                continue;
            }
            // Those that were watched before still come.
            let Some((directory, names)) = self.watched.get(&event.wd()) else { continue };
            match event.file_name() {
                Some(name) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    if names.matters(name) {
                        let change = (directory.join(name), change(flags));
                        // A file that is written comes with an event for each piece.
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
