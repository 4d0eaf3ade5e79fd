//! Facts: data beyond the review, which the host fetches and verifies before the evaluation. Pure.

use serde_json::Value;

use crate::config::pointer;
use crate::config::yaml::quote;

/// The key of a fact. No capability provides facts yet, so there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKey {}

/// The facts of a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {}

/// An error in the facts of a suite file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The value is no map.
    #[error("facts are a map: this version knows no facts, so that it is empty")]
    NotAMap,
    /// The key of a fact that this version does not know.
    #[error("unknown fact {}: this version knows no facts", quote(.0))]
    Unknown(String),
}

impl FactsError {
    /// Returns a JSON Pointer to the wrong part of the value.
    pub fn pointer(&self) -> String {
        match self {
            FactsError::NotAMap => String::new(),
            FactsError::Unknown(key) => format!("/{}", pointer::escape(key)),
        }
    }
}

impl Facts {
    /// Reads facts from their form in suite files.
    ///
    /// # Errors
    /// Returns an error for each key that is not known.
    pub fn parse(value: &Value) -> Result<Facts, Vec<FactsError>> {
        let Some(map) = value.as_object() else { return Err(vec![FactsError::NotAMap]) };
        let unknown: Vec<_> = map.keys().cloned().map(FactsError::Unknown).collect();
        if unknown.is_empty() { Ok(Facts {}) } else { Err(unknown) }
    }
}
