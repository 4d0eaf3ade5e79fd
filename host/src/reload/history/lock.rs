//! The lock of a state directory: held by the host that serves from there, whose process it names.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::StateError;
use crate::fs::{self, Access, FileError, PrivateFolder};
use crate::text;

/// The name of the lock in its folder.
const NAME: &str = "lock";

/// Held as long as the file is open.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, and writes the number of this process into it.
    pub(super) fn take(folder: &PrivateFolder) -> Result<Lock, StateError> {
        let file = folder.file(NAME, Access::Write).or_else(|error| match error {
            // What was recorded there is good for a start all the same.
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                folder.file(NAME, Access::Read)
            }
            _ => Err(error),
        });
        let mut file = file.map_err(|error| io::Error::other(format!("{NAME}: {error}")))?;
        // A lock that others can open, they can hold (flock(2)).
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        match fs::lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse(text::path(folder.path()), named(file)));
            }
            Err(TryLockError::Error(error)) => return Err(StateError::Unusable(error)),
        }
        // A full disk must not keep the host from starting, and whose process it is only tells people where to look.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        Ok(Lock { file })
    }

    /// Whether the file still locks the folder: somebody may have removed it.
    pub(super) fn holds(&self, folder: &PrivateFolder) -> bool {
        let is_same = || -> io::Result<bool> {
            let (one, other) = (self.file.metadata()?, folder.stat(NAME)?);
            Ok((one.dev(), one.ino()) == (other.st_dev, other.st_ino))
        };
        is_same().unwrap_or(false)
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
