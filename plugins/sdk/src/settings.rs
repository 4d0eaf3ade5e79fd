//! Settings: read by serde, with all mistakes at once, each with its place.
//!
//! serde ends at the first mistake. So the value that is wrong is taken out, and the rest is read again,
//! until there is no mistake left. An item of a list keeps its number, and a key that was taken out is not
//! reported as missing. A mistake of a value from which something was taken out is not reported, since it may
//! be a consequence.
//!
//! `null` is a mistake wherever a type is wanted, also that of an `Option`: to leave a key out is the one way
//! to write nothing.

mod deserializer;
mod document;
mod error;
mod json;
mod line;
mod mistakes;

use alloc::string::ToString;
use alloc::vec::Vec;

use image_reference::{Pattern, Patterns};
use serde_core::de::{Deserialize, DeserializeOwned, Deserializer};

use self::deserializer::Value;
use self::document::{Document, ROOT};
use self::error::Error;
pub use self::line::Line;
pub use self::mistakes::Mistakes;

/// Reads settings, one JSON value.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, Mistakes> {
    let mut document = Document::parse(json).map_err(|error| Mistakes::of("", error.to_string()))?;
    let mut sound = true;
    loop {
        match T::deserialize(Value::new(&document, ROOT)) {
            Ok(settings) if sound => return Ok(settings),
            Ok(_) => break,
            Err(error) => {
                let error: Error = error;
                sound = false;
                if !document.learn(error) {
                    break;
                }
            }
        }
    }
    Err(document.into_mistakes())
}

/// Reads the settings of a policy without settings: an empty mapping.
///
/// # Errors
/// Returns a mistake for every key.
#[doc(hidden)]
pub fn no_settings(json: &str) -> Result<(), Mistakes> {
    let document = Document::parse(json).map_err(|error| Mistakes::of("", error.to_string()))?;
    let mistakes = document.of_no_settings();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// Reads a list of patterns that denies, for `#[serde(deserialize_with = "image_policy::denying")]`. A
/// registry then means all names and ports under which a runtime is known to reach it: see
/// [`Patterns::denying`].
///
/// # Errors
/// Returns an error if the value is no list of patterns.
pub fn denying<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
    Vec::<Pattern>::deserialize(deserializer).map(Patterns::denying)
}
