//! Lines in the host's log.
//!
//! ```
//! use image_policy::log;
//!
//! let patterns = 3;
//! log::info!("{patterns} patterns are trusted");
//! ```
//!
//! Lines that [`Policy::loaded`](crate::Policy::loaded) writes are shown once, when the policy is loaded.
//! Natively the lines go to standard error.

use core::fmt;

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

/// The weight of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the author of the policy.
    Debug,
    /// For the record.
    Info,
    /// For the operator to look at.
    Warn,
    /// For the operator to act on.
    Error,
}

/// Writes one line. The macros of this module are shorter.
pub fn write(level: Level, line: fmt::Arguments<'_>) {
    #[cfg(target_arch = "wasm32")]
    match line.as_str() {
        Some(line) => crate::export::log(level, line),
        None => crate::export::log(level, &alloc::fmt::format(line)),
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::io::Write;
        // A test that has closed its standard error needs no lines.
        drop(writeln!(std::io::stderr(), "{level:?}: {line}"));
    }
}

/// Writes a line for the author of the policy.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($line:tt)*) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($line)*)) };
}

/// Writes a line for the record.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($line:tt)*) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($line)*)) };
}

/// Writes a line for the operator to look at.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($line:tt)*) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($line)*)) };
}

/// Writes a line for the operator to act on.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($line:tt)*) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($line)*)) };
}
