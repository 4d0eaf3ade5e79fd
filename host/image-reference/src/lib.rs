//! Container image references in the normal form of the container runtimes, and patterns over them.
//!
//! - [`Image`] is a reference that was parsed and brought into its normal form: see [`mod@reference`] for the
//!   grammar.
//! - [`Reference`] borrows the four fields that are compared.
//! - [`Pattern`] is a set of images: see [`pattern`] for its form. [`Patterns`] is many of them with an
//!   index.
//!
//! ```
//! use image_reference::{Image, Pattern, Patterns};
//!
//! let image = Image::parse("ghcr.io/acme/app:1.0").unwrap();
//! let patterns = Patterns::new(vec![Pattern::parse("ghcr.io/acme/**").unwrap()]);
//! assert!(patterns.matches(&image.reference()));
//! ```
//!
//! With the feature `serde` patterns are read from their text, and with `schemars` they have a JSON Schema.
//!
//! The crate needs no standard library, does no I/O, and takes time linear in what it reads.
#![no_std]

extern crate alloc;

pub mod pattern;
pub mod reference;

mod excerpt;
mod patterns;
mod registry;
#[cfg(feature = "schemars")]
mod schema;
#[cfg(feature = "serde")]
mod setting;
mod text;

pub use excerpt::{Excerpt, shorten};
pub use pattern::{Pattern, PatternError, TagPattern};
pub use patterns::{Nearest, Patterns, Separation};
pub use reference::{Image, ImageError, MAX_REFERENCE, Reference, refuse_image_id};
pub use registry::RegistryError;
