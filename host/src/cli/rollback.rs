//! `host rollback`

use std::process::ExitCode;

use super::{Exit, Failure, Output, RunningHost, exit};
use crate::serve::control::Request;

/// Restore an earlier generation in a running host
///
/// The content of the generation stays in force even if files change. Files that change meanwhile are loaded
/// and checked, and are pending: `host status` shows them.
///
/// Exit status: 0 done, 1 the host refuses, 2 usage, or no host responds.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    host: RunningHost,
    /// Number of the generation, as `host status` shows it [default: the one before the generation in force]
    #[arg(long, value_name = "NUMBER")]
    to: Option<u64>,
    /// End the rollback: the files decide again
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
