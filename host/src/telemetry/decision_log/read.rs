//! Reads the decision log back: its newest records, for a replay.
//!
//! A file may hold anything by then: half of a line that is being written, the damage of a full disk, or
//! lines of another version. A line that holds no record is skipped. The only error is a folder that cannot
//! be opened or listed.

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

/// Size of one read, in bytes.
const BLOCK: u64 = 64 * 1024;

/// Limits of reading the log back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Number of bytes at the end of each file.
    pub file: u64,
    /// Number of lines of all files, with a record or without.
    pub lines: usize,
    /// Wall-clock time.
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
    /// The remaining files, the newest last.
    names: Vec<String>,
    /// The current file.
    file: Option<Lines>,
    limits: ReadLimits,
    until: Instant,
}

impl Records {
    /// Opens a decision log by the rules under which it is written.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be opened or listed, or if another user can exchange it.
    pub fn open(directory: &Path, limits: ReadLimits) -> io::Result<Records> {
        let until = Instant::now() + limits.time;
        let folder = folder(directory)?;
        let mut records = Records { folder, names: Vec::new(), file: None, limits, until };
        // Opened before the others are listed: after a rotation in between this file is read twice. The other
        // order would miss it.
        records.file = records.lines_of(CURRENT);
        records.names = rotated(&records.folder)?;
        Ok(records)
    }

    /// Opens a file. Returns None, and logs the reason, if the file is not this user's alone or cannot be
    /// read.
    fn lines_of(&self, name: &str) -> Option<Lines> {
        let lines =
            self.folder.file(name, Access::Read).and_then(|file| Ok(Lines::new(file, self.limits.file)?));
        match lines {
            Ok(lines) => Some(lines),
            // There is no file yet, or the oldest has just been removed.
            Err(FileError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    "decision log: {} is not read back: {error}",
                    text::escape_and_truncate(name, SHOWN)
                );
                None
            }
        }
    }

    /// Returns the line before the last returned one, within the limits.
    fn line(&mut self) -> Option<Vec<u8>> {
        while self.limits.lines > 0 && Instant::now() < self.until {
            match self.file.as_mut().map(Lines::previous) {
                Some(Ok(Some(line))) => {
                    self.limits.lines -= 1;
                    return Some(line);
                }
                // A file that becomes shorter meanwhile has no further lines either.
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

/// Maximum length of a file's name in a message, in bytes.
const SHOWN: usize = 64;

/// The lines at the end of a file, the last first.
struct Lines {
    file: File,
    /// Start of the part that is read.
    least: u64,
    /// Start of the part that has been read.
    at: u64,
    /// The bytes from `at` to the last returned line. None after the first line.
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

    /// Returns the line before the last returned one, without its line break. A line over the limit is
    /// returned empty.
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
                // A piece that does not begin at the beginning of the file is half a line.
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
