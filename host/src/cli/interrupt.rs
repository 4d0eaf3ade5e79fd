//! The end of a verb by a signal, such as by Ctrl-C: at once, without half a line, and without temporary
//! files.
//!
//! The process ends by the signal itself, as it would without this module. A shell shows that as status 128
//! plus the number of the signal (130 after Ctrl-C), and stops the loop that the verb is part of. A process
//! that exits with 130 by itself does not stop the loop.
//!
//! The child processes that compile end with their parent.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::terminal;

/// Signals that people and build systems send to end a verb.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
/// Time for a thread to complete the line, document or file that it writes. Its reader may have stopped
/// reading.
const WRITE_TIME: Duration = Duration::from_millis(500);
/// Attempts to remove a folder, into which other threads may still write.
const ATTEMPTS: usize = 100;

/// Whether a signal has arrived. The handler sets it before the thread that received the signal goes on, so a
/// verb prints nothing about children that the same Ctrl-C has ended.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Runs a verb. Its temporary files are removed at its end and when a signal ends it.
pub(super) fn run(verb: impl FnOnce() -> ExitCode) -> ExitCode {
    let folder = temporary_folder();
    // A verb without the handlers ends by the same signals, and leaves its temporary files.
    let _ = watch(folder.clone());
    let exit = verb();
    wait_if_interrupted();
    if let Some(folder) = folder {
        remove(&folder);
    }
    exit
}

/// Makes the folder for all temporary files of this process. Returns None if it cannot be made: a verb that
/// needs a temporary file then reports the reason.
fn temporary_folder() -> Option<PathBuf> {
    let folder = tempfile::Builder::new().prefix("image-policy-host-").tempdir().ok()?.keep();
    // An error means that the process has such a folder already.
    match tempfile::env::override_temp_dir(&folder) {
        Ok(()) => Some(folder),
        Err(_) => {
            remove(&folder);
            None
        }
    }
}

/// Starts the thread that waits for a signal.
fn watch(folder: Option<PathBuf>) -> io::Result<()> {
    let ignored = ignored();
    let signals: Vec<i32> = SIGNALS.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect();
    for signal in &signals {
        signal_hook::flag::register(*signal, Arc::clone(&INTERRUPTED))?;
    }
    let mut signals = Signals::new(signals)?;
    thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        let mut output = terminal::seize(WRITE_TIME);
        if let Some(output) = output.as_mut() {
            output.erase();
        }
        if let Some(folder) = folder {
            remove(&folder);
        }
        // It returns only for signals that do not end a process.
        let _ = emulate_default_handler(signal);
    })?;
    Ok(())
}

/// Waits for the end of the process if a signal has arrived.
pub(super) fn wait_if_interrupted() {
    if INTERRUPTED.load(Ordering::Relaxed) {
        // The process ends earlier. The limit is for a thread that waits for this one.
        thread::sleep(WRITE_TIME * 2);
    }
}

/// Returns the set of signals that the process ignores, as `nohup` and background jobs of scripts do. Bit
/// N - 1 is signal N (proc_pid_status(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or_default()
}

fn remove(folder: &Path) {
    for _ in 0..ATTEMPTS {
        match std::fs::remove_dir_all(folder) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // A thread made a file meanwhile.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}
