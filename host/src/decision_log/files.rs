//! The files of the decision log: one that is written, and those before it, of bounded size and number.
//!
//! While a process takes over from another both write. Each does so with the lock of the file (flock(2)), and what it knows of
//! the file is from then.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::DecisionLogConfig;
use crate::file::{Access, FolderError, Privacy, PrivateFolder};
use crate::reviewed::ReviewId;

/// The file that is written.
const CURRENT: &str = "decisions.jsonl";
/// Others are called by the review that came next.
const BEFORE: &str = "decisions-";
const ENDING: &str = ".jsonl";
/// Lines are gathered up to so many bytes.
const BUFFER: usize = 256 * 1024;

/// How long others may write at a time: a disk that works needs a hundredth of it.
const TURN: Duration = Duration::from_secs(2);

/// How often another file may stand there by the time that the lock of one is had. Others begin a new one where it is full.
const TRIES: usize = 100;

/// The file that is written, open.
pub(super) struct Files {
    directory: PathBuf,
    folder: PrivateFolder,
    file: File,
    /// Bytes in it, all of whole lines, while its lock is had.
    length: u64,
    buffer: Vec<u8>,
    buffered: u64,
    written: u64,
}

impl Files {
    /// Opens the file and takes its lock, making the folder (mode 0700) and the file (mode 0600) where there is none.
    ///
    /// # Errors
    /// It cannot be made or written, or another user can exchange the folder or the file.
    pub(super) fn open(config: &DecisionLogConfig) -> io::Result<Files> {
        let directory = config.directory.clone();
        for _ in 0..TRIES {
            let folder = folder(&directory)?;
            let file =
                folder.file(CURRENT, Access::Append).map_err(|error| match io::Error::from(error) {
                    error if error.raw_os_error().is_some() => error,
                    error => io::Error::other(format!("{CURRENT}: {error}")),
                })?;
            let mut files = Files {
                directory: directory.clone(),
                folder,
                file,
                length: 0,
                buffer: Vec::new(),
                buffered: 0,
                written: 0,
            };
            if files.lock(&directory)? {
                files.file.set_permissions(Permissions::from_mode(0o600))?;
                prune(&files.folder, config.files)?;
                return Ok(files);
            }
        }
        Err(io::Error::other(format!("others put another {CURRENT} there again and again: look who does")))
    }

    /// Takes the lock of the file, which others may have written since. Returns whether it is still the one that stands in
    /// `directory`.
    pub(super) fn lock(&mut self, directory: &Path) -> io::Result<bool> {
        let until = Instant::now() + TURN;
        while let Err(error) = self.file.try_lock() {
            match error {
                TryLockError::WouldBlock if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                TryLockError::WouldBlock => {
                    let message =
                        format!("another process has had the lock of {CURRENT} for {TURN:?}: see which one");
                    return Err(io::Error::other(message));
                }
                TryLockError::Error(error) => return Err(error),
            }
        }
        let here = self.file.metadata()?;
        let in_place = self.directory == directory
            && self.folder.stands()
            && self
                .folder
                .stat(CURRENT)
                .is_ok_and(|there| (there.st_dev, there.st_ino) == (here.dev(), here.ino()));
        if in_place {
            self.length = whole_lines(&self.file, here.len())?;
            if self.length < here.len() {
                // The end of a process may have cut its last line.
                self.file.set_len(self.length)?;
            }
        }
        Ok(in_place)
    }

    /// Lets others write.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// Adds a line, after a new file was begun where this one would become too large.
    pub(super) fn add(&mut self, config: &DecisionLogConfig, id: ReviewId, line: &[u8]) -> io::Result<()> {
        // The new one may be full already, of what others write.
        while self.is_full(line.len(), config.file_size) {
            self.flush()?;
            self.rotate(config, id)?;
        }
        self.buffer.extend_from_slice(line);
        self.buffered += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Whether so many bytes more are too many.
    fn is_full(&self, more: usize, file_size: u64) -> bool {
        let length = self.length + self.buffer.len() as u64;
        length > 0 && length + more as u64 > file_size
    }

    /// Writes what was added. A part of it that was written when it fails is taken back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        match &written {
            Ok(()) => {
                self.length += self.buffer.len() as u64;
                self.written += self.buffered;
            }
            // Should this fail as well, the next to take the lock cuts the line.
            Err(_) => drop(self.file.set_len(self.length)),
        }
        self.buffer.clear();
        self.buffered = 0;
        written
    }

    /// How many lines were written since this was asked last.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    fn rotate(&mut self, config: &DecisionLogConfig, next: ReviewId) -> io::Result<()> {
        self.folder.rename(CURRENT, &format!("{BEFORE}{next}{ENDING}"))?;
        let written = self.written;
        *self = Files::open(config)?;
        self.written = written;
        Ok(())
    }
}

fn folder(directory: &Path) -> io::Result<PrivateFolder> {
    PrivateFolder::open(directory, Privacy::Readable).map_err(|error| match error {
        FolderError::NoFolder(path) => io::Error::other(format!(
            "{path} is no folder: remove what stands there, or name another folder as `decisionLog.directory`"
        )),
        error => error.into(),
    })
}

/// Where the last whole line of a file ends that has so many bytes.
fn whole_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut piece = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(piece.len() as u64);
        let read = piece.get_mut(..(end - start) as usize).unwrap_or_default();
        file.read_exact_at(read, start)?;
        if let Some(at) = read.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Removes the oldest files but for so many, the one that is written counted.
fn prune(folder: &PrivateFolder, files: usize) -> io::Result<()> {
    let mut before = folder.names()?;
    before.retain(|name| name.starts_with(BEFORE) && name.ends_with(ENDING));
    before.sort();
    let surplus = (before.len() + 1).saturating_sub(files);
    for name in before.iter().take(surplus) {
        match folder.remove(name) {
            // Somebody else was first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}
