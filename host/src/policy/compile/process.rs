//! The parts of a child process's life that differ between systems.

use std::io;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::{Pid, Signal};
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal, set_parent_process_death_signal};

/// A running child, for a thread other than the one that waits for the child.
pub(super) struct Handle {
    /// Unlike a process number, the descriptor never refers to another process after this one has ended.
    #[cfg(target_os = "linux")]
    process: rustix::fd::OwnedFd,
    /// Number of the process. Another process may have the number after this one has ended.
    #[cfg(not(target_os = "linux"))]
    process: Pid,
}

impl Handle {
    pub(super) fn of(child: &Child) -> io::Result<Handle> {
        let process = Pid::from_child(child);
        #[cfg(target_os = "linux")]
        let process = pidfd_open(process, PidfdFlags::empty())?;
        Ok(Handle { process })
    }

    pub(super) fn kill(&self) {
        // An error means that the child has already ended.
        #[cfg(target_os = "linux")]
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        #[cfg(not(target_os = "linux"))]
        let _ = rustix::process::kill_process(self.process, Signal::KILL);
    }
}

/// Makes this process end with its parent. Only Linux can.
pub(super) fn end_with_parent() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Returns the path of the program that this process runs. On Linux an upgrade on disk does not change that
/// program (proc_pid_exe(5)).
pub(super) fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("host"))
}
