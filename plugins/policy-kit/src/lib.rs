//! What the policies beside this crate share: the contract in Rust, settings read so that every mistake is told, and
//! patterns over images.

pub mod contract;
pub mod settings;
pub mod pattern;

pub use pattern::{Pattern, Patterns, TagPattern};

/// The text fit for a message: at most `most` characters, `…` in place of the rest, and no control character.
pub fn shorten(text: &str, most: usize) -> String {
    let mut rest = text.chars();
    let mut short: String = rest
        .by_ref()
        .take(most)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if rest.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}
