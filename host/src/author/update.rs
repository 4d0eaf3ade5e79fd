//! Changes of a file that its author wrote: all of them or none, and only if nobody else changed the file.
//! `cases` has the changes that make cases pass.

mod cases;
mod doubt;

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;
use similar::{ChangeTag, TextDiff};

pub use self::cases::{FileUpdate, add_rows, update};
use crate::config::yaml::edit::{Change, EditError, edited};
use crate::text;

/// Unchanged lines that a difference shows before and after changed ones.
const CONTEXT: usize = 1;

/// A file with its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The changed lines, as of [`diff`]. Empty if the file has the values already.
    pub diff: String,
}

/// The reason why a file stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A change cannot be made.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The file has other bytes than those that were read.
    #[error("{} has changed since it was read: run the command again", text::path(.0))]
    Changed(PathBuf),
    /// The path is a symbolic link. A rename would replace the link, and its target may lie outside of the
    /// folder that the caller was given.
    #[error("{} is a symbolic link: name the file that it leads to", text::path(.0))]
    Link(PathBuf),
    /// A folder, a pipe or a device.
    #[error("{} is no regular file", text::path(.0))]
    Irregular(PathBuf),
    /// Nobody may write the file, or not this user. The superuser could, and respects the mode all the same.
    #[error(
        "{path} is read-only (mode {mode:04o}): make it writable, such as by `chmod u+w {path}`, and run the \
         command again",
        path = text::path(.0),
        mode = .1
    )]
    ReadOnly(PathBuf, u32),
    /// A system call failed.
    #[error("{} stays as it is: {}", text::path(.0), .1)]
    Io(PathBuf, io::Error),
}

/// Changes values of a file whose bytes were read before. A reader sees the old file or the new one. The mode
/// and the owner stay the same.
///
/// # Errors
/// Returns an error if a change cannot be made with certainty, if the file has changed since it was read, or
/// if the file is a symbolic link or cannot be written. The file stays as it is.
pub fn rewrite(path: &Path, read: &[u8], changes: &[Change]) -> Result<Rewritten, UpdateError> {
    let new = edited(read, changes)?;
    if new != read {
        replace(path, read, &new)?;
    }
    Ok(Rewritten { diff: diff(&String::from_utf8_lossy(read), &String::from_utf8_lossy(&new)) })
}

/// Replaces a file that has the bytes `read`.
fn replace(path: &Path, read: &[u8], new: &[u8]) -> Result<(), UpdateError> {
    let failed = |error: io::Error| UpdateError::Io(path.to_owned(), error);
    let metadata = regular(path)?;
    // A rename needs no permission to write the file itself. A file that is read-only stays so.
    let read_only = || UpdateError::ReadOnly(path.to_owned(), metadata.mode() & 0o7777);
    if metadata.mode() & 0o222 == 0 {
        return Err(read_only());
    }
    rustix::fs::access(path, Access::WRITE_OK).map_err(|error| match error {
        Errno::ACCESS => read_only(),
        error => failed(error.into()),
    })?;
    // The walk for suites leaves names out that begin with a dot.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut written =
        tempfile::Builder::new().prefix(".host-test-").suffix(".tmp").tempfile_in(folder).map_err(failed)?;
    written.write_all(new).map_err(failed)?;
    let file = written.as_file();
    let owned = file.metadata().map_err(failed)?;
    if (owned.uid(), owned.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file, Some(metadata.uid()), Some(metadata.gid())).map_err(failed)?;
    }
    file.set_permissions(metadata.permissions()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // The last moment before the rename. An editor may have saved the file while the cases ran.
    regular(path)?;
    let length = read.len() as u64;
    match crate::fs::read(path, length) {
        Ok(bytes) if bytes == read => {}
        Ok(_) | Err(crate::fs::FileError::TooLarge(..)) => return Err(UpdateError::Changed(path.to_owned())),
        Err(error) => return Err(failed(error.into())),
    }
    written.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Returns the metadata of a regular file.
fn regular(path: &Path) -> Result<Metadata, UpdateError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| UpdateError::Io(path.to_owned(), error))?;
    match metadata.file_type() {
        kind if kind.is_symlink() => Err(UpdateError::Link(path.to_owned())),
        kind if kind.is_file() => Ok(metadata),
        _ => Err(UpdateError::Irregular(path.to_owned())),
    }
}

/// Returns the lines in which two texts differ, each with its number and its neighbours. `-` marks a line of
/// the old text and `+` one of the new text. Invisible characters are escaped.
#[must_use]
pub fn diff(old: &str, new: &str) -> String {
    let difference = TextDiff::from_lines(old, new);
    let width = old.lines().count().max(new.lines().count()).to_string().len();
    let mut shown = String::new();
    for group in difference.grouped_ops(CONTEXT) {
        if !shown.is_empty() {
            shown.push_str(&format!("{:>width$}\n", "…"));
        }
        for change in group.iter().flat_map(|part| difference.iter_changes(part)) {
            let (mark, index) = match change.tag() {
                ChangeTag::Delete => ("-", change.old_index()),
                ChangeTag::Insert => ("+", change.new_index()),
                ChangeTag::Equal => (" ", change.new_index()),
            };
            let number = index.map_or_else(String::new, |index| (index + 1).to_string());
            let line = text::escape(change.value().trim_end_matches(['\n', '\r']));
            shown.push_str(format!("{number:>width$} {mark} {line}").trim_end());
            shown.push('\n');
        }
    }
    shown
}
