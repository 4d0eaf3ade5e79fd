//! What the policies beside this crate share: the contract in Rust, settings read so that every mistake is told, and
//! patterns over images.

pub mod contract;
pub mod settings;
pub mod pattern;

#[cfg(target_arch = "wasm32")]
mod heap;
mod patterns;

use std::borrow::Cow;

pub use pattern::{Pattern, TagPattern};
pub use patterns::Patterns;

/// The text fit for a message: at most `most` characters, `…` in place of the rest, and no control character.
pub fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
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
    Cow::Owned(short)
}
