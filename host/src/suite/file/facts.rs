//! The facts of a suite file, in place or in a file of their own.

use std::path::Path;

use serde_json::Value;

use super::beside;
use crate::config::yaml::{Document, Problem};
use crate::evaluate::{Facts, FactsError};
use crate::suite::fixture;
use crate::text;

/// Reads the facts at a place of a suite file.
///
/// # Errors
/// Returns the problems of the facts. Those of a file are at the place of its name.
pub(super) fn read(
    suite: &Path,
    document: &Document,
    at: &str,
    value: &Value,
) -> Result<Facts, Vec<Problem>> {
    let Some(file) = value.as_str() else {
        let problem = |error: FactsError| {
            Problem::new(document.key_span(&format!("{at}{}", error.pointer())), error.to_string())
        };
        return Facts::parse(value).map_err(|errors| errors.into_iter().map(problem).collect());
    };
    let path = beside(suite, file);
    let here = |message: String| Problem::new(document.span(at), message);
    let bytes = fixture::bytes(&path).map_err(|error| vec![here(error.to_string())])?;
    let shown = text::path(&path);
    let facts = Document::parse(&bytes).map_err(|error| {
        error.problems.iter().map(|problem| here(format!("{shown}:{problem}"))).collect::<Vec<_>>()
    })?;
    Facts::parse(&facts.value).map_err(|errors| {
        let problem = |error: FactsError| {
            let place = facts.key_span(&error.pointer());
            here(format!("{shown}:{place}: {error}"))
        };
        errors.into_iter().map(problem).collect()
    })
}
