//! Reads the decision log back: its newest records, for a replay.
//!
//! A file may hold anything by the time it is read: half of a line that is being written, the damage of a full disk, or
//! lines of a program of another version. A line that holds no record is skipped. Nothing here is an error but a folder
//! that cannot be opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{CURRENT, folder, rotated};
use super::record::DecisionRecord;
use crate::fs::{Access, FileError, PrivateFolder};
use crate::limits;
use crate::text;

/// Bytes that are read at a time.
const BLOCK: u64 = 64 * 1024;

/// Limits of what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes at the end of each file.
    pub file: u64,
    /// Lines of all files, whether they hold a record or not.
    pub lines: usize,
    /// Wall clock.
    pub time: Duration,
}

impl Default for ReadLimits {
    fn default() -> ReadLimits {
        ReadLimits {
            file: limits::REPLAY_FILE.default,
            lines: limits::REPLAY_LINES.size(),
            time: limits::REPLAY_TIME.time(),
        }
    }
}

/// The records of a decision log, the newest first. A record whose file is rotated meanwhile may come twice.
pub struct Records {
    folder: PrivateFolder,
    /// The files that are still to be read, the newest last.
    names: Vec<String>,
    /// The file that is being read.
    file: Option<Lines>,
    limits: ReadLimits,
    until: Instant,
}

impl Records {
    /// Opens a decision log by the rules under which it is written.
    ///
    /// # Errors
    /// The folder cannot be opened or listed, or another user can exchange it.
    pub fn open(directory: &Path, limits: ReadLimits) -> io::Result<Records> {
        let until = Instant::now() + limits.time;
        let folder = folder(directory)?;
        let mut records = Records { folder, names: Vec::new(), file: None, limits, until };
        // Before the others are listed: after a rotation in between this file is read twice, where another order would
        // miss it.
        records.file = records.lines_of(CURRENT);
        records.names = rotated(&records.folder)?;
        Ok(records)
    }

    /// Opens a file. Returns None, and logs why, if it is not this user's alone or cannot be read.
    fn lines_of(&self, name: &str) -> Option<Lines> {
        let lines =
            self.folder.file(name, Access::Read).and_then(|file| Ok(Lines::new(file, self.limits.file)?));
        match lines {
            Ok(lines) => Some(lines),
            // There is none yet, or the oldest has just been removed.
            Err(FileError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("decision log: {} is not read back: {error}", text::shown(name, SHOWN));
                None
            }
        }
    }

    /// Returns the line before the last one that was returned.
    fn line(&mut self) -> Option<Vec<u8>> {
        while self.limits.lines > 0 && Instant::now() < self.until {
            match self.file.as_mut().map(Lines::previous) {
                Some(Ok(Some(line))) => {
                    self.limits.lines -= 1;
                    return Some(line);
                }
                // A file that becomes shorter meanwhile has nothing more to say either.
                Some(Ok(None) | Err(_)) => self.file = None,
                None => {
                    let name = self.names.pop()?;
                    self.file = self.lines_of(&name);
                }
            }
        }
        None
    }
}

impl Iterator for Records {
    type Item = DecisionRecord<'static>;

    fn next(&mut self) -> Option<DecisionRecord<'static>> {
        loop {
            let line = self.line()?;
            if let Ok(record) = serde_json::from_slice(&line) {
                return Some(record);
            }
        }
    }
}

/// Bytes of a file's name that are shown.
const SHOWN: usize = 64;

/// The lines at the end of a file, the last first.
struct Lines {
    file: File,
    /// The place from which on the file is read.
    least: u64,
    /// The place from which on the file has been read.
    at: u64,
    /// The bytes from there to the last line that was returned; None after the first line.
    rest: Option<Vec<u8>>,
}

impl Lines {
    fn new(file: File, most: u64) -> io::Result<Lines> {
        let length = file.metadata()?.len();
        let least = length.saturating_sub(most);
        let mut lines = Lines { file, least, at: length, rest: Some(Vec::new()) };
        // The piece after the last line break is half a line: it is being written, or its writer was killed.
        lines.previous()?;
        Ok(lines)
    }

    /// Returns the line before the last one that was returned, without its line break. A line over the bound is empty.
    fn previous(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut too_long = false;
        loop {
            let Some(rest) = &mut self.rest else { return Ok(None) };
            if let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') {
                let line = rest.split_off(end + 1);
                rest.truncate(end);
                return Ok(Some(if too_long { Vec::new() } else { line }));
            }
            if self.at == self.least {
                let line = self.rest.take();
                // The piece at another place than the file's beginning is half a line.
                return Ok(line.filter(|_| self.at == 0 && !too_long));
            }
            if rest.len() > limits::DECISION_LOG_LINE.size() {
                too_long = true;
                rest.clear();
            }
            let start = self.at.saturating_sub(BLOCK).max(self.least);
            let mut block = vec![0; (self.at - start) as usize];
            self.file.read_exact_at(&mut block, start)?;
            block.append(rest);
            (self.at, *rest) = (start, block);
        }
    }
}
