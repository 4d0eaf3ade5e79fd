//! The binary `host`: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::cli::run()
}
