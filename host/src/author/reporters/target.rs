//! `--format FORMAT[=FILE]`

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use super::ReportError;
use crate::text;

/// A format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Human,
    /// One document for scripts.
    Json,
    /// JUnit XML, for CI systems.
    Junit,
    /// Version 14 of the Test Anything Protocol.
    Tap,
    /// Annotations and a summary for a workflow on GitHub.
    Github,
}

impl Format {
    /// All formats, by name.
    pub const ALL: [(&'static str, Format); 5] = [
        ("human", Format::Human),
        ("json", Format::Json),
        ("junit", Format::Junit),
        ("tap", Format::Tap),
        ("github", Format::Github),
    ];

    fn name(self) -> &'static str {
        Format::ALL.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

/// A format, and the file that it is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The format.
    pub format: Format,
    /// The file. None: standard output.
    pub file: Option<PathBuf>,
}

/// The reason why an argument is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No format has this name.
    #[error("there is no format {0:?}: there are human, json, junit, tap and github")]
    Unknown(String),
    /// The name of the file is empty.
    #[error("write a file after `=`, such as {0}=report.txt, or {0} alone for standard output")]
    NoFile(&'static str),
}

impl FromStr for Target {
    type Err = TargetError;

    /// Parses `FORMAT` or `FORMAT=FILE`.
    fn from_str(argument: &str) -> Result<Target, TargetError> {
        let (name, file) = match argument.split_once('=') {
            Some((name, file)) => (name, Some(file)),
            None => (argument, None),
        };
        let format = Format::ALL.iter().find(|(known, _)| *known == name);
        let &(name, format) = format.ok_or_else(|| TargetError::Unknown(name.to_owned()))?;
        match file {
            Some("") => Err(TargetError::NoFile(name)),
            // As for most programs, `-` stands for standard output.
            Some("-") | None => Ok(Target { format, file: None }),
            Some(file) => Ok(Target { format, file: Some(file.into()) }),
        }
    }
}

/// Checks that each place gets at most one format.
pub(super) fn check(targets: &[Target]) -> Result<(), ReportError> {
    let on_standard_output: Vec<_> =
        targets.iter().filter(|target| target.file.is_none()).map(|target| target.format.name()).collect();
    if on_standard_output.len() > 1 {
        return Err(ReportError::Twice(format!(
            "--format {}: standard output carries one format: name a file for the others, such as {}=FILE",
            on_standard_output.join(", "),
            on_standard_output.last().unwrap_or(&"")
        )));
    }
    let mut files = HashSet::new();
    match targets.iter().filter_map(|target| target.file.as_ref()).find(|file| !files.insert(*file)) {
        Some(file) => Err(ReportError::Twice(format!(
            "--format: {} is named for two formats: name a file for each",
            text::path(file)
        ))),
        None => Ok(()),
    }
}
