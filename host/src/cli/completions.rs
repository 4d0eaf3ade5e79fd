//! `host completions`

use std::process::ExitCode;

use clap_complete::{Shell, generate};

use super::help::command;
use super::{Exit, exit, say};

/// Print a script that completes this command line in a shell
///
/// The guide (docs/command-line.md) has the line that installs the script in each shell.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Shell that gets the script
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let mut script = Vec::new();
    generate(arguments.shell, &mut command(), "host", &mut script);
    exit(say(String::from_utf8_lossy(&script).trim_end()).map(|()| Exit::Yes))
}
