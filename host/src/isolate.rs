//! Work that must not harm other work: a panic in it becomes an error, and its thread runs at a lower
//! priority.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Panic of a closure. The panic hook has already logged the panic's message and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a panic; please report this")]
pub struct Panicked;

/// Runs `work` and converts a panic into an error. After an error the caller must not rely on values that
/// `work` may have changed in part.
///
/// # Errors
/// Returns an error if `work` panicked.
pub fn run<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Raises the nice value of the calling thread by `steps` (nice(2)), so that other threads come first. A
/// failure is harmless: the thread then takes more processor time from the others. Elsewhere than on Linux
/// nice(2) applies to the whole process, so there the priority stays.
pub fn lower_priority(steps: i32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(steps);
    #[cfg(not(target_os = "linux"))]
    let _ = steps;
}
