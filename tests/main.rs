//! The one integration test: each module says what belongs in it.

mod cli;
mod config;
mod image;
mod plugins;
mod tidy;
