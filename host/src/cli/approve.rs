//! `host approve`

use std::process::ExitCode;

use super::{Output, RunningHost, exit};
use crate::serve::control::Request;

/// Put the candidate in force that a running host holds
///
/// Exit status: 0 done, 1 the host refuses, 2 usage, or no host answers.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The candidate's digest, as `host status` shows it: one that has come since is not approved
    #[arg(value_name = "DIGEST")]
    digest: String,
    #[command(flatten)]
    host: RunningHost,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(arguments.host.order(&Request::Approve { digest: arguments.digest }, &arguments.output))
}
