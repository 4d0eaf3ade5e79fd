//! The one integration test: each module says what belongs in it.

mod config;
mod image;
