//! Reads whole decision logs, the oldest line first, for `host test --replay`.
//!
//! A folder is read by the rules under which the host writes it. A file that is named by itself may belong to
//! anyone and may be a pipe: the user has chosen the file, and only a report depends on it. One line at a
//! time is in memory.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::files::{CURRENT, rotated};
use super::record::DecisionRecord;
use crate::fs::{Access, FileError, FolderError, Privacy, PrivateFolder};
use crate::limits;
use crate::text;

/// Size of one read, in bytes.
const BLOCK: usize = 64 * 1024;
/// Maximum length of the reason for which a line is no record, in bytes.
const SHOWN: usize = 200;

/// The reason for which a decision log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file or folder cannot be read.
    #[error("{}: {error}{}", text::path(path), next_step(error))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// Another user can change the folder.
    #[error("{error}; or name the files in {}, which are read without this check", text::path(path))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The reason.
        error: FolderError,
    },
    /// Another user can change a file of the folder.
    #[error("{}: {error}; or name the file itself, which is read without this check", text::path(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: FileError,
    },
}

/// Returns the next step for a log that does not exist.
fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": name the decision log of a host, or its folder",
        _ => "",
    }
}

/// The reason for which a line is no record.
#[derive(Debug, thiserror::Error)]
pub enum NoRecord {
    /// The line is over its limit.
    #[error("the line is longer than {}", limits::DECISION_LOG_LINE.show(limits::DECISION_LOG_LINE.default))]
    TooLong,
    /// The line is no JSON object with the fields of a record.
    #[error("{0}")]
    Invalid(String),
}

/// A line of a decision log.
#[derive(Debug)]
pub struct LogLine {
    /// The file.
    pub path: Rc<Path>,
    /// The number of the line, from 1.
    pub number: u64,
    /// The record.
    pub record: Result<DecisionRecord<'static>, NoRecord>,
}

/// The lines of decision logs, the oldest of each log first.
pub struct LogLines {
    files: VecDeque<LogFile>,
    current: Option<OpenFile>,
    /// The files that were read, by device and inode. A file may be named twice, or be renamed meanwhile.
    read: HashSet<(u64, u64)>,
}

/// A file that will be read.
enum LogFile {
    /// A path that the caller names.
    Path(PathBuf),
    /// A rotated file: the folder of its log, and its name there.
    Rotated(Rc<PrivateFolder>, String),
    /// The current file of a log.
    Current(PathBuf, File),
}

/// A file that is being read.
struct OpenFile {
    path: Rc<Path>,
    reader: BufReader<Box<dyn Read>>,
    number: u64,
}

impl LogLines {
    /// Opens decision logs: files, folders, or `-` for standard input.
    ///
    /// # Errors
    /// Returns an error if a path does not exist, or if another user can change a folder.
    pub fn open(paths: &[PathBuf]) -> Result<LogLines, LogError> {
        let mut files = VecDeque::new();
        for path in paths {
            if path == Path::new("-") {
                files.push_back(LogFile::Path(path.clone()));
                continue;
            }
            let kind = metadata(path)?.file_type();
            if kind.is_char_device() || kind.is_block_device() {
                // Some devices have no end.
                let error = io::Error::other("it is a device: name a file");
                return Err(LogError::Read { path: path.clone(), error });
            }
            match kind.is_dir() {
                true => files.extend(of_folder(path)?),
                false => files.push_back(LogFile::Path(path.clone())),
            }
        }
        Ok(LogLines { files, current: None, read: HashSet::new() })
    }

    /// Opens a file. Returns None if it was read before, or if the host has removed it meanwhile.
    fn file(&mut self, file: LogFile) -> Result<Option<OpenFile>, LogError> {
        let (path, file) = match file {
            LogFile::Path(path) if path == Path::new("-") => {
                return Ok(Some(OpenFile::new(Path::new("standard input"), io::stdin())));
            }
            LogFile::Path(path) => match File::open(&path) {
                Ok(file) => (path, file),
                Err(error) => return Err(LogError::Read { path, error }),
            },
            LogFile::Rotated(folder, name) => match in_folder(&folder, &name)? {
                Some(file) => (folder.path().join(name), file),
                None => return Ok(None),
            },
            LogFile::Current(path, file) => (path, file),
        };
        let metadata = file.metadata().map_err(|error| LogError::Read { path: path.clone(), error })?;
        let is_new = !metadata.is_file() || self.read.insert((metadata.dev(), metadata.ino()));
        Ok(is_new.then(|| OpenFile::new(&path, file)))
    }

    fn line(&mut self) -> Result<Option<LogLine>, LogError> {
        loop {
            if let Some(open) = &mut self.current {
                match open.line() {
                    Ok(Some(line)) => return Ok(Some(line)),
                    Ok(None) => self.current = None,
                    Err(error) => return Err(LogError::Read { path: open.path.to_path_buf(), error }),
                }
            }
            let Some(file) = self.files.pop_front() else { return Ok(None) };
            self.current = self.file(file)?;
        }
    }
}

impl Iterator for LogLines {
    type Item = Result<LogLine, LogError>;

    fn next(&mut self) -> Option<Result<LogLine, LogError>> {
        self.line().transpose()
    }
}

fn metadata(path: &Path) -> Result<std::fs::Metadata, LogError> {
    std::fs::metadata(path).map_err(|error| LogError::Read { path: path.to_owned(), error })
}

/// Returns the files of a log's folder, the oldest first.
fn of_folder(path: &Path) -> Result<Vec<LogFile>, LogError> {
    let folder = PrivateFolder::open(path, Privacy::Readable)
        .map_err(|error| LogError::Folder { path: path.to_owned(), error })?;
    let folder = Rc::new(folder);
    // Opened before the others are listed: after a rotation in between this file is listed too, and read
    // once. The other order would miss it.
    let current = in_folder(&folder, CURRENT)?;
    let names = rotated(&folder).map_err(|error| LogError::Read { path: path.to_owned(), error })?;
    let files = names.into_iter().map(|name| LogFile::Rotated(Rc::clone(&folder), name));
    Ok(files.chain(current.map(|file| LogFile::Current(path.join(CURRENT), file))).collect())
}

/// Opens a file of a log's folder. Returns None if there is none.
fn in_folder(folder: &PrivateFolder, name: &str) -> Result<Option<File>, LogError> {
    match folder.file(name, Access::Read) {
        Ok(file) => Ok(Some(file)),
        Err(FileError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(FileError::Unreadable(error)) => Err(LogError::Read { path: folder.path().join(name), error }),
        Err(error) => Err(LogError::File { path: folder.path().join(name), error }),
    }
}

impl OpenFile {
    fn new(path: &Path, reader: impl Read + 'static) -> OpenFile {
        OpenFile { path: path.into(), reader: BufReader::with_capacity(BLOCK, Box::new(reader)), number: 0 }
    }

    fn line(&mut self) -> io::Result<Option<LogLine>> {
        let most = limits::DECISION_LOG_LINE.size();
        let mut line = Vec::new();
        // One more byte for the line break.
        (&mut self.reader).take(most as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        let record = if line.len() > most {
            if !is_whole {
                self.reader.skip_until(b'\n')?;
            }
            Err(NoRecord::TooLong)
        } else {
            serde_json::from_slice(&line).map_err(|error| invalid(&error))
        };
        self.number += 1;
        Ok(Some(LogLine { path: Rc::clone(&self.path), number: self.number, record }))
    }
}

/// Returns the reason without its position, which would always be in line 1.
fn invalid(error: &serde_json::Error) -> NoRecord {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&position).unwrap_or(&message);
    NoRecord::Invalid(text::escape_and_truncate(message, SHOWN))
}
