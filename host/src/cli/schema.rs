//! `host schema`

use std::process::ExitCode;

use clap::ValueEnum;

use super::{Exit, exit, say};

/// Print the JSON Schema of host.yaml, or of suite files
///
/// Editors complete and check these files with it: save it and put
/// `# yaml-language-server: $schema=FILE` on the first line.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The kind of file
    #[arg(value_enum, default_value_t = Kind::Host)]
    kind: Kind,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// host.yaml
    Host,
    /// Suite files of `host test`
    Suite,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let schema = match arguments.kind {
        Kind::Host => crate::config::schema(),
        Kind::Suite => crate::suite::schema(),
    };
    exit(say(format_args!("{schema:#}")).map(|()| Exit::Yes))
}
