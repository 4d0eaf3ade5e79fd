//! Mistakes in the arguments of `host test` that would show as something else.

use std::num::{NonZeroUsize, ParseIntError};
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use super::{Arguments, CoverageMode, Seed};
use crate::cli::Failure;
use crate::config::Config;
use crate::suite::{self, Suite};
use crate::text;

/// A value of `--jobs` that is no number of cases.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum JobsError {
    /// No case would be judged.
    #[error("no case would be judged: write 1 or more, or leave `--jobs` out")]
    None,
    /// The text is no number.
    #[error("{0}: write the number of cases that are judged at once")]
    NoNumber(#[from] ParseIntError),
}

/// Reads the value of `--jobs`.
pub(super) fn jobs(text: &str) -> Result<NonZeroUsize, JobsError> {
    NonZeroUsize::new(text.parse()?).ok_or(JobsError::None)
}

/// Rejects the value of an option in the place of a path: `--shuffle 7` for `--shuffle=7`.
pub(super) fn check_values(arguments: &Arguments) -> Result<(), Failure> {
    for path in arguments.paths.iter().filter(|path| !path.exists()) {
        let Some(value) = path.to_str() else { continue };
        let is_seed = arguments.shuffle == Some(None) && value.parse::<Seed>().is_ok();
        let is_mode =
            arguments.coverage == Some(CoverageMode::Show) && CoverageMode::from_str(value, false).is_ok();
        let option = match (is_seed, is_mode) {
            (true, _) => "--shuffle",
            (_, true) => "--coverage",
            _ => continue,
        };
        return Err(Failure::broken(format_args!(
            "{value}: there is no such file or folder: write `{option}={value}` to give the option its value"
        )));
    }
    Ok(())
}

/// Rejects a report in the place of one of the files that this run has `read`, or where the next run would
/// read the report.
pub(super) fn check_reports(arguments: &Arguments, read: &[PathBuf]) -> Result<(), Failure> {
    let files = arguments.formats.iter().filter_map(|target| target.file.as_deref());
    let files: Vec<_> = files.map(|file| (file, real(file))).collect();
    if files.is_empty() {
        return Ok(());
    }
    let read: Vec<_> = read.iter().filter_map(|file| real(file)).collect();
    let folders: Vec<_> = suite::folders(&arguments.paths).iter().filter_map(|path| real(path)).collect();
    for (file, found) in files {
        let shown = text::path(file);
        if found.is_some_and(|file| read.contains(&file)) {
            return Err(Failure::broken(format_args!(
                "{shown}: the run reads this file, which a report would replace: name another file"
            )));
        }
        let folder = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if suite::is_of_suite(file) && real(folder).is_some_and(|folder| folders.contains(&folder)) {
            return Err(Failure::broken(format_args!(
                "{shown}: the next run would take this report for a case: name a file outside of the \
                 suites' folders, or one that begins with `.`"
            )));
        }
    }
    Ok(())
}

/// Returns the files that suites were read from, and those of their policies.
pub(super) fn read_by(suites: &[Suite]) -> Vec<PathBuf> {
    let configs =
        suites.iter().flat_map(|suite| &suite.subjects).filter_map(|subject| subject.config.as_ref());
    let of_config = |config: &Config| {
        let policies = config.policies.iter();
        let files =
            policies.flat_map(|policy| policy.files_of_settings().chain([policy.module.file().to_owned()]));
        files.chain([config.path.clone()]).collect::<Vec<_>>()
    };
    suites.iter().flat_map(|suite| suite.files.clone()).chain(configs.flat_map(of_config)).collect()
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}
