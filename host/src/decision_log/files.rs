//! The files of the decision log: one that is written, and those before it, of bounded size and number.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::DecisionLogConfig;
use crate::reviewed::ReviewId;

/// The file that is written.
const CURRENT: &str = "decisions.jsonl";
/// Others are called by the review that came next.
const BEFORE: &str = "decisions-";
const ENDING: &str = ".jsonl";
/// Lines are gathered up to so many bytes.
const BUFFER: usize = 256 * 1024;

/// The file that is written, open.
pub(super) struct Files {
    directory: PathBuf,
    file: File,
    /// Bytes in it, all of whole lines.
    length: u64,
    buffer: Vec<u8>,
    buffered: u64,
    written: u64,
}

impl Files {
    /// Opens the file, making the folder (mode 0700) and the file (mode 0600) where there is none.
    ///
    /// # Errors
    /// It cannot be made or written, or others can write the folder.
    pub(super) fn open(config: &DecisionLogConfig) -> io::Result<Files> {
        let directory = config.directory.clone();
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        if fs::metadata(&directory)?.permissions().mode() & 0o022 != 0 {
            return Err(io::Error::other("others can write it: set its mode to 0700 (`chmod 0700`)"));
        }
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(directory.join(CURRENT))?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let length = whole_lines(&file)?;
        // The end of a process may have cut its last line.
        file.set_len(length)?;
        prune(&directory, config.files)?;
        Ok(Files { directory, file, length, buffer: Vec::new(), buffered: 0, written: 0 })
    }

    /// Whether this is the file that stands in `directory` now.
    pub(super) fn are_in_place(&self, directory: &Path) -> bool {
        let same =
            |one: &fs::Metadata, other: &fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        self.directory == directory
            && matches!(
                (fs::metadata(directory.join(CURRENT)), self.file.metadata()),
                (Ok(there), Ok(here)) if same(&there, &here)
            )
    }

    /// Adds a line, after a new file was begun where this one would become too large.
    pub(super) fn add(&mut self, config: &DecisionLogConfig, id: ReviewId, line: &[u8]) -> io::Result<()> {
        let length = self.length + self.buffer.len() as u64;
        if length > 0 && length + line.len() as u64 > config.file_size {
            self.flush()?;
            self.rotate(config, id)?;
        }
        self.buffer.extend_from_slice(line);
        self.buffered += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes what was added. A part of it that was written when it fails is taken back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        match &written {
            Ok(()) => {
                self.length += self.buffer.len() as u64;
                self.written += self.buffered;
            }
            // Should this fail as well, the next to open the file cuts the line.
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
        let current = self.directory.join(CURRENT);
        fs::rename(&current, self.directory.join(format!("{BEFORE}{next}{ENDING}")))?;
        let written = self.written;
        *self = Files::open(config)?;
        self.written = written;
        Ok(())
    }
}

/// Where the last whole line of a file ends.
fn whole_lines(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
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
fn prune(directory: &Path, files: usize) -> io::Result<()> {
    let mut before = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(BEFORE) && name.ends_with(ENDING)) {
            before.push(name);
        }
    }
    before.sort();
    let surplus = (before.len() + 1).saturating_sub(files);
    for name in before.iter().take(surplus) {
        fs::remove_file(directory.join(name))?;
    }
    Ok(())
}
