//! The failed cases of the last runs, for `--failed`: a file for each suite in the user's cache folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::fs;
use crate::limits;
use crate::policy::digest;
use crate::suite::{CaseId, CaseReport, Suite};

/// Folder of the files, in the user's cache folder.
const FOLDER: &str = "failed-cases";

/// The failed cases of the last run of each suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastRun {
    /// The names of the failed cases within their suite, by the suite's path.
    suites: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl LastRun {
    /// Reads the results of suites in a cache folder. A file that cannot be read counts as no failed case.
    pub fn read(folder: &Path, suites: &[Suite]) -> LastRun {
        let read = |suite: &Suite| {
            let bytes = fs::read(&file(folder, &suite.path)?, limits::LAST_RUN.default).ok()?;
            Some((suite.path.clone(), serde_json::from_slice(&bytes).ok()?))
        };
        LastRun { suites: suites.iter().filter_map(read).collect() }
    }

    /// Writes the results to a cache folder. Results over the limit are not written.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        for (suite, names) in &self.suites {
            let Some(path) = file(folder, suite) else { continue };
            let json = serde_json::to_vec(names)?;
            match names.is_empty() || json.len() as u64 > limits::LAST_RUN.default {
                true => match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                false => {
                    let parent = folder.join(FOLDER);
                    std::fs::create_dir_all(&parent)?;
                    let mut file = tempfile::NamedTempFile::new_in(&parent)?;
                    file.write_all(&json)?;
                    file.persist(&path).map_err(|error| error.error)?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether a case of a suite failed.
    pub fn failed(&self, suite: &Suite, id: &CaseId) -> bool {
        self.suites.get(&suite.path).is_some_and(|names| names.contains(&id.within_suite()))
    }

    /// Adds the result of a case of a suite.
    pub fn add(&mut self, suite: &Suite, report: &CaseReport) {
        // A suite without failed cases stays in the map, so that its file is removed.
        let names = self.suites.entry(suite.path.clone()).or_default();
        let name = report.id.within_suite();
        if report.passed() {
            names.remove(&name);
        } else {
            names.insert(name);
        }
    }
}

/// Returns the file of a suite. Returns None if the current folder is unknown.
fn file(folder: &Path, suite: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(suite).ok()?;
    let name: String = digest(path.as_os_str().as_encoded_bytes()).chars().take(32).collect();
    Some(folder.join(FOLDER).join(format!("{name}.json")))
}
