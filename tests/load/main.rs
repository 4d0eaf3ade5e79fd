//! `load`: the runs of the proof, and a load on any host.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use load::host::say;
use load::{faults, swaps, upgrades, volumes};

/// The proof of the hot swap
///
/// Every answer of every run is checked: its status, its verdict against the content of the generation that
/// it names, and that no review is judged by an older generation than one that had answered before. The host
/// is the program that HOST_BIN names, or is built first.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    run: Run,
}

#[derive(Subcommand)]
enum Run {
    /// Swap policies under load
    Swaps(swaps::Options),
    /// Swap Kubernetes volumes with certificates and policies under load
    Volumes(volumes::Options),
    /// Restart the host on its socket, as systemd does, under load
    Upgrades(upgrades::Options),
    /// Break things and mend them while policies are swapped under load
    Faults(faults::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A backtrace would be of this program, and the error is of the host.
            say(format!("load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.run {
            Run::Swaps(options) => swaps::run(options).await,
            Run::Volumes(options) => volumes::run(options).await,
            Run::Upgrades(options) => upgrades::run(options).await,
            Run::Faults(options) => faults::run(options).await,
        }
    })
}
