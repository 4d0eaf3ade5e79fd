//! Exit statuses of the verbs, and the message of a verb that ends early. Which status a verb gives is in the
//! verb's file.

use std::fmt::Display;
use std::process::ExitCode;

use super::terminal::tell;

/// The exit status of a verb. host/docs/command-line.md describes it for each verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done, allowed or passed.
    Yes = 0,
    /// Denied, failed, refused, or not as configured.
    No = 1,
    /// Wrong usage, a broken file, or no host that responds.
    Broken = 2,
    /// A policy failed to load.
    NotLoaded = 3,
    /// There is nothing to run.
    Nothing = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The end of a verb that did not get to its result.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// Lines for people, on standard error.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string() }
    }

    /// Returns a failure for a wrong usage or a broken file.
    pub(super) fn broken(message: impl Display) -> Failure {
        Failure::new(Exit::Broken, message)
    }
}

/// Returns the exit code of a verb, after printing the message of its failure.
pub(super) fn exit(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            tell(&message);
            exit.into()
        }
    }
}
