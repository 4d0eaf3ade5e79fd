//! Errors of host.yaml, one line for each problem.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::yaml;
use crate::fs::{self, FileError};
use crate::limits;
use crate::text;

/// Limit of the problems shown: a file with more is probably not the intended file.
const MAX_SHOWN: usize = 50;

/// The reason why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: {source}{}", text::path(path), hint(source))]
    Read {
        /// The file as named by the user.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The path leads to no possible host.yaml.
    #[error("{}: {reason}", text::path(path))]
    Refused {
        /// The file as named by the user.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The file was read, but has errors.
    #[error("{}", lines(problems, *hidden, false))]
    Invalid {
        /// The problems shown, in the order of the file.
        problems: Vec<Problem>,
        /// The number of further problems.
        hidden: usize,
    },
}

/// One problem in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file as named by the user; empty if there is no file.
    pub path: PathBuf,
    /// Place and message.
    pub problem: yaml::Problem,
    /// The line of the file with a mark under the place, for a terminal.
    excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.as_os_str().is_empty() {
            write!(f, "{}:{}: ", text::path(&self.path), self.problem.span)?;
        }
        f.write_str(&self.problem.message)
    }
}

impl ConfigError {
    /// Creates the error for the problems of a file with these bytes.
    pub(crate) fn invalid(path: &Path, bytes: &[u8], mut problems: Vec<yaml::Problem>) -> Self {
        // The sort is stable, so that problems at one position keep their order.
        problems.sort_by_key(|problem| problem.span.at);
        let hidden = problems.len().saturating_sub(MAX_SHOWN);
        let shown = problems.into_iter().take(MAX_SHOWN).map(|problem| {
            let excerpt = problem.excerpt(bytes);
            Problem { path: path.to_owned(), problem, excerpt }
        });
        Self::Invalid { problems: shown.collect(), hidden }
    }

    /// Returns the file as named by the user. Returns None if there is no file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. } | Self::Refused { path, .. } => Some(path),
            Self::Invalid { problems, .. } => problems.first().map(|problem| problem.path.as_path()),
        }
    }

    /// Returns the message for a terminal, in which the line of the file follows each problem.
    #[must_use]
    pub fn with_excerpts(&self) -> String {
        match self {
            Self::Invalid { problems, hidden } => lines(problems, *hidden, true),
            other => other.to_string(),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": put it there, or name another file with `--config FILE`",
        _ => "",
    }
}

fn lines(problems: &[Problem], hidden: usize, with_excerpts: bool) -> String {
    let mut lines = Vec::new();
    for problem in problems {
        lines.push(problem.to_string());
        lines.extend(problem.excerpt.clone().filter(|_| with_excerpts));
    }
    if hidden > 0 {
        lines.push(format!("and {hidden} more problems"));
    }
    lines.join("\n")
}

/// Reads a file within the size limit.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let refused = |reason: String| ConfigError::Refused { path: path.to_owned(), reason };
    fs::read(path, limits::CONFIGURATION.default).map_err(|error| match error {
        FileError::Unreadable(error) => failed(error),
        FileError::Irregular => refused("not a regular file".to_owned()),
        FileError::Insecure(why) => refused(why),
        FileError::TooLarge(size, max) => refused(limits::CONFIGURATION.says(size, max)),
    })
}
