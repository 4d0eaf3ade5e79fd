//! `host build`

use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::whole;
use super::{Exit, Failure, exit, read, say, with_progress};
use crate::author::build;
use crate::text;

/// Maximum size of a module, in bytes: far above that of any real policy.
const MODULE_BYTES: u64 = 256 * 1024 * 1024;

/// Make a policy component of a core module
///
/// The core module is one that a compiler makes for wasm32-unknown-unknown, or for WASI 0.1 as a reactor,
/// with bindings of `wit/`. The host must be able to load the component. A MODULE that is a component is
/// checked and copied.
///
/// Exit status: 0 built, 2 not.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The core module
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// File for the component
    #[arg(short, long, value_name = "FILE.wasm")]
    output: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(write(arguments))
}

fn write(Arguments { module, output }: Arguments) -> Result<Exit, Failure> {
    let bytes = read(&module, MODULE_BYTES)?;
    let component = with_progress("building", &[&text::path(&output)], || build::component(&bytes))
        .map_err(|error| Failure::broken(format_args!("{}: {error}", text::path(&module))))?;
    // The file is renamed into place, because a host may be watching.
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    if !folder.is_dir() {
        let folder = text::path(folder);
        return Err(Failure::broken(format_args!("{folder}: there is no such folder: make it first")));
    }
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, &component)?;
        // A policy is no secret, and the host may run as another user.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(&output)?;
        Ok(())
    };
    whole(write).map_err(|error| Failure::broken(format_args!("{}: {error}", text::path(&output))))?;
    say(format_args!("{}: {} bytes", text::path(&output), component.len()))?;
    Ok(Exit::Yes)
}
