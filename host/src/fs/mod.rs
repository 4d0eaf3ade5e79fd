//! Files that others write, read whole: never more than a bound, and never one that a reader would wait for.

mod private;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

pub use self::private::{Access, FolderError, Privacy, PrivateFolder, UNFINISHED};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is a folder, a pipe, a device: some have no end, and some wait for whoever writes.
    #[error("it is no regular file")]
    Irregular,
    /// It has so many bytes, and may have so many.
    #[error("it has {0} bytes, the limit is {1}")]
    TooLarge(u64, u64),
    /// Another user can decide its content.
    #[error("{0}")]
    Insecure(String),
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        match error {
            FileError::Unreadable(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// The bytes of a file, in memory: a mapping would not survive that someone truncates it.
///
/// # Errors
/// It cannot be read, is no regular file, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    // Asked before it is opened, because that alone does something to some devices.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(FileError::Irregular);
    }
    if metadata.len() > most {
        return Err(FileError::TooLarge(metadata.len(), most));
    }
    // It may be a pipe by now.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(FileError::Irregular);
    }
    let mut bytes = Vec::new();
    // One that grows may have more than its size says.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        length if length > most => Err(FileError::TooLarge(length, most)),
        _ => Ok(bytes),
    }
}

/// How long the lock of a process that was killed may outlive the process: a child that it was about to start has the lock
/// too, for an instant.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Takes the lock of a file (flock(2)), which is held as long as the file is open.
///
/// # Errors
/// Another process holds the lock, or the file system has no locks.
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
