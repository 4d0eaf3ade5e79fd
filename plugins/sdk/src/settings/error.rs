//! Why settings could not be read.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use image_reference::shorten;
use serde_core::de::{Expected, Unexpected};

/// Most characters of a name in a message.
const NAME: usize = 64;

/// The first mistake of one reading, and the position of the value that it is in.
#[derive(Debug)]
pub(super) struct Error(Box<(Fault, Option<usize>)>);

/// A mistake.
#[derive(Debug)]
pub(super) enum Fault {
    /// The key is missing in the mapping.
    Missing(&'static str),
    Message(String),
}

impl Error {
    pub(super) fn of_message(message: String) -> Error {
        Error(Box::new((Fault::Message(message), None)))
    }

    /// Names the value that the mistake is in, if no value inside it is named.
    pub(super) fn or_at(mut self, position: usize) -> Error {
        self.0.1.get_or_insert(position);
        self
    }

    pub(super) fn into_parts(self) -> (Fault, Option<usize>) {
        *self.0
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing(key) => write!(f, "the key `{key}` is missing"),
            Fault::Message(message) => f.write_str(message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

impl core::error::Error for Error {}

impl serde_core::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error::of_message(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Error {
        let found = match found {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "a string",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a mapping",
            _ => "another value",
        };
        Error::of_message(format!("wanted {wanted}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Error {
        match found {
            Unexpected::Str(text) => {
                Error::of_message(format!("wanted {wanted}, found `{}`", shorten(text, NAME)))
            }
            Unexpected::Unsigned(number) => Error::of_message(format!("wanted {wanted}, found {number}")),
            Unexpected::Signed(number) => Error::of_message(format!("wanted {wanted}, found {number}")),
            other => Error::invalid_type(other, wanted),
        }
    }

    fn invalid_length(length: usize, wanted: &dyn Expected) -> Error {
        Error::of_message(format!("wanted {wanted}, found {length} items"))
    }

    fn unknown_variant(found: &str, variants: &'static [&'static str]) -> Error {
        Error::of_message(format!("wanted {}, found `{}`", list(variants, " or "), shorten(found, NAME)))
    }

    fn unknown_field(key: &str, fields: &'static [&'static str]) -> Error {
        let hint = match nearest(key, fields) {
            Some(near) => format!("did you mean `{near}`?"),
            None if fields.is_empty() => "there are no keys here".to_owned(),
            None => format!("valid here: {}", list(fields, ", ")),
        };
        Error::of_message(format!("unknown key `{}`: {hint}", shorten(key, NAME)))
    }

    fn missing_field(key: &'static str) -> Error {
        Error(Box::new((Fault::Missing(key), None)))
    }

    fn duplicate_field(key: &'static str) -> Error {
        Error::of_message(format!("the key `{key}` is there twice"))
    }
}

/// Returns names with a text between them.
pub(super) fn list(names: &[&str], between: &str) -> String {
    let mut list = String::new();
    for (number, name) in names.iter().enumerate() {
        if number > 0 {
            list.push_str(between);
        }
        list.push_str(name);
    }
    list
}

/// Returns the name that is nearly the same: at most a third of its letters inserted, left out or changed.
fn nearest(key: &str, names: &'static [&'static str]) -> Option<&'static str> {
    let near = names.iter().map(|name| (distance(key.as_bytes(), name.as_bytes()), *name));
    let (distance, name) = near.min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= name.len().max(key.len())).then_some(name)
}

/// Returns the number of bytes to insert, leave out or change. Names that are long are far from all.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row = [0_usize; NAME];
    if one.len() >= NAME || other.len() >= NAME {
        return NAME;
    }
    for (number, cell) in row.iter_mut().enumerate() {
        *cell = number;
    }
    for (above, byte) in one.iter().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let (first, cells) = (row.first_mut(), other.len());
        if let Some(first) = first {
            *first = left;
        }
        for (cell, target) in row.iter_mut().skip(1).take(cells).zip(other) {
            let changed = diagonal + usize::from(byte != target);
            diagonal = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.get(other.len()).copied().unwrap_or(NAME)
}
