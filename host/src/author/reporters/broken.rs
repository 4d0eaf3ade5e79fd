//! Problems that keep cases from being judged, as reporters see them.

use std::path::{Path, PathBuf};

use crate::config::yaml::Location;
use crate::config::{Config, ConfigError};
use crate::problem::{Problem, Subject};
use crate::suite::SuiteError;
use crate::text;

/// A problem that keeps cases from being judged: a suite that cannot be read, a policy that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file. None if the problem has no file.
    pub path: Option<PathBuf>,
    /// The place in the file, if it is known.
    pub at: Option<Location>,
    /// The message with its place, as on standard error, escaped. A build may have several lines.
    pub message: String,
}

impl Broken {
    /// Returns a problem without a place.
    pub fn new(message: &str) -> Broken {
        let lines: Vec<_> = message.lines().map(text::escape).collect();
        Broken { path: None, at: None, message: lines.join("\n") }
    }

    /// Returns the problem of a message, which may begin with a place.
    pub fn of_message(message: &str) -> Broken {
        let (path, at) = place_in(message).unzip();
        Broken { path, at, ..Broken::new(message) }
    }

    /// Returns a problem of a file.
    pub fn of_file(path: &Path, message: &str) -> Broken {
        Broken { path: Some(path.to_owned()), ..Broken::new(message) }
    }

    /// Returns a problem at the value of a JSON Pointer of a configuration.
    pub fn of_entry(config: &Config, pointer: &str, message: &str) -> Broken {
        let place = place_in(&config.locate(pointer)).map(|(_, at)| at);
        let path = Some(config.path.clone()).filter(|path| !path.as_os_str().is_empty());
        Broken { at: place.filter(|_| path.is_some()), path, ..Broken::new(message) }
    }

    /// Returns the problems of a configuration file.
    pub fn of_config(error: &ConfigError) -> Vec<Broken> {
        let (problems, hidden) = match error {
            ConfigError::Invalid { problems, hidden } => (problems, *hidden),
            ConfigError::Read { path, .. } | ConfigError::Refused { path, .. } => {
                return vec![Broken::of_file(path, &error.to_string())];
            }
        };
        let of = |problem: &crate::config::Problem| {
            let path = Some(problem.path.clone()).filter(|path| !path.as_os_str().is_empty());
            let at = path.is_some().then_some(problem.problem.span.at);
            Broken { path, at, ..Broken::new(&problem.to_string()) }
        };
        let more = (hidden > 0).then(|| Broken::new(&format!("and {hidden} more problems")));
        problems.iter().map(of).chain(more).collect()
    }

    /// Returns the problems of a suite.
    pub fn of_suite(error: &SuiteError) -> Vec<Broken> {
        match error {
            SuiteError::Invalid(error) => Broken::of_config(error),
            SuiteError::Read { path, .. }
            | SuiteError::Fixture { path, .. }
            | SuiteError::OwnPolicies(path) => vec![Broken::of_file(path, &error.to_string())],
            SuiteError::Settings(of_settings) => vec![match of_settings.path() {
                Some(path) => Broken::of_file(path, &error.to_string()),
                None => Broken::of_message(&error.to_string()),
            }],
        }
    }

    /// Returns the problem of a policy of a configuration, or of a file, that a load has reported.
    pub fn of_load(problem: &Problem, config: &Config) -> Broken {
        let message = problem.to_string();
        match &problem.subject {
            Subject::Policy(name) => {
                if let (Some(path), at) = place_in(&problem.what).unzip() {
                    return Broken { path: Some(path), at, ..Broken::new(&message) };
                }
                let entry = config.policies.iter().find(|policy| policy.name.as_str() == name);
                let pointer =
                    entry.map(|policy| match problem.what.starts_with(&policy.module.to_string()) {
                        true => format!("{}/module", policy.pointer),
                        false => policy.pointer.clone(),
                    });
                Broken::of_entry(config, &pointer.unwrap_or_default(), &message)
            }
            Subject::HostYaml(path) | Subject::File(path) => {
                let broken = Broken::of_message(&message);
                if broken.path.is_some() { broken } else { Broken::of_file(Path::new(path), &message) }
            }
            _ => Broken::of_entry(config, "", &message),
        }
    }

    /// Returns the place: `PATH:LINE:COLUMN` or the path.
    pub(super) fn place(&self) -> Option<String> {
        let path = text::path(self.path.as_ref()?);
        Some(self.at.map_or(path.clone(), |at| format!("{path}:{at}")))
    }

    /// Returns the message with its place.
    pub(in crate::author) fn line(&self) -> String {
        match self.place().filter(|place| !self.message.contains(place)) {
            Some(place) => format!("{place}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// Returns the message without its place at the beginning.
    pub(super) fn without_place(&self) -> &str {
        let place = self.place();
        let rest = place.and_then(|place| self.message.strip_prefix(&place)?.strip_prefix(": "));
        rest.unwrap_or(&self.message)
    }
}

/// Returns the place at the beginning of a message: `PATH:LINE:COLUMN: …`, or nothing behind the column.
pub(super) fn place_in(message: &str) -> Option<(PathBuf, Location)> {
    message.match_indices(':').find_map(|(end, _)| {
        let (path, rest) = message.split_at_checked(end)?;
        let place = rest.strip_prefix(':')?;
        let place = place.split_once(": ").map_or(place, |(place, _)| place);
        let (line, column) = place.split_once(':')?;
        let at = Location { line: line.parse().ok()?, column: column.parse().ok()? };
        Some((PathBuf::from(path), at))
    })
}

/// Returns the number of problems in words.
pub(super) fn counted(problems: &[Broken]) -> String {
    match problems.len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }
}
