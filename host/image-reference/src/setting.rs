//! Patterns as settings that serde reads: each from its text.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde_core::de::{Deserialize, Deserializer, Error, Visitor};

use crate::{Pattern, PatternError, Patterns, TagPattern};

/// A type that is read from text.
trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, PatternError>;
}

impl FromText for Pattern {
    fn from_text(text: &str) -> Result<Self, PatternError> {
        Pattern::parse(text)
    }
}

impl FromText for TagPattern {
    fn from_text(text: &str) -> Result<Self, PatternError> {
        TagPattern::parse(text)
    }
}

struct Text<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(PhantomData))
    }
}

impl<'de> Deserialize<'de> for TagPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Patterns {
    /// Reads a list that allows or selects: see [`Patterns::new`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Patterns::new)
    }
}
