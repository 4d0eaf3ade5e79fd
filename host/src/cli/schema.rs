//! `host schema`

use std::process::ExitCode;

use super::{Exit, exit, say};

/// Print the JSON Schema of host.yaml
///
/// Editors complete and check host.yaml with it: save it and put
/// `# yaml-language-server: $schema=FILE` on the first line.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: Arguments) -> ExitCode {
    exit(say(format_args!("{:#}", crate::config::schema())).map(|()| Exit::Yes))
}
