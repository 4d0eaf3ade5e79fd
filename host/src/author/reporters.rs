//! Outputs of `host test`: for people, and as JSON, JUnit XML, TAP and workflow commands of GitHub.
//!
//! Each result becomes an [`Entry`], which every reporter renders. A reporter writes to standard output as
//! results arrive, or to a file, which is replaced as a whole at the end. A run that cannot judge its cases
//! ends every format with the problems ([`Reporters::broken`]), so that no report looks green or is missing.

mod broken;
mod coverage;
mod entry;
mod github;
mod human;
mod json;
mod junit;
mod style;
mod tap;
mod target;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anstream::StripStream;

pub use self::broken::Broken;
pub use self::entry::{CaseResult, Difference, Entry, Totals, quoted};
use self::github::GitHub;
use self::human::Human;
use self::json::Json;
use self::junit::Junit;
use self::tap::Tap;
pub use self::target::{Format, Target, TargetError};
use crate::text;

/// The amount of output for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Failures and the last line.
    Failures,
    /// The number of results of each suite too.
    #[default]
    Suites,
    /// Each case too.
    Cases,
    /// The decisions and log lines of each case too.
    Decisions,
}

/// Settings of the reporters.
#[derive(Clone, Debug)]
pub struct Options {
    /// The amount of output for people.
    pub detail: Detail,
    /// The number of slowest cases that people see.
    pub slowest: usize,
    /// Columns of the terminal ([`terminal_width`]), at which long lines for people are wrapped. None: lines
    /// are not wrapped.
    pub width: Option<usize>,
    /// The beginning of the run.
    pub started: SystemTime,
    /// The environment of a workflow on GitHub.
    pub github: Workflow,
}

/// Returns the columns of the terminal that standard output is connected to. Returns None if standard output
/// is no terminal.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// The part of a GitHub workflow's environment that the reporter for GitHub uses.
#[derive(Clone, Debug, Default)]
pub struct Workflow {
    /// The folder of the repository. Annotations name files relative to this folder.
    pub workspace: Option<PathBuf>,
    /// The file to which the summary of the step is appended.
    pub summary: Option<PathBuf>,
    /// The folder that relative paths of suites start from.
    pub current: PathBuf,
}

impl Workflow {
    /// Reads `GITHUB_WORKSPACE`, `GITHUB_STEP_SUMMARY` and the current folder.
    pub fn of_environment() -> Workflow {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Workflow {
            workspace: variable("GITHUB_WORKSPACE"),
            summary: variable("GITHUB_STEP_SUMMARY"),
            current: std::env::current_dir().unwrap_or_default(),
        }
    }
}

/// The reason why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Two formats go to one place, which can carry only one.
    #[error("{0}")]
    Twice(String),
    /// A file cannot be written.
    #[error("{}: it cannot be written: {error}", text::path(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    StandardOutput(io::Error),
}

/// A format of results.
trait Reporter {
    /// Adds the result of a case. Results arrive in the order of the files.
    fn case(&mut self, entry: &Entry<'_>, output: &mut dyn Write) -> io::Result<()>;

    /// Ends the output.
    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError>;

    /// Ends the output of a run that problems have ended.
    fn broken(
        &mut self,
        problems: &[Broken],
        totals: &Totals,
        output: &mut dyn Write,
    ) -> Result<(), ReportError>;
}

/// The place that a format is written to.
enum Sink<'a> {
    StandardOutput(Box<dyn Write + 'a>),
    /// The content is kept until the end.
    File(PathBuf, Vec<u8>),
}

/// All formats of a run.
pub struct Reporters<'a>(Vec<(Box<dyn Reporter>, Sink<'a>)>);

impl<'a> Reporters<'a> {
    /// Returns the reporters for `targets`. If every format goes to a file, standard output carries the form
    /// for people.
    ///
    /// `standard_output` receives colours, and strips them if they are not wanted.
    ///
    /// # Errors
    /// Returns an error if two formats go to one place, or if a file cannot be written where it is named.
    pub fn new(
        targets: &[Target],
        options: &Options,
        standard_output: impl Write + 'a,
    ) -> Result<Reporters<'a>, ReportError> {
        target::check(targets)?;
        let people = Target { format: Format::Human, file: None };
        let has_standard_output = targets.iter().any(|target| target.file.is_none());
        let all = targets.iter().chain(Some(&people).filter(|_| !has_standard_output));
        let mut standard_output = Some(standard_output);
        let mut reporters = Vec::new();
        for target in all {
            let sink = match (&target.file, standard_output.take()) {
                (None, Some(output)) => Sink::StandardOutput(Box::new(output)),
                (Some(path), unused) => {
                    standard_output = unused;
                    writable(path).map_err(|error| ReportError::File { path: path.clone(), error })?;
                    Sink::File(path.clone(), Vec::new())
                }
                (None, None) => continue,
            };
            reporters.push((reporter(target, options), sink));
        }
        Ok(Reporters(reporters))
    }

    /// Adds the result of a case.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written. A closed pipe is no error.
    pub fn case(&mut self, entry: &Entry<'_>) -> Result<(), ReportError> {
        for (reporter, sink) in &mut self.0 {
            sink.write(|output| reporter.case(entry, output).map_err(ReportError::StandardOutput))?;
        }
        Ok(())
    }

    /// Writes the ends of all formats, and the files. An error of a file keeps no other from being written.
    ///
    /// # Errors
    /// Returns the first error.
    pub fn finish(self, totals: &Totals) -> Result<(), ReportError> {
        self.end(|reporter, output| reporter.finish(totals, output))
    }

    /// Writes the ends of all formats, and the files, of a run that problems have ended. People on standard
    /// output read the problems on standard error.
    ///
    /// # Errors
    /// Returns the first error.
    pub fn broken(self, problems: &[Broken], totals: &Totals) -> Result<(), ReportError> {
        self.end(|reporter, output| reporter.broken(problems, totals, output))
    }

    fn end(
        self,
        end: impl Fn(&mut dyn Reporter, &mut dyn Write) -> Result<(), ReportError>,
    ) -> Result<(), ReportError> {
        let mut result = Ok(());
        for (mut reporter, mut sink) in self.0 {
            let written = sink.write(|output| end(reporter.as_mut(), output)).and_then(|()| sink.close());
            result = result.and(written);
        }
        result
    }
}

fn reporter(target: &Target, options: &Options) -> Box<dyn Reporter> {
    match target.format {
        Format::Human => {
            let width = options.width.filter(|_| target.file.is_none());
            Box::new(Human::new(options.detail, options.slowest, width, target.file.is_some()))
        }
        Format::Json => Box::new(Json::default()),
        Format::Junit => Box::new(Junit::new(options.started)),
        Format::Tap => Box::new(Tap::default()),
        Format::Github => Box::new(GitHub::new(options.github.clone())),
    }
}

impl Sink<'_> {
    fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), ReportError>,
    ) -> Result<(), ReportError> {
        match self {
            Sink::File(_, content) => write(&mut StripStream::new(content)),
            Sink::StandardOutput(output) => {
                let written =
                    write(output).and_then(|()| output.flush().map_err(ReportError::StandardOutput));
                match written {
                    // The exit status still tells the result (`| head`).
                    Err(ReportError::StandardOutput(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                        Ok(())
                    }
                    written => written,
                }
            }
        }
    }

    fn close(self) -> Result<(), ReportError> {
        match self {
            Sink::StandardOutput(_) => Ok(()),
            Sink::File(path, content) => {
                write_whole(&path, &content).map_err(|error| ReportError::File { path, error })
            }
        }
    }
}

/// Returns the folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks before the cases run that a file can be written at `path`.
fn writable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::other("it is a folder: name a file in it"));
    }
    match folder(path).is_dir() {
        true => Ok(()),
        false => Err(io::Error::other("there is no such folder: make it first")),
    }
}

/// Replaces a file as a whole: a reader sees the old content or the new content. A pipe or device is written
/// as it is.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    // The target of a symbolic link is replaced, and the link stays.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        return File::options().write(true).open(&path)?.write_all(content);
    }
    let mut builder = tempfile::Builder::new();
    // Reports are no secret: other users may read them as the umask allows.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let builder = builder.prefix(".").suffix(".tmp").permissions(mode);
    let mut file = builder.tempfile_in(folder(&path))?;
    file.write_all(content)?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
