//! The lock of a state directory: held by the host that serves from there, whose process it names.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::StateError;
use crate::file::{Access, FileError, PrivateFolder};
use crate::text;

/// The name of the lock in its folder.
const NAME: &str = "lock";

/// Held as long as the file is open, here or in a process that shares it (flock(2)).
pub(super) struct Lock {
    file: File,
}

/// How long a host that was killed may still have its lock: a child that it was about to start has it too, for an instant.
const LETTING_GO: Duration = Duration::from_secs(2);

impl Lock {
    /// `shared` is that of a host whose place this one takes.
    pub(super) fn take(folder: &PrivateFolder, shared: Option<File>) -> Result<Lock, StateError> {
        // host.yaml may have changed meanwhile, and what locks another folder locks nothing here.
        let shared = shared.filter(|shared| is_same(shared, folder).unwrap_or(false));
        let own = || {
            folder.file(NAME, Access::Write).or_else(|error| match error {
                // What was recorded there is good for a start all the same.
                FileError::Unreadable(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    folder.file(NAME, Access::Read)
                }
                _ => Err(error),
            })
        };
        let named_lock = |error: FileError| io::Error::other(format!("{NAME}: {error}"));
        let file = shared.map_or_else(own, Ok).map_err(named_lock)?;
        // A lock that others can open, they can hold (flock(2)).
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        let until = Instant::now() + LETTING_GO;
        let mut locked = file.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(Lock { file }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(text::path(folder.path()), named(file))),
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

    /// Whether the file still locks the folder: somebody may have removed it.
    pub(super) fn holds(&self, folder: &PrivateFolder) -> bool {
        is_same(&self.file, folder).unwrap_or(false)
    }

    /// Returns the process whose folder this is, or None where no process holds the lock.
    pub(super) fn holder(folder: &Path) -> Option<String> {
        // The reader may be another user than the host's, so nothing is asked of the owner.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(folder.join(NAME), flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(named(file)),
            _ => None,
        }
    }
}

/// What stands in a lock; it only tells people where to look.
fn named(file: File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    text::printable(text.trim())
}

fn is_same(file: &File, folder: &PrivateFolder) -> io::Result<bool> {
    let (one, other) = (file.metadata()?, folder.stat(NAME)?);
    Ok((one.dev(), one.ino()) == (other.st_dev, other.st_ino))
}
