//! One line of text.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

use serde_core::de::{Deserialize, Deserializer, Error, Visitor};

/// A setting that is one line of at most `MOST` bytes, without control characters, and not empty. The line
/// break at the end of a file, or of a block of YAML, is no part of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<const MOST: usize>(String);

impl<const MOST: usize> Line<MOST> {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MOST: usize> fmt::Display for Line<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de, const MOST: usize> Deserialize<'de> for Line<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<const MOST: usize>;
        impl<const MOST: usize> Visitor<'_> for Text<MOST> {
            type Value = Line<MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Line<MOST>, E> {
                let text = text.strip_suffix('\n').unwrap_or(text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.chars().all(char::is_whitespace) {
                    Err(E::custom("empty: write a line, or leave the key out"))
                } else if text.contains(char::is_control) {
                    Err(E::custom("wanted one line without control characters"))
                } else if text.len() > MOST {
                    Err(E::custom(format_args!("{} bytes: wanted at most {MOST}", text.len())))
                } else {
                    Ok(Line(text.to_owned()))
                }
            }
        }
        deserializer.deserialize_str(Text)
    }
}
