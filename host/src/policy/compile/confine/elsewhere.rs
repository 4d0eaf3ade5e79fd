//! No confinement. An author tries components of their own on systems without Landlock and seccomp.

use std::io;

use super::{ConfineError, Confinement, Profile};

/// Reports that nothing confines this process.
///
/// # Errors
/// Never.
pub fn confine(profile: Profile) -> io::Result<Confinement> {
    Ok(Confinement { landlock: deny_access(), seccomp: filter_calls(profile) })
}

/// Does nothing.
///
/// # Errors
/// Always.
pub fn deny_access() -> Result<(), ConfineError> {
    Err(ConfineError::Absent)
}

/// Does nothing.
///
/// # Errors
/// Always.
pub fn filter_calls(_profile: Profile) -> Result<(), ConfineError> {
    Err(ConfineError::Absent)
}
