//! Lines for people: colours, wrapping, and the marks of the part in which two texts differ.

use anstyle::{AnsiColor, Style};

/// No style.
pub(super) const PLAIN: Style = Style::new();
/// A name or a place.
pub(super) const BOLD: Style = Style::new().bold();
/// A detail.
pub(super) const DIM: Style = Style::new().dimmed();
/// A case that passed, and an expectation.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// A case that failed, and a finding.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// A case that did not run.
pub(super) const LEFT_OUT: Style = AnsiColor::Yellow.on_default();

/// Fewest columns of a wrapped line behind its indentation. Narrower terminals wrap lines themselves.
const NARROWEST: usize = 20;

/// A line of styled texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    spans: Vec<(Style, String)>,
    /// Columns of indentation after a wrap.
    hang: usize,
}

impl Line {
    /// Returns a line that begins with `columns` spaces.
    pub(super) fn indented(columns: usize) -> Line {
        Line { spans: vec![(PLAIN, " ".repeat(columns))], hang: columns }
    }

    /// Adds a text.
    pub(super) fn with(mut self, style: Style, text: impl Into<String>) -> Line {
        self.spans.push((style, text.into()));
        self
    }

    /// Indents the rest of the line, where it is wrapped, to this column.
    pub(super) fn hanging(self) -> Line {
        self.hanging_by(0)
    }

    /// Indents the rest of the line, where it is wrapped, `columns` columns to the right of this column.
    pub(super) fn hanging_by(mut self, columns: usize) -> Line {
        self.hang = self.columns() + columns;
        self
    }

    fn columns(&self) -> usize {
        self.spans.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Returns the line with escape sequences and a line break. A line that is longer than `width` columns is
    /// wrapped between words.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let wrapped = width.filter(|width| self.columns() > *width && self.hang + NARROWEST <= *width);
        let rows = match wrapped {
            Some(width) => self.wrapped(width),
            None => vec![self.spans.clone()],
        };
        let mut text = String::new();
        for row in rows {
            for (style, span) in row.into_iter().filter(|(_, span)| !span.is_empty()) {
                match style == PLAIN {
                    true => text.push_str(&span),
                    false => text.push_str(&format!("{style}{span}{style:#}")),
                }
            }
            text.push('\n');
        }
        text
    }

    /// Breaks the line between words, so that no row is longer than `width` unless one word is.
    fn wrapped(&self, width: usize) -> Vec<Vec<(Style, String)>> {
        let all: Vec<(Style, char)> =
            self.spans.iter().flat_map(|(style, text)| text.chars().map(|c| (*style, c))).collect();
        let mut rows: Vec<Vec<(Style, char)>> = vec![Vec::new()];
        let mut is_first = true;
        // Each word with the space behind it.
        for word in all.split_inclusive(|(_, character)| *character == ' ') {
            let length = word.iter().filter(|(_, character)| *character != ' ').count();
            let used = rows.last().map_or(0, Vec::len);
            if !is_first && used + length > width && used > self.hang {
                rows.push(vec![(PLAIN, ' '); self.hang]);
            }
            if let Some(row) = rows.last_mut() {
                row.extend(word);
            }
            is_first &= length == 0;
        }
        rows.into_iter().map(joined).collect()
    }
}

/// Joins characters of one style to a text. Spaces at the end go.
fn joined(mut row: Vec<(Style, char)>) -> Vec<(Style, String)> {
    while row.last().is_some_and(|(_, character)| *character == ' ') {
        row.pop();
    }
    let spans = row.chunk_by(|(one, _), (other, _)| one == other);
    spans
        .filter_map(|span| Some((span.first()?.0, span.iter().map(|(_, character)| *character).collect())))
        .collect()
}

/// Splits two texts into their common beginning, the parts that differ, and their common end. The parts
/// consist of whole words.
pub(super) fn difference<'a>(one: &'a str, other: &'a str) -> ([&'a str; 3], [&'a str; 3]) {
    let words = |text: &'a str| text.split_inclusive(' ').collect::<Vec<_>>();
    let (first, second) = (words(one), words(other));
    let length = |words: &[&str]| words.iter().map(|word| word.len()).sum::<usize>();
    let same = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
    let rest = first.len().min(second.len()) - same;
    let backwards = first.iter().rev().zip(second.iter().rev()).take(rest);
    let after = backwards.take_while(|(one, other)| one == other).count();
    let split = |text: &'a str, words: &[&str]| {
        let begin = length(words.get(..same).unwrap_or_default());
        let end = text.len() - length(words.get(words.len() - after..).unwrap_or_default());
        let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
        [part(0..begin), part(begin..end), part(end..text.len())]
    };
    (split(one, &first), split(other, &second))
}

/// Returns the spans of a text whose middle part differs from another text. Texts without a common part get
/// no mark.
pub(super) fn marked(line: Line, style: Style, [before, middle, after]: [&str; 3]) -> Line {
    let mark = match before.is_empty() && after.is_empty() {
        true => style,
        false => style.bold().underline(),
    };
    line.with(style, before).with(mark, middle).with(style, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_differs_is_found_by_words() {
        for (one, other, expected) in [
            (
                "deny forbidden-tag",
                "deny not-pinned: no digest",
                ["deny ", "forbidden-tag", "", "deny ", "not-pinned: no digest", ""],
            ),
            ("allow", "deny x", ["", "allow", "", "", "deny x", ""]),
            ("a b c", "a x c", ["a ", "b ", "c", "a ", "x ", "c"]),
            ("a a", "a a a", ["a ", "", "a", "a ", "a ", "a"]),
            ("same", "same", ["same", "", "", "same", "", ""]),
            ("", "", ["", "", "", "", "", ""]),
            ("ü ö", "ü ä", ["ü ", "ö", "", "ü ", "ä", ""]),
        ] {
            let (first, second) = difference(one, other);
            assert_eq!([first, second].concat(), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_line_is_wrapped_between_words_and_hangs() {
        let line = Line::indented(2).with(BAD, "got").with(PLAIN, " ").hanging();
        let line = line.with(PLAIN, "one two three four five six seven");
        let plain = |width| anstream::adapter::strip_str(&line.render(width)).to_string();
        assert_eq!(plain(None), "  got one two three four five six seven\n");
        assert_eq!(plain(Some(40)), plain(None));
        assert_eq!(plain(Some(30)), "  got one two three four five\n      six seven\n");
        // Too narrow to help.
        assert_eq!(plain(Some(25)), plain(None));
        let long = Line::indented(4).with(PLAIN, "x".repeat(40)).with(PLAIN, " y");
        assert_eq!(long.render(Some(30)), format!("    {}\n    y\n", "x".repeat(40)));
        assert!(line.render(None).contains("\u{1b}[31mgot\u{1b}[0m"), "{:?}", line.render(None));
    }
}
