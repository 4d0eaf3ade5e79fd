//! `host approve`

use std::process::ExitCode;

use super::{Output, RunningHost, exit};
use crate::serve::control::Request;

/// Put the held candidate of a running host in force
///
/// Exit status: 0 done, 1 the host refuses, 2 usage, or no host responds.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Digest of the candidate, as `host status` shows it. A newer candidate is not approved
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
