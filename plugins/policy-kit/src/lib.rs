//! The common parts of the policies beside this crate: the contract in Rust, settings with all their
//! mistakes, and patterns over images.

pub mod contract;
pub mod settings;

#[cfg(target_arch = "wasm32")]
mod heap;

pub use image_reference::{Nearest, Pattern, Patterns, Reference, Separation, TagPattern, pattern, shorten};
