//! Search for the files of suites and their folders. The walk is limited, and ends with an error rather
//! than with a part of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::SuiteError;
use crate::limits;
use crate::text;

/// Folders of what toolchains build and fetch, beside the sources of a policy.
pub(crate) const BUILT: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// Files of suites, and the configuration that they share.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The nearest host.yaml above the files. None if there is none, or if the caller brings the policies.
    pub config: Option<PathBuf>,
    /// The files, sorted.
    pub files: Vec<PathBuf>,
}

/// Finds the files of suites below `paths`. A file belongs to the nearest `host.yaml` above it, unless the
/// caller brings the policies.
///
/// # Errors
/// Returns an error if a path cannot be read, symbolic links form a circle, or the folders exceed a limit.
pub fn find(paths: &[PathBuf], own_policies: bool) -> Result<Vec<Found>, SuiteError> {
    let mut suites: BTreeMap<Option<PathBuf>, Vec<PathBuf>> = BTreeMap::new();
    let mut walk = Walk::default();
    for path in paths {
        walk.path(path)?;
    }
    for file in walk.files {
        // The path is shown as the user would write it: `.` is searched when no path is named.
        let file = file.strip_prefix(".").map(Path::to_owned).unwrap_or(file);
        let config = if own_policies { None } else { config_above(&file)? };
        suites.entry(config).or_default().push(file);
    }
    let found = |(config, mut files): (_, Vec<PathBuf>)| {
        files.sort();
        files.dedup();
        Found { config, files }
    };
    Ok(suites.into_iter().map(found).collect())
}

/// Returns the folders of suites, including those below them: a change in one of them may change the result
/// of [`find`]. For suites that [`find`] rejects, these are the folders up to the faulty one.
pub fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut walk = Walk::default();
    // `find` reports errors.
    let _ = paths.iter().try_for_each(|path| walk.path(path));
    walk.folders.into_iter().chain(paths.iter().cloned()).collect()
}

/// A running walk.
#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// Number of folder entries seen, of suites or not.
    entries: u64,
    /// The folders from the named path down to the current one, by device and inode.
    above: Vec<((u64, u64), PathBuf)>,
}

impl Walk {
    fn path(&mut self, path: &Path) -> Result<(), SuiteError> {
        let metadata = fs::metadata(path).map_err(|error| failed(path, error))?;
        match metadata.is_dir() {
            true => self.folder(path, &metadata),
            false => {
                self.files.push(path.to_owned());
                Ok(())
            }
        }
    }

    fn folder(&mut self, path: &Path, metadata: &fs::Metadata) -> Result<(), SuiteError> {
        let refused = |why: String| Err(failed(path, io::Error::other(why)));
        let id = (metadata.dev(), metadata.ino());
        if let Some((_, above)) = self.above.iter().find(|(above, _)| *above == id) {
            let above = text::path(above);
            return refused(format!(
                "this symbolic link leads back to {above}, in which it stands: remove it"
            ));
        }
        if self.above.len() >= limits::SUITE_DEPTH.size() {
            return refused(limits::SUITE_DEPTH.says("", limits::SUITE_DEPTH.default));
        }
        if self.folders.len() >= limits::SUITE_FOLDERS.size() {
            return refused(limits::SUITE_FOLDERS.says("", limits::SUITE_FOLDERS.default));
        }
        self.folders.push(path.to_owned());
        self.above.push((id, path.to_owned()));
        for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
            self.entries += 1;
            if self.entries > limits::SUITE_FILES.default {
                return refused(limits::SUITE_FILES.says("", limits::SUITE_FILES.default));
            }
            let entry = entry.map_err(|error| failed(path, error))?;
            let (name, path) = (entry.file_name(), entry.path());
            let is_built = BUILT.iter().any(|built| name == *built);
            if is_hidden(&name) || name == "host.yaml" || is_built {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.folder(&path, &metadata)?,
                // For a file that cannot be read, the reader reports the reason.
                _ if is_of_suite(&path) => self.files.push(path),
                _ => {}
            }
        }
        self.above.pop();
        Ok(())
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns whether a file in a folder of suites belongs to a suite, by its name.
pub fn is_of_suite(path: &Path) -> bool {
    !path.file_name().is_some_and(is_hidden)
        && path.extension().is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|of| extension == *of))
}

fn failed(path: &Path, error: io::Error) -> SuiteError {
    SuiteError::Read { path: path.to_owned(), error }
}

/// Returns the nearest host.yaml above a file.
pub(super) fn config_above(file: &Path) -> Result<Option<PathBuf>, SuiteError> {
    let absolute = std::path::absolute(file).map_err(|error| failed(file, error))?;
    let found =
        absolute.ancestors().skip(1).map(|folder| folder.join("host.yaml")).find(|path| path.is_file());
    // Shortened to the user's spelling where that is possible.
    let here = std::env::current_dir().unwrap_or_default();
    Ok(found.map(|found| found.strip_prefix(&here).map(Path::to_owned).unwrap_or(found)))
}
