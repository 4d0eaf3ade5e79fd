//! Confinement of a process that compiles. Before the process reads a component, it drops every right that it
//! does not need, so a component that takes over the compiler finds no file, no network and no other process.
//!
//! Landlock (landlock(7)) and the system call filter (seccomp(2)) each suffice against files and the network.
//! Some kernels and service managers lack one of the two, so [`Confinement`] says which are in force.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod elsewhere;

use serde::{Deserialize, Serialize};

#[cfg(not(target_os = "linux"))]
pub use self::elsewhere::{confine, deny_access, filter_calls};
#[cfg(target_os = "linux")]
pub use self::linux::{confine, deny_access, filter_calls};

/// Set of rights that a confined process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Compiling. No memory can be made executable.
    Compile,
    /// Compiling and running `configure`, which needs executable memory.
    Snapshot,
}

/// Reason why a mechanism of the kernel is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConfineError {
    /// Kernel that restricts nothing.
    #[error("the kernel has none, or a filter of system calls refuses it")]
    Absent,
    /// Processor whose system calls have not been traced.
    #[error("there is no filter for {0}")]
    Processor(String),
    /// Error of the system. The error is a text, because the confined process reports it over a pipe.
    #[error("{0}")]
    System(String),
}

#[cfg(target_os = "linux")]
impl ConfineError {
    fn system(error: impl std::error::Error) -> ConfineError {
        ConfineError::System(error.to_string())
    }
}

/// State of the two kernel mechanisms, each with the reason if it is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Landlock, against access to files, TCP and other processes.
    pub landlock: Result<(), ConfineError>,
    /// Filter of system calls.
    pub seccomp: Result<(), ConfineError>,
}

impl Confinement {
    /// Describes the missing mechanisms and the consequence. Returns None if both are in force.
    pub fn problem(&self) -> Option<String> {
        let cure = "use a kernel with both, Linux 5.13 or later, and allow the system calls \
            landlock_create_ruleset, landlock_restrict_self and seccomp (`SystemCallFilter=` of systemd)";
        match (&self.landlock, &self.seccomp) {
            (Ok(()), Ok(())) => None,
            (Err(landlock), Ok(())) => Some(format!(
                "Landlock is not in force ({landlock}): the filter of system calls alone keeps a component \
                    that takes over the compiler from files and the network; {cure}"
            )),
            (Ok(()), Err(seccomp)) => Some(format!(
                "the filter of system calls is not in force ({seccomp}): a component that takes over the \
                    compiler can open no file, but can start processes and make memory executable; {cure}"
            )),
            (Err(landlock), Err(seccomp)) => Some(format!(
                "neither Landlock ({landlock}) nor the filter of system calls ({seccomp}) is in force: a \
                    component that takes over the compiler can read files and signal processes with the \
                    rights of this host; {cure}"
            )),
        }
    }
}
