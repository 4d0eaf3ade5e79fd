//! Durations (`1s`, `500ms`, `1m30s`) and quantities (`64Mi`) in the notation of Kubernetes; whole numbers
//! only.

use std::time::Duration;

/// The input of [`parse_duration`], as a regular expression.
pub(super) const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h))+$";
/// The input of [`parse_quantity`], as a regular expression.
pub(super) const QUANTITY_PATTERN: &str = "^[0-9]+(Ki|Mi|Gi|k|M|G)?$";

/// Suffixes, and their factors in bytes.
const QUANTITIES: [(&str, u64); 7] = [
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1000),
    ("", 1),
];

/// Reads a duration. Returns None if the text is no duration, or does not fit into a `u64` of milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut milliseconds: u64 = 0;
    while let Some(unit_at) = rest.find(|c: char| !c.is_ascii_digit()) {
        let (digits, unit_and_rest) = rest.split_at_checked(unit_at)?;
        let unit_length = unit_and_rest.find(|c: char| c.is_ascii_digit()).unwrap_or(unit_and_rest.len());
        let (unit, after) = unit_and_rest.split_at_checked(unit_length)?;
        let scale = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        milliseconds = milliseconds.checked_add(digits.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(Duration::from_millis(milliseconds))
}

/// Reads a quantity in bytes. Returns None if the text is no quantity, or does not fit into a `u64`.
pub(super) fn parse_quantity(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(unit_at)?;
    let (_, scale) = QUANTITIES.iter().find(|(suffix, _)| *suffix == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::show_bytes;

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("1s", 1000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "1", "s", "1.5s", "-1s", "1 s", "1d", "1sm", "99999999999999999999s", "9999999999999999999h"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn quantities() {
        for (text, bytes) in
            [("64Mi", 64 << 20), ("1Gi", 1 << 30), ("256Ki", 256 << 10), ("100", 100), ("2k", 2000)]
        {
            assert_eq!(parse_quantity(text), Some(bytes), "{text}");
        }
        for text in ["", "Mi", "64MB", "64mi", "1.5Gi", "-1", "99999999999Gi", "64 Mi"] {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
        for text in ["64Mi", "1Gi", "1536Ki", "1000", "0"] {
            assert_eq!(parse_quantity(text).map(show_bytes).as_deref(), Some(text));
        }
    }
}
