//! The lock of a state directory: held by the host that serves from there, whose process it names.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StateError;
use crate::text;

/// Held as long as the file is open, here or in a process that shares it (flock(2)).
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// How long a host that was killed may still have its lock: a child that it was about to start has it too, for an instant.
const LETTING_GO: Duration = Duration::from_secs(2);

impl Lock {
    /// `shared` is that of a host whose place this one takes.
    pub(super) fn take(folder: &Path, shared: Option<File>) -> Result<Lock, StateError> {
        let path = path_in(folder);
        // host.yaml may have changed meanwhile, and what locks another folder locks nothing here.
        let shared = shared.filter(|shared| is_same(shared, &path).unwrap_or(false));
        let open = |write| File::options().read(true).write(write).create(write).truncate(false).open(&path);
        let own = || {
            open(true).or_else(|error| match error.kind() {
                // What was recorded there is good for a start all the same.
                io::ErrorKind::ReadOnlyFilesystem => open(false),
                _ => Err(error),
            })
        };
        let file = shared.map_or_else(own, Ok)?;
        let until = Instant::now() + LETTING_GO;
        let mut locked = file.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(Lock { file, path }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(text::path(folder), named(file))),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    pub(super) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Names this process.
    pub(super) fn sign(&mut self) {
        // A full disk must not keep the host from starting, and whose process it is only tells people where to look.
        let file = &mut self.file;
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {}", std::process::id()));
    }

    /// Whether it still locks its folder: the file may have been removed, or the folder.
    pub(super) fn holds(&self) -> bool {
        is_same(&self.file, &self.path).unwrap_or(false)
    }

    /// The process whose folder this is; none where nobody holds its lock.
    pub(super) fn holder(folder: &Path) -> Option<String> {
        let file = File::open(path_in(folder)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(named(file)),
            _ => None,
        }
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("lock")
}

/// What stands in a lock; it only tells people where to look.
fn named(file: File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    text::printable(text.trim())
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let (one, other) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}
