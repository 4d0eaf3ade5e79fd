//! `host build`

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, exit};
use crate::build;

/// Make a policy component of a core module
///
/// Takes what a compiler makes for wasm32-unknown-unknown with bindings of `wit/`.
/// Exit status: 0 built, 2 not.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The core module
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// Where to write the component
    #[arg(short, long, value_name = "FILE.wasm")]
    output: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(write(arguments))
}

fn write(Arguments { module, output }: Arguments) -> Result<ExitCode, Failure> {
    let bytes =
        fs::read(&module).map_err(|error| Failure::new(2, format!("{}: {error}", module.display())))?;
    let component = build::component(&bytes)
        .map_err(|error| Failure::new(2, format!("{}: {error}", module.display())))?;
    // By renaming, because a host may be watching.
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, &component)?;
        // A policy is no secret, and the host may run as another user.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(&output)?;
        Ok(())
    };
    write().map_err(|error| Failure::new(2, format!("{}: {error}", output.display())))?;
    println!("{}: {} bytes", output.display(), component.len());
    Ok(ExitCode::SUCCESS)
}
