//! Places of values in the text.

use saphyr_parser::ScalarStyle;
use serde_json::Value;

use super::super::{Data, Document, Form, Mark, Node, Problem, Span};

/// A document with its text.
pub(super) struct Editor<'a> {
    pub(super) document: &'a Document,
    /// The whole text, with its byte order mark.
    pub(super) text: &'a str,
    /// The text is JSON and stays JSON.
    pub(super) is_json: bool,
    /// JSON without spaces.
    pub(super) is_compact: bool,
    /// The line end of the first line.
    pub(super) line_end: &'static str,
}

/// A value with its surroundings.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) node: &'a Node,
    /// The key, if the value is that of a map's entry.
    pub(super) key: Option<&'a Span>,
    pub(super) parent: Option<&'a Node>,
    /// The value stands inside brackets.
    pub(super) in_flow: bool,
}

impl<'a> Target<'a> {
    pub(super) fn child(&self, key: Option<&'a Span>, node: &'a Node) -> Target<'a> {
        let in_flow = self.in_flow || self.node.form == Form::Flow;
        Target { node, key, parent: Some(self.node), in_flow }
    }
}

impl<'a> Editor<'a> {
    pub(super) fn new(document: &'a Document, text: &'a str) -> Self {
        let json = text.trim_start_matches('\u{feff}');
        let is_json =
            document.root.form == Form::Flow && serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok();
        let is_crlf = text.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r'));
        let is_compact = is_json && !text.contains("\": ");
        let line_end = if is_crlf { "\r\n" } else { "\n" };
        Self { document, text, is_json, is_compact, line_end }
    }

    /// Finds the value at a pointer. A change must not reach other values through an anchor.
    pub(super) fn target(&self, pointer: &str) -> Result<Target<'a>, Problem> {
        let mut found = Target { node: &self.document.root, key: None, parent: None, in_flow: false };
        for token in pointer.split('/').skip(1) {
            refuse_mark(found.node)?;
            let Some((key, child)) = found.node.child(token) else {
                return Err(Problem::new(found.node.span.clone(), "there is no such value"));
            };
            found = found.child(matches!(found.node.data, Data::Map(_)).then_some(key), child);
        }
        Ok(found)
    }

    pub(super) fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// Returns the text from a place on.
    pub(super) fn after(&self, start: usize) -> &'a str {
        self.text.get(start..).unwrap_or_default()
    }

    /// Returns whether nothing is written where the value stands. The parser gives such a value the place of
    /// the next token.
    pub(super) fn is_unwritten(&self, node: &Node) -> bool {
        let text = self.slice(node.span.bytes.start, node.span.bytes.end);
        node.form == Form::Scalar(ScalarStyle::Plain)
            && node.data == Data::Scalar(Value::Null)
            && !matches!(text, "~" | "null" | "Null" | "NULL")
            && node.mark.is_none()
    }

    /// Returns the end of a value, without the line break after a block.
    pub(super) fn end(&self, node: &Node) -> usize {
        let Span { bytes, .. } = &node.span;
        let last = match &node.data {
            Data::List(items) if node.form == Form::Block => items.iter().map(|item| self.end(item)).max(),
            Data::Map(entries) if node.form == Form::Block => {
                entries.values().map(|entry| self.entry_end(entry)).max()
            }
            _ if self.is_unwritten(node) => {
                let before = self.slice(0, bytes.start).trim_end();
                Some(if before.ends_with('-') { before.len() } else { bytes.start })
            }
            _ => None,
        };
        last.unwrap_or_else(|| bytes.start + self.slice(bytes.start, bytes.end).trim_end().len())
    }

    /// Returns the end of an entry of a map.
    pub(super) fn entry_end(&self, (key, value): &(Span, Node)) -> usize {
        match self.is_unwritten(value) {
            true => self.after_colon(key).unwrap_or(key.bytes.end),
            false => self.end(value),
        }
    }

    /// Returns the end of the line, without its line break.
    pub(super) fn end_of_line(&self, at: usize) -> usize {
        let rest = self.after(at);
        let line = rest.split('\n').next().unwrap_or_default();
        let is_broken = line.len() < rest.len();
        at + if is_broken { line.strip_suffix('\r').unwrap_or(line).len() } else { line.len() }
    }

    /// Returns the text between the beginning of the line and a place.
    pub(super) fn before(&self, at: usize) -> &'a str {
        let line = self.slice(0, at).rsplit('\n').next().unwrap_or_default();
        line.trim_start_matches('\u{feff}')
    }

    /// Returns the spaces that bring another line to the column of a place.
    pub(super) fn indentation(&self, at: usize) -> String {
        " ".repeat(self.before(at).chars().count())
    }

    /// Returns the place behind the colon of a key. Returns None if no colon follows.
    pub(super) fn after_colon(&self, key: &Span) -> Option<usize> {
        let rest = self.after(key.bytes.end);
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        rest.get(spaces..)?.starts_with(':').then_some(key.bytes.end + spaces + 1)
    }

    /// Returns the beginning of a list or map in lines. The parser gives a list at its key's indentation the
    /// place behind its first dash.
    pub(super) fn block_start(&self, node: &Node) -> Option<usize> {
        match &node.data {
            Data::Map(entries) => entries.values().map(|(key, _)| key.bytes.start).min(),
            Data::List(items) => {
                let first = items.first()?;
                let before = self.slice(0, first.span.bytes.start).trim_end();
                // An indicator may end with a dash too.
                (before.ends_with('-') && !is_block_scalar(first)).then(|| before.len() - 1)
            }
            Data::Scalar(_) => None,
        }
    }

    /// Returns whether a comment or a property stands inside a list or map.
    pub(super) fn has_comment(&self, node: &Node) -> bool {
        let mut written = Vec::new();
        self.written_ranges(node, &mut written);
        written.sort_unstable();
        let mut from = self.block_start(node).unwrap_or(node.span.bytes.start);
        for (start, end) in written {
            if self.slice(from, start).contains(['#', '&', '!', '?']) {
                return true;
            }
            from = end;
        }
        self.slice(from, self.end(node)).contains('#')
    }

    /// Collects the ranges of the keys and scalars below a value.
    fn written_ranges(&self, node: &Node, into: &mut Vec<(usize, usize)>) {
        match &node.data {
            Data::Scalar(_) if self.is_unwritten(node) => {}
            Data::Scalar(_) => into.push((node.span.bytes.start, self.end(node))),
            Data::List(items) => items.iter().for_each(|item| self.written_ranges(item, into)),
            Data::Map(entries) => entries.values().for_each(|(key, value)| {
                into.push((key.bytes.start, key.bytes.end));
                self.written_ranges(value, into);
            }),
        }
    }

    /// Returns the quotes of a key.
    pub(super) fn key_form(&self, key: &Span) -> Form {
        Form::Scalar(match self.after(key.bytes.start).chars().next() {
            Some('"') => ScalarStyle::DoubleQuoted,
            Some('\'') => ScalarStyle::SingleQuoted,
            _ => ScalarStyle::Plain,
        })
    }
}

/// Returns whether a value is a `|` or `>` block.
pub(super) fn is_block_scalar(node: &Node) -> bool {
    matches!(node.form, Form::Scalar(ScalarStyle::Literal | ScalarStyle::Folded))
}

/// Refuses a value that is tied to others.
pub(super) fn refuse_mark(node: &Node) -> Result<(), Problem> {
    let why = match node.mark {
        None => return Ok(()),
        Some(Mark::Anchor) => "an anchor repeats this value elsewhere",
        Some(Mark::Alias) => "this is an alias of another value",
        Some(Mark::Tag) => "this value has a tag",
    };
    Err(Problem::new(node.span.clone(), why))
}

/// Refuses a value if it or a value inside it is tied to others.
pub(super) fn refuse_marks(node: &Node) -> Result<(), Problem> {
    refuse_mark(node)?;
    match &node.data {
        Data::Scalar(_) => Ok(()),
        Data::List(items) => items.iter().try_for_each(refuse_marks),
        Data::Map(entries) => entries.values().try_for_each(|(_, value)| refuse_marks(value)),
    }
}
