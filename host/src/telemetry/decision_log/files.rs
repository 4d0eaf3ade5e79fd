//! The files of the decision log: the current one and the rotated ones, limited in size and number.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::DecisionLogConfig;
use crate::fs::{self, Access, FolderError, Privacy, PrivateFolder};
use crate::telemetry::answered::ReviewId;

/// Name of the current file.
pub(super) const CURRENT: &str = "decisions.jsonl";
/// Prefix of the names of rotated files. After it comes the id of the first review of the next file.
const BEFORE: &str = "decisions-";
const ENDING: &str = ".jsonl";
/// Size of the write buffer, in bytes.
const BUFFER: usize = 256 * 1024;

/// The current file, open and locked: no other process writes it.
pub(super) struct Files {
    directory: PathBuf,
    folder: PrivateFolder,
    file: File,
    /// Length of the file in bytes, whole lines only.
    length: u64,
    buffer: Vec<u8>,
    buffered: u64,
    written: u64,
}

impl Files {
    /// Opens the file and takes its lock. Creates the folder (mode 0700) and the file (mode 0600) if they are
    /// missing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created or written, if another process writes it, or if another
    /// user can exchange the folder or the file.
    pub(super) fn open(config: &DecisionLogConfig) -> io::Result<Files> {
        let directory = config.directory.clone();
        let folder = folder(&directory)?;
        let file = folder.file(CURRENT, Access::Append).map_err(|error| match io::Error::from(error) {
            error if error.raw_os_error().is_some() => error,
            error => io::Error::other(format!("{CURRENT}: {error}")),
        })?;
        fs::lock(&file).map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other(format!(
                "another process writes {CURRENT}: give each host a `decisionLog.directory` of its own"
            )),
            TryLockError::Error(error) => error,
        })?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        prune(&folder, config.files)?;
        let mut files =
            Files { directory, folder, file, length: 0, buffer: Vec::new(), buffered: 0, written: 0 };
        files.measure()?;
        Ok(files)
    }

    /// Returns whether the file is still the current one in `directory`, and measures it again.
    pub(super) fn stands_in(&mut self, directory: &Path) -> io::Result<bool> {
        let stands =
            self.directory == directory && self.folder.stands() && self.folder.leads_to(CURRENT, &self.file);
        if stands {
            self.measure()?;
        }
        Ok(stands)
    }

    /// Measures the file, and cuts an incomplete last line that a killed process or a full disk left.
    fn measure(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.length = whole_lines(&self.file, length)?;
        if self.length < length {
            self.file.set_len(self.length)?;
        }
        Ok(())
    }

    /// Adds a line. Begins a new file first if this one would become too large.
    pub(super) fn add(&mut self, config: &DecisionLogConfig, id: ReviewId, line: &[u8]) -> io::Result<()> {
        if self.is_full(line.len(), config.file_size) {
            self.flush()?;
            self.rotate(config, id)?;
        }
        self.buffer.extend_from_slice(line);
        self.buffered += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Returns whether a file that is not empty would exceed `file_size` with `more` bytes.
    fn is_full(&self, more: usize, file_size: u64) -> bool {
        let length = self.length + self.buffer.len() as u64;
        length > 0 && length + more as u64 > file_size
    }

    /// Writes the buffer. After an error a partial write is taken back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        match &written {
            Ok(()) => {
                self.length += self.buffer.len() as u64;
                self.written += self.buffered;
            }
            // If this fails too, the line is cut when the file is opened again.
            Err(_) => drop(self.file.set_len(self.length)),
        }
        self.buffer.clear();
        self.buffered = 0;
        written
    }

    /// Returns the number of lines written since the last call.
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

/// Opens the folder. Creates it with mode 0700 if it is missing.
pub(super) fn folder(directory: &Path) -> io::Result<PrivateFolder> {
    PrivateFolder::open(directory, Privacy::Readable).map_err(|error| match error {
        FolderError::NoFolder(path) => io::Error::other(format!(
            "{path} is no folder: remove what stands there, or name another folder as `decisionLog.directory`"
        )),
        error => error.into(),
    })
}

/// Returns the end of the last whole line within the first `length` bytes of a file.
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

/// Returns the names of the rotated files, the oldest first.
pub(super) fn rotated(folder: &PrivateFolder) -> io::Result<Vec<String>> {
    let mut names = folder.names()?;
    names.retain(|name| name.starts_with(BEFORE) && name.ends_with(ENDING));
    names.sort();
    Ok(names)
}

/// Removes the oldest files until `files` remain, including the current one.
fn prune(folder: &PrivateFolder, files: usize) -> io::Result<()> {
    let before = rotated(folder)?;
    let surplus = (before.len() + 1).saturating_sub(files);
    for name in before.iter().take(surplus) {
        match folder.remove(name) {
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}
