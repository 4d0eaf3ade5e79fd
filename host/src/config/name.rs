//! DNS labels (RFC 1123) as names: of policies and of namespaces.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::yaml::quote;

/// The longest DNS label, in bytes.
pub(super) const MAX_LABEL: usize = 63;

/// The name of a policy: a DNS label, so that it can begin the key of an audit annotation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PolicyName(String);

/// A name that is no DNS label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

impl NameError {
    pub(super) fn new(message: String) -> Self {
        Self(message)
    }
}

impl PolicyName {
    /// Returns the name nearest to a text, such as the stem of a file's name. Returns None if the text has no
    /// letter and no digit.
    #[must_use]
    pub fn nearest(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let characters = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        let name: String = characters.take(MAX_LABEL).collect();
        Self::try_from(name.trim_matches('-')).ok()
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for PolicyName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        check_label(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for PolicyName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        PolicyName::try_from(text.as_str())
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rejects a text that is no DNS label. The error suggests the nearest label, if there is one.
pub(super) fn check_label(text: &str) -> Result<(), NameError> {
    if is_label(text) {
        return Ok(());
    }
    let mut message =
        format!("{} is not a DNS label (1 to {MAX_LABEL} of a-z, 0-9 and inner `-`)", quote(text));
    let nearest: String =
        text.chars().map(|c| if "_. /".contains(c) { '-' } else { c.to_ascii_lowercase() }).collect();
    let nearest = nearest.trim_matches('-');
    if is_label(nearest) {
        message.push_str(&format!(": did you mean `{nearest}`?"));
    }
    Err(NameError(message))
}

pub(super) fn is_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_LABEL).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
