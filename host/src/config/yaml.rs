//! YAML documents in which every value has its line and column.
//!
//! The module reads YAML 1.2 (and so JSON) with the core schema: `no` is a string, `1.0` a float, `0777` is
//! 777. The bytes may be hostile: the caller limits their number, and this module limits their expansion.
//! Values that JSON cannot hold (keys that are no strings, tags, merge keys, `.inf`) are rejected, never
//! converted.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput, Tag};
use serde_json::{Number, Value};

use crate::text::printable;

/// Maximum depth of lists and maps, with aliases expanded: half the limit of serde_json, with which policies
/// read their settings.
const MAX_DEPTH: usize = 64;

/// Limit of the copies by anchors and aliases in one document: values plus bytes of their strings.
const MAX_COPIED: usize = 100_000;

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

/// One problem in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Position.
    pub at: Location,
    /// Message, on one line.
    pub message: String,
}

impl Problem {
    /// Creates a problem at a position.
    pub fn new(at: Location, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
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
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    at: Location,
    data: Data,
}

impl Default for Node {
    fn default() -> Self {
        Self { at: Location::default(), data: Data::Scalar(Value::Null) }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    List(Vec<Node>),
    /// A map, with the position of each key.
    Map(BTreeMap<String, (Location, Node)>),
}

impl Document {
    /// Parses one document. An empty text is null. A syntax error ends parsing and is therefore the last
    /// problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, YamlError> {
        Self::parse_from(bytes, 1)
    }

    /// Parses one document that is part of a text and begins in this line of the text, counted from 1.
    pub fn parse_from(bytes: &[u8], line: usize) -> Result<Self, YamlError> {
        let above = line.saturating_sub(1);
        let text = std::str::from_utf8(bytes)
            .map_err(|error| YamlError { problems: vec![not_utf8(bytes, error.valid_up_to(), above)] })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut loader = Loader {
            text,
            above,
            events: Parser::new_from_str(text),
            anchors: HashMap::new(),
            copied: 0,
            problems: Vec::new(),
        };
        let root = loader.document();
        let mut problems = loader.problems;
        match root {
            Ok(root) if problems.is_empty() => Ok(Self { value: root.value(), root }),
            Ok(_) => Err(YamlError { problems }),
            Err(fatal) => {
                problems.push(fatal);
                Err(YamlError { problems })
            }
        }
    }

    /// Returns an empty document at a position.
    #[must_use]
    pub fn at(at: Location) -> Self {
        Self { value: Value::Null, root: Node { at, ..Node::default() } }
    }

    /// Returns the position of the value at an RFC 6901 JSON Pointer, or of its nearest existing parent.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> Location {
        self.find(pointer).1
    }

    /// Returns the position of the key at the end of an RFC 6901 JSON Pointer. A list item has the position
    /// of its value.
    #[must_use]
    pub fn locate_key(&self, pointer: &str) -> Location {
        self.find(pointer).0
    }

    /// Returns whether there is a value at an RFC 6901 JSON Pointer.
    #[must_use]
    pub fn holds(&self, pointer: &str) -> bool {
        self.resolve(pointer).2
    }

    fn find(&self, pointer: &str) -> (Location, Location) {
        let (key, value, _) = self.resolve(pointer);
        (key, value)
    }

    /// Returns the positions of the key and of the value at a pointer, or those of the nearest parent, and
    /// whether the value exists.
    fn resolve(&self, pointer: &str) -> (Location, Location, bool) {
        let mut found = (self.root.at, self.root.at);
        let mut node = &self.root;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::Map(map) => map.get(&token).map(|(key, node)| (*key, node)),
                Data::List(items) => {
                    token.parse().ok().and_then(|index: usize| items.get(index)).map(|node| (node.at, node))
                }
                Data::Scalar(_) => None,
            };
            let Some((key, child)) = next else { return (found.0, found.1, false) };
            (found, node) = ((key, child.at), child);
        }
        (found.0, found.1, true)
    }
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

/// Builder of nodes from the parser's events. An `Err` is a problem that ends the reading.
struct Loader<'a> {
    text: &'a str,
    /// Lines of the text above the document.
    above: usize,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    problems: Vec<Problem>,
}

impl<'a> Loader<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(Node::default()),
                (Event::DocumentStart(_), _) => break,
                _ => {}
            }
        }
        let (event, at) = self.next()?;
        let root = self.node(event, at, 0)?;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), at) => {
                    return Err(Problem::new(at, "a second document begins here: a file holds one"));
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Location), Problem> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, location(&span.start, self.above))),
            Some(Err(error)) => Err(syntax_error(self.text, &error, self.above)),
            None => Ok((Event::StreamEnd, Location::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, at: Location, depth: usize) -> Result<Node, Problem> {
        let (anchor, data) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Data::Scalar(self.scalar(&text, style, tag.as_deref(), at)))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at);
                (anchor, Data::List(self.list(at, depth + 1)?))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at);
                (anchor, Data::Map(self.map(at, depth + 1)?))
            }
            _ => return Err(Problem::new(at, "not valid YAML: a value is missing")),
        };
        let node = Node { at, data };
        // The parser numbers anchors from 1.
        if anchor != 0 {
            let kept = self.copy(&node, at, depth)?;
            self.anchors.insert(anchor, kept);
        }
        Ok(node)
    }

    fn list(&mut self, at: Location, depth: usize) -> Result<Vec<Node>, Problem> {
        check_depth(at, depth)?;
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth)?),
            }
        }
    }

    fn map(&mut self, at: Location, depth: usize) -> Result<BTreeMap<String, (Location, Node)>, Problem> {
        check_depth(at, depth)?;
        let mut map: BTreeMap<String, (Location, Node)> = BTreeMap::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(map);
            }
            let key = self.key(event, at)?;
            let (event, value_at) = self.next()?;
            let node = self.node(event, value_at, depth)?;
            if let Some((first, _)) = map.get(&key) {
                let message = format!("duplicate key {}: the first is at {first}", quote(&key));
                self.problems.push(Problem::new(at, message));
            } else {
                map.insert(key, (at, node));
            }
        }
    }

    fn key(&mut self, event: Event<'a>, at: Location) -> Result<String, Problem> {
        let Event::Scalar(text, style, _, tag) = event else {
            return Err(Problem::new(at, "a key must be a string"));
        };
        if style == ScalarStyle::Plain && text == "<<" {
            let message = "merge keys (`<<`) are not part of YAML 1.2: write the keys out";
            self.problems.push(Problem::new(at, message));
        } else if !self.scalar(&text, style, tag.as_deref(), at).is_string() {
            let message = format!("a key must be a string: put {} in quotes", quote(&text));
            self.problems.push(Problem::new(at, message));
        }
        Ok(text.into_owned())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Location) -> Value {
        if tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str") {
            return Value::from(text);
        }
        self.refuse_tag(tag, at);
        if style != ScalarStyle::Plain {
            return Value::from(text);
        }
        plain(text).unwrap_or_else(|why| {
            self.problems.push(Problem::new(at, format!("{} {why}", quote(text))));
            Value::Null
        })
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, at: Location) {
        if tag.is_some() {
            let message =
                "tags other than `!!str` are not supported: put a text that begins with `!` in quotes";
            self.problems.push(Problem::new(at, message));
        }
    }

    fn alias(&mut self, anchor: usize, at: Location, depth: usize) -> Result<Node, Problem> {
        let Some(node) = self.anchors.remove(&anchor) else {
            return Err(Problem::new(at, "an alias inside the value that it stands for"));
        };
        let copy = self.copy(&node, at, depth);
        self.anchors.insert(anchor, node);
        // The copy has the position of the alias. The values inside it keep the positions where they were
        // written.
        copy.map(|copy| Node { at, ..copy })
    }

    /// Copies a node within the limits, so that a few nested aliases cannot fill the memory.
    fn copy(&mut self, node: &Node, at: Location, depth: usize) -> Result<Node, Problem> {
        let (cost, levels) = node.size();
        check_depth(at, depth + levels)?;
        self.copied += cost;
        if self.copied > MAX_COPIED {
            let message = format!("anchors and aliases expand to more than {MAX_COPIED} values and bytes");
            return Err(Problem::new(at, message));
        }
        Ok(node.clone())
    }
}

fn check_depth(at: Location, depth: usize) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::new(at, format!("nested more than {MAX_DEPTH} levels deep")));
    }
    Ok(())
}

/// Returns the value of a plain scalar by the core schema (YAML 1.2.2, section 10.3.2).
fn plain(text: &str) -> Result<Value, &'static str> {
    const NOT_JSON: &str = "is a number that JSON cannot hold: put it in quotes if it is a text";
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Err(NOT_JSON),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => return Err(NOT_JSON),
        _ => {}
    }
    let radix = |prefix, radix| {
        let digits = text.strip_prefix(prefix).filter(|digits| !digits.is_empty())?;
        digits.chars().all(|c| c.is_digit(radix)).then(|| u64::from_str_radix(digits, radix))
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.map(Value::from).map_err(|_| NOT_JSON);
    }
    if !unsigned.is_empty() && all_digits(unsigned) {
        let number = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
        return number.map(Value::Number).map_err(|_| NOT_JSON);
    }
    if is_float(unsigned) {
        let number = text.parse().ok().and_then(Number::from_f64);
        return number.map(Value::Number).ok_or(NOT_JSON);
    }
    Ok(Value::from(text))
}

fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = unsigned
        .split_once(['e', 'E'])
        .map_or((unsigned, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_fits
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn location(marker: &saphyr_parser::Marker, above: usize) -> Location {
    Location { line: above + marker.line(), column: marker.col() + 1 }
}

/// Returns a problem with the parser's message, or a clearer one for common mistakes.
fn syntax_error(text: &str, error: &ScanError, above: usize) -> Problem {
    let at = location(error.marker(), above);
    // The parser's message repeats characters of the document.
    let info = printable(error.info());
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

fn not_utf8(bytes: &[u8], valid: usize, above: usize) -> Problem {
    let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
    let line = above + before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let byte = bytes.get(valid).copied().unwrap_or_default();
    Problem::new(Location { line, column }, format!("not UTF-8: a byte {byte:#04x}"))
}

/// Returns a text of the document for a message: in backticks, shortened, on one line, without invisible
/// characters.
pub(crate) fn quote(text: &str) -> String {
    let shown: String = text.chars().take(MAX_QUOTED).collect();
    let more = if text.chars().nth(MAX_QUOTED).is_some() { "…" } else { "" };
    format!("`{}{more}`", printable(&shown))
}
