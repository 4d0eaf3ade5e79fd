//! Whole reads of files that others write, up to a size limit and without waiting for a writer.

pub mod frame;
mod private;

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

pub use self::private::{Access, FolderError, Privacy, PrivateFolder, UNFINISHED};

/// The reason why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A system call failed.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// A folder, a pipe or a device. Some devices have no end, and a pipe blocks until another process
    /// writes.
    #[error("it is no regular file")]
    Irregular,
    /// The file's size and the limit, in bytes.
    #[error("it has {0} bytes, the limit is {1}")]
    TooLarge(u64, u64),
    /// Another user may control the file's content.
    #[error("{0}")]
    Insecure(String),
}

impl FileError {
    /// Returns the next step for a file that a person named, as the end of a message. Returns an empty text
    /// if the error says enough.
    pub fn next_step(&self) -> &'static str {
        match self {
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                ": put it there, or name another file"
            }
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                ": let this user read it, or name another file"
            }
            FileError::Irregular => ": name a file",
            _ => "",
        }
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        match error {
            FileError::Unreadable(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// Metadata that distinguishes versions of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Fingerprint {
        Fingerprint {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads a file into memory. A memory mapping would not survive a truncation by another process.
///
/// # Errors
/// Returns an error if the file cannot be read, is no regular file, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    // Checked before the file is opened, because opening alone has effects on some devices.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(FileError::Irregular);
    }
    if metadata.len() > most {
        return Err(FileError::TooLarge(metadata.len(), most));
    }
    // The path may name a pipe by now, and opening a pipe may block.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(FileError::Irregular);
    }
    let mut bytes = Vec::new();
    // A growing file may hold more bytes than its metadata says.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        length if length > most => Err(FileError::TooLarge(length, most)),
        _ => Ok(bytes),
    }
}

/// Grace period for the lock of a killed process: a child between fork and exec still holds the lock.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Takes the lock of a file (flock(2)) and waits up to `LETTING_GO` for it. The lock is held while the file
/// is open.
///
/// # Errors
/// Returns an error if another process holds the lock, or the file system has no locks.
pub fn lock(file: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + LETTING_GO;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            locked => return locked,
        }
    }
}
