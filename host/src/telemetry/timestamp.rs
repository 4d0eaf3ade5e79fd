//! Times as RFC 3339 text with milliseconds, for `#[serde(with = "timestamp")]`.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serializer};

/// Writes a time.
///
/// # Errors
/// Returns an error if the serializer fails.
pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // The format begins with 1970, so earlier times of a wrong clock become 1970.
    serializer.collect_str(&humantime::format_rfc3339_millis((*time).max(SystemTime::UNIX_EPOCH)))
}

/// Reads a time.
///
/// # Errors
/// Returns an error if the text is no RFC 3339 time.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}
