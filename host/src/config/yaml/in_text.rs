//! Positions inside the strings of a document: where a line and column of a string stand in the file.

use super::{Data, Document, Location, Node, Span};

impl Location {
    /// Returns the position in words, for a position in a text without a file.
    pub(crate) fn in_words(self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }

    /// Returns whether a text has the position, which may be the end of a line.
    pub(crate) fn is_in(self, text: &str) -> bool {
        self.line_in(text).is_some()
    }

    /// Returns the line of a text in which the position stands. Returns None if there is no such position.
    fn line_in(self, text: &str) -> Option<&str> {
        let line = text.split('\n').nth(self.line.checked_sub(1)?)?;
        self.column.checked_sub(1).filter(|column| *column <= line.chars().count()).map(|_| line)
    }
}

impl Document {
    /// Returns the position in the file of a place in the string at an RFC 6901 JSON Pointer. Returns None if
    /// there is no such place, or if the file writes the string in another way than character by character:
    /// with escapes, folded, with an anchor, or by an alias.
    #[must_use]
    pub fn locate_in_text(&self, pointer: &str, within: Location) -> Option<Location> {
        let Node { span: Span { at, .. }, data: Data::Scalar(value), .. } = self.node(pointer)? else {
            return None;
        };
        let value = value.as_str()?;
        let line = within.line_in(value)?;
        let (row, column) = (within.line.checked_sub(1)?, within.column.checked_sub(1)?);

        let first = at.line.checked_sub(self.above + 1)?;
        let indentation = at.column.checked_sub(1)?;
        let head: String = self.text.lines().nth(first)?.chars().skip(indentation).collect();
        if is_quoted(&head, value) {
            return Some(Location { line: at.line, column: at.column + 1 + column });
        }
        // The position of a block is that of its first line with content.
        let blank = value.bytes().take_while(|byte| *byte == b'\n').count();
        let content = value.split('\n').nth(blank)?;
        let is_begun = if value.contains('\n') { head == content } else { head.starts_with(content) };
        let is_there = || {
            let written = self.text.lines().nth((first + row).checked_sub(blank)?)?;
            let (spaces, rest) = written.split_at_checked(indentation).unwrap_or((written, ""));
            Some(rest == line && spaces.bytes().all(|byte| byte == b' '))
        };
        let found = Location { line: (at.line + row).checked_sub(blank)?, column: at.column + column };
        (is_begun && !content.is_empty() && (row == blank || is_there()?)).then_some(found)
    }
}

/// Returns whether a line begins with a string in quotes and without escapes.
fn is_quoted(line: &str, value: &str) -> bool {
    let quoted = |quote| {
        let rest = line.strip_prefix(quote)?.strip_prefix(value)?;
        Some(rest.starts_with(quote))
    };
    !value.contains(['\\', '\'', '"']) && (quoted('"') == Some(true) || quoted('\'') == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "\
rules: |
    first

      third é!
list:
- plain text
- \"quoted\"
- 'single'
- \"a\\tb\"
- >-
  folded
  text
- |2-
    two more
- &anchor named
- *anchor
- 7
- plain
  folded
empty: ''
";

    /// Each row has a text, a place in it, and its place in the file, whose line 11 is the first one.
    #[test]
    fn places_in_a_text_are_places_in_the_file() {
        let document = Document::parse_from(YAML.as_bytes(), 11).unwrap();
        for (pointer, within, expected) in [
            ("/rules", (1, 1), Some((12, 5))),
            ("/rules", (1, 6), Some((12, 10))),
            ("/rules", (1, 7), None),
            ("/rules", (2, 1), Some((13, 5))),
            ("/rules", (3, 9), Some((14, 13))),
            ("/rules", (3, 1), Some((14, 5))),
            ("/rules", (9, 1), None),
            ("/rules", (0, 1), None),
            ("/list/0", (1, 7), Some((16, 9))),
            ("/list/0", (2, 1), None),
            ("/list/1", (1, 1), Some((17, 4))),
            ("/list/2", (1, 3), Some((18, 6))),
            ("/list/3", (1, 1), None),
            ("/list/4", (1, 1), None),
            ("/list/5", (1, 3), Some((24, 5))),
            ("/list/6", (1, 1), None),
            ("/list/7", (1, 1), None),
            ("/list/8", (1, 1), None),
            ("/list/9", (1, 1), None),
            ("/list", (1, 1), None),
            ("/nothing", (1, 1), None),
            ("/empty", (1, 1), Some((30, 9))),
        ] {
            let location = |(line, column)| Location { line, column };
            assert_eq!(
                document.locate_in_text(pointer, location(within)),
                expected.map(location),
                "{pointer} {within:?}"
            );
        }
    }
}
