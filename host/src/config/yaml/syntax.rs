//! Messages for texts that are no YAML, with hints for common mistakes.

use saphyr_parser::ScanError;

use super::{Location, Problem, location};
use crate::text::escape;

/// Returns a problem with the parser's message, or a clearer one for common mistakes.
pub(super) fn syntax_error(text: &str, error: &ScanError, above: usize) -> Problem {
    let at = location(error.marker(), above);
    // The parser's message repeats characters of the document.
    let info = escape(error.info());
    if let Some(at) =
        info.contains("tab").then(|| indenting_tab(text, error.marker().line(), above)).flatten()
    {
        return Problem::new(at, "a tab in the indentation: YAML indents with spaces");
    }
    let hint = match text.chars().nth(error.marker().index()) {
        Some('*') => "an unquoted `*` begins an alias; put a text that begins with `*` in quotes",
        Some('@' | '`' | '%' | '!' | '&') => "put a text that begins with this character in quotes",
        Some('\'' | '"') if info.contains("quoted") && !info.contains("trailing") => {
            "is the quote that begins here closed?"
        }
        Some(':') => "check the indentation of this line, and put a text that contains `: ` in quotes",
        _ => return Problem::new(at, format!("not valid YAML: {info}")),
    };
    Problem::new(at, format!("not valid YAML: {info}: {hint}"))
}

/// Returns the position of the first tab among the spaces that begin a line. The parser reports the value
/// before the tab, or that value's line.
fn indenting_tab(text: &str, from_line: usize, above: usize) -> Option<Location> {
    text.lines().enumerate().skip(from_line.saturating_sub(1)).find_map(|(index, line)| {
        let before = line.find(|c| c != ' ')?;
        line.get(before..)?
            .starts_with('\t')
            .then_some(Location { line: above + index + 1, column: before + 1 })
    })
}

/// Returns a text that stands below `above` lines, without a byte order mark.
pub(super) fn utf8(bytes: &[u8], above: usize) -> Result<&str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to(), above))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn not_utf8(bytes: &[u8], valid: usize, above: usize) -> Problem {
    let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
    let line = above + before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let byte = bytes.get(valid).copied().unwrap_or_default();
    Problem::new(Location { line, column }, format!("not UTF-8: a byte {byte:#04x}"))
}
