//! User input fit for a message: bounded, on one line, and nothing invisible in it.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

/// Most characters of user input that the message of an [`ImageError`](crate::ImageError) repeats.
const MAX_EXCERPT: usize = 64;

/// User input fit for a message: at most 64 characters, those outside printable ASCII written as `\u{202e}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    pub(crate) fn of(text: &str) -> Excerpt {
        let mut rest = text.chars();
        let mut shown = String::new();
        for character in rest.by_ref().take(MAX_EXCERPT) {
            push_visible(&mut shown, character);
        }
        if rest.next().is_some() {
            shown.push('…');
        }
        Excerpt(shown)
    }

    pub(crate) fn of_char(character: char) -> Excerpt {
        let mut shown = String::new();
        push_visible(&mut shown, character);
        Excerpt(shown)
    }
}

/// Appends a character, or its escape where another could be read in its place or none be seen.
fn push_visible(shown: &mut String, character: char) {
    match character {
        ' '..='~' => shown.push(character),
        _ => shown.extend(character.escape_unicode()),
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the text fit for a message: at most `most` characters, `…` in place of the rest, and no control
/// character.
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
