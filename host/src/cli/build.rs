//! `host build`

use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::whole;
use super::{Exit, Failure, exit, read, say, with_progress};
use crate::author::build;
use crate::author::sources::Sources;
use crate::text;

/// Maximum size of a module, in bytes: far above that of any real policy.
const MODULE_BYTES: u64 = 256 * 1024 * 1024;

/// Make a policy component of a core module, or of a folder of sources
///
/// The core module is one that a compiler makes for wasm32-unknown-unknown, or for WASI 0.1 as a reactor,
/// with bindings of `wit/`. The host must be able to load the component. A MODULE that is a component is
/// checked and copied.
///
/// A folder is built by the toolchain of its language first: Rust (Cargo.toml), Go (go.mod), JavaScript
/// (package.json or *.js), Python (*.py) or C (*.c). Everything that is built lies in its folder `target`.
///
/// Exit status: 0 built, 2 not.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The core module, or the folder of sources
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// File for the component [default for a folder: FOLDER/target/policy.wasm]
    #[arg(short, long, value_name = "FILE.wasm")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(write(arguments))
}

fn write(Arguments { module, output }: Arguments) -> Result<Exit, Failure> {
    let shown = text::path(&module);
    let (bytes, built) = match module.is_dir() {
        true => {
            let sources = Sources::of(&module).map_err(Failure::broken)?;
            let built = with_progress("building", &[&shown], || sources.build());
            (built.map_err(Failure::broken)?, Some(sources.component()))
        }
        false => (read(&module, MODULE_BYTES)?, None),
    };
    let component = with_progress("checking", &[&shown], || build::component(&bytes))
        .map_err(|error| Failure::broken(format_args!("{shown}: {error}")))?;
    let Some(output) = output.or(built) else {
        return Err(Failure::broken(format_args!("{shown}: name a file for the component: --output FILE")));
    };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    if !folder.is_dir() {
        let folder = text::path(folder);
        return Err(Failure::broken(format_args!("{folder}: there is no such folder: make it first")));
    }
    whole(|| build::write(&output, &component))
        .map_err(|error| Failure::broken(format_args!("{}: {error}", text::path(&output))))?;
    say(format_args!("{}: {} bytes", text::path(&output), component.len()))?;
    Ok(Exit::Yes)
}
