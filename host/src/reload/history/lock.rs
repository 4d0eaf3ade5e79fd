//! The lock of a state directory. The host that serves from the directory holds it, and writes its process id
//! there.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::StateError;
use crate::fs::{self, Access, FileError, PrivateFolder};
use crate::text;

/// File name of the lock.
const NAME: &str = "lock";

/// A lock that is held as long as its file is open.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, and writes the id of this process into it.
    pub(super) fn take(folder: &PrivateFolder) -> Result<Lock, StateError> {
        let file = folder.file(NAME, Access::Write).or_else(|error| match error {
            // On a read-only file system the records still serve for a start.
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                folder.file(NAME, Access::Read)
            }
            _ => Err(error),
        });
        let mut file = file.map_err(|error| io::Error::other(format!("{NAME}: {error}")))?;
        // A user who can open the file can hold the lock (flock(2)), so only the owner may open it.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        match fs::lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse(text::path(folder.path()), named(file)));
            }
            Err(TryLockError::Error(error)) => return Err(StateError::Unusable(error)),
        }
        // A full disk must not prevent a start: the process id only helps people find the host.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        Ok(Lock { file })
    }

    /// Returns whether the file still locks the folder. Someone may have removed or replaced the file.
    pub(super) fn holds(&self, folder: &PrivateFolder) -> bool {
        folder.leads_to(NAME, &self.file)
    }

    /// Returns the process that holds the lock of the folder, or None if no process holds it.
    pub(super) fn holder(folder: &Path) -> Option<String> {
        // The reader may run as a user other than the host's, so the owner of the file is not checked.
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

/// Returns the text in a lock file, which only helps people find the host.
fn named(file: File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    text::escape(text.trim())
}
