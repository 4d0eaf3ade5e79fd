//! YAML documents in which every value has its line, its column and its bytes.
//!
//! The module reads YAML 1.2 (and so JSON) with the core schema: `no` is a string, `1.0` a float, `0777` is
//! 777. The bytes may be hostile: the caller limits their number, and this module limits their expansion.
//! Values that JSON cannot hold (keys that are no strings, tags, merge keys, `.inf`) are rejected, never
//! converted.

pub mod edit;
mod excerpt;
mod in_text;
mod load;
mod scalar;
mod syntax;

use std::collections::BTreeMap;
use std::ops::Range;

use saphyr_parser::ScalarStyle;
use serde_json::Value;

use self::load::Loader;
use super::pointer;
use crate::text::escape;

/// Limit of the characters of the document that a message quotes.
const MAX_QUOTED: usize = 64;

/// A position in the text. The default is the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

impl Default for Location {
    fn default() -> Self {
        Self { line: 1, column: 1 }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The place of a key or of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The beginning.
    pub at: Location,
    /// The range in the bytes of the document: of a block scalar its lines, without the header. The range is
    /// empty if only the beginning is known.
    pub bytes: Range<usize>,
}

impl From<Location> for Span {
    fn from(at: Location) -> Self {
        Self { at, bytes: 0..0 }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.at.fmt(f)
    }
}

/// One problem in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Place.
    pub span: Span,
    /// Message, on one line.
    pub message: String,
}

impl Problem {
    /// Creates a problem at a place.
    pub fn new(place: impl Into<Span>, message: impl Into<String>) -> Self {
        Self { span: place.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.span, self.message)
    }
}

/// The reason why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
pub struct YamlError {
    /// The problems, at least one, in the order of the text.
    pub problems: Vec<Problem>,
}

/// One parsed document. The default is an empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The content.
    pub value: Value,
    root: Node,
    /// The text, for positions inside its strings.
    text: Box<str>,
    /// Lines of the file above the text.
    above: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    span: Span,
    data: Data,
    form: Form,
    mark: Option<Mark>,
}

/// How the text writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Scalar(ScalarStyle),
    /// In brackets.
    Flow,
    /// By indentation.
    Block,
}

impl Default for Form {
    fn default() -> Self {
        Self::Scalar(ScalarStyle::Plain)
    }
}

/// A property that ties a value to other values, or to a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Anchor,
    Alias,
    Tag,
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    List(Vec<Node>),
    /// A map, with the place of each key.
    Map(BTreeMap<String, (Span, Node)>),
}

impl Default for Data {
    fn default() -> Self {
        Self::Scalar(Value::Null)
    }
}

impl Document {
    /// Parses one document. An empty text is null. A syntax error ends parsing and is therefore the last
    /// problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, YamlError> {
        Self::parse_from(bytes, 1)
    }

    /// Parses one document that is part of a text and begins in this line of the text, counted from 1. The
    /// ranges of its spans are relative to `bytes`.
    pub fn parse_from(bytes: &[u8], line: usize) -> Result<Self, YamlError> {
        let above = line.saturating_sub(1);
        let root = Loader::load(bytes, above).map_err(|problems| YamlError { problems })?;
        // The loader takes UTF-8 only.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(Self { value: root.value(), root, text: text.into(), above })
    }

    /// Returns an empty document at a position.
    #[must_use]
    pub fn at(at: Location) -> Self {
        Self { root: Node { span: at.into(), ..Node::default() }, ..Self::default() }
    }

    /// Returns the position of the value at an RFC 6901 JSON Pointer, or of its nearest existing parent.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> Location {
        self.find(pointer).1.at
    }

    /// Returns the place of the value at an RFC 6901 JSON Pointer, or of its nearest existing parent.
    #[must_use]
    pub fn span(&self, pointer: &str) -> Span {
        self.find(pointer).1.clone()
    }

    /// Returns the place of the key at the end of an RFC 6901 JSON Pointer. A list item has the place of its
    /// value.
    #[must_use]
    pub fn key_span(&self, pointer: &str) -> Span {
        self.find(pointer).0.clone()
    }

    /// Returns whether there is a value at an RFC 6901 JSON Pointer.
    #[must_use]
    pub fn holds(&self, pointer: &str) -> bool {
        self.node(pointer).is_some()
    }

    /// Returns the keys of the map at an RFC 6901 JSON Pointer, in the order of the text.
    pub fn keys(&self, pointer: &str) -> Vec<&str> {
        let Some(Node { data: Data::Map(map), .. }) = self.node(pointer) else { return Vec::new() };
        let mut keys: Vec<_> = map.iter().map(|(key, (span, _))| (span.at, key.as_str())).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    fn node(&self, pointer: &str) -> Option<&Node> {
        let mut tokens = pointer.split('/').skip(1);
        tokens.try_fold(&self.root, |node, token| Some(node.child(token)?.1))
    }

    /// Returns the places of the key and of the value at a pointer, or those of the nearest parent.
    fn find(&self, pointer: &str) -> (&Span, &Span) {
        let mut found = (&self.root.span, &self.root.span);
        let mut node = &self.root;
        for token in pointer.split('/').skip(1) {
            let Some((key, child)) = node.child(token) else { break };
            (found, node) = ((key, &child.span), child);
        }
        found
    }
}

/// Returns bytes as a text, without a byte order mark.
///
/// # Errors
/// Returns the place of the first byte that is not UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    syntax::utf8(bytes, 0)
}

/// Returns the documents of a text. A broken document does not affect the others: inside a document no text
/// can begin a line with `---` or `...` (YAML 1.2.2, section 9.1.2), so these lines alone separate documents.
pub fn documents(bytes: &[u8]) -> impl Iterator<Item = Result<Document, YamlError>> {
    let (mut rest, mut first_line) = (Some(bytes), 1);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, lines, is_last) = first_part(text);
        let parsed = Document::parse_from(part, first_line);
        first_line += lines;
        rest = text.get(part.len()..).filter(|_| !is_last);
        Some(parsed)
    })
}

/// Returns the beginning of a text up to the end of its first document, the number of its lines, and whether
/// the rest is empty.
fn first_part(text: &[u8]) -> (&[u8], usize, bool) {
    let up_to = |end: usize| text.get(..end).unwrap_or_default();
    // Directives and comments belong to the document after them.
    let (mut end, mut is_begun) = (0, false);
    for (lines, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let is_marked = |mark: &[u8]| {
            line.strip_prefix(mark).is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
        };
        if is_marked(b"---") && is_begun {
            return (up_to(end), lines, false);
        }
        end += line.len();
        if is_marked(b"...") {
            return (up_to(end), lines + 1, end == text.len());
        }
        let content = line.trim_ascii();
        is_begun |= !content.is_empty() && !content.starts_with(b"#") && !line.starts_with(b"%");
    }
    (text, 0, true)
}

impl Node {
    /// Returns the node at a token of a JSON Pointer, with the place of its key, or of a list item.
    fn child(&self, token: &str) -> Option<(&Span, &Node)> {
        match &self.data {
            Data::Map(map) => map.get(&pointer::unescape(token)).map(|(key, node)| (key, node)),
            Data::List(items) => items.get(token.parse::<usize>().ok()?).map(|node| (&node.span, node)),
            Data::Scalar(_) => None,
        }
    }

    fn value(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => items.iter().map(Self::value).collect(),
            Data::Map(map) => map.iter().map(|(key, (_, node))| (key.clone(), node.value())).collect(),
        }
    }

    /// Returns the cost of a copy, in values and bytes of strings, and the number of its levels.
    fn size(&self) -> (usize, usize) {
        let inside = |sizes: &mut dyn Iterator<Item = (usize, usize)>| {
            sizes.fold((1, 1), |(cost, depth), (c, d)| (cost + c, depth.max(d + 1)))
        };
        match &self.data {
            Data::Scalar(value) => (1 + value.as_str().map_or(0, str::len), 0),
            Data::List(items) => inside(&mut items.iter().map(Self::size)),
            Data::Map(map) => inside(&mut map.iter().map(|(key, (_, node))| {
                let (cost, depth) = node.size();
                (cost + key.len(), depth)
            })),
        }
    }
}

fn location(marker: &saphyr_parser::Marker, above: usize) -> Location {
    Location { line: above + marker.line(), column: marker.col() + 1 }
}

/// Returns a text of the document for a message: in backticks, shortened, on one line, without invisible
/// characters.
pub(crate) fn quote(text: &str) -> String {
    let shown: String = text.chars().take(MAX_QUOTED).collect();
    let more = if text.chars().nth(MAX_QUOTED).is_some() { "…" } else { "" };
    format!("`{}{more}`", escape(&shown))
}
