//! What the policies beside this crate share: the contract in Rust, settings read so that every mistake is told, and
//! patterns over images.

pub mod contract;
pub mod settings;

#[cfg(target_arch = "wasm32")]
mod heap;

pub use image_reference::{Nearest, Pattern, Patterns, Reference, Separation, TagPattern, pattern, shorten};
