//! The line of a problem, for a terminal.

use super::Problem;
use crate::text::escape;

/// Maximum length of a line that is shown, in characters. A longer line would be wrapped, and the mark would
/// not stand under its place.
const MAX_LINE: usize = 100;

impl Problem {
    /// Returns the line of the problem with a mark under its place. Returns None if the line is not in the
    /// text, is too long or holds nothing.
    #[must_use]
    pub fn excerpt(&self, text: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(text).ok()?;
        let at = self.span.at;
        let line = text.trim_start_matches('\u{feff}').lines().nth(at.line.checked_sub(1)?)?;
        let start = line.char_indices().nth(at.column.checked_sub(1)?).map_or(line.len(), |(start, _)| start);
        let (before, rest) = line.split_at_checked(start)?;
        // A value of several lines is marked to the end of its first line.
        let value = text.get(self.span.bytes.clone()).and_then(|value| value.lines().next());
        let marked = value.filter(|value| rest.starts_with(*value)).map_or("", str::trim_end);
        let width = |text: &str| escape(text).chars().count();
        let shown = escape(line.trim_end());
        if shown.is_empty() || shown.chars().count() > MAX_LINE {
            return None;
        }
        let number = at.line.to_string();
        let gutter = " ".repeat(number.len());
        let indent = " ".repeat(width(before));
        let mark = "^".repeat(width(marked).max(1));
        Some(format!("  {number} | {shown}\n  {gutter} | {indent}{mark}"))
    }
}
