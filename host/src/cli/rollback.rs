//! `host rollback`

use std::process::ExitCode;

use super::{Exit, Failure, Output, RunningHost, exit};
use crate::serve::control::Request;

/// Put back, in a running host, what the generation before was made of, and keep it in force whatever files change
///
/// Files that change meanwhile are loaded and checked, and wait: `host status` shows them.
///
/// Exit status: 0 done, 1 the host refuses, 2 usage, or no host answers.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    host: RunningHost,
    /// The generation to put back, by the number that `host status` shows [default: the one before what is in force]
    #[arg(long, value_name = "NUMBER")]
    to: Option<u64>,
    /// End the rollback: files decide again
    #[arg(long, conflicts_with = "to")]
    release: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(rollback(&arguments))
}

fn rollback(arguments: &Arguments) -> Result<Exit, Failure> {
    let request = match arguments.release {
        true => Request::Release,
        false => Request::Rollback { to: arguments.to },
    };
    arguments.host.order(&request, &arguments.output)
}
