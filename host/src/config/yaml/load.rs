//! Nodes of a document, from the events of the parser.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde_json::Value;

use super::scalar::plain;
use super::syntax::{syntax_error, utf8};
use super::{Data, Form, Mark, Node, Problem, Span, location, quote};

/// Maximum depth of lists and maps, with aliases expanded: half the limit of serde_json, with which policies
/// read their settings.
const MAX_DEPTH: usize = 64;

/// Limit of the copies by anchors and aliases in one document: values plus bytes of their strings.
const MAX_COPIED: usize = 100_000;

/// Builder of nodes from the parser's events. An `Err` is a problem that ends the reading.
pub(super) struct Loader<'a> {
    text: &'a str,
    /// Lines of the text above the document.
    above: usize,
    offsets: Offsets<'a>,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    problems: Vec<Problem>,
}

/// The byte offsets of the parser's character indices. Indices come nearly in order, so a walk from the last
/// index is short.
struct Offsets<'a> {
    text: &'a str,
    /// Bytes before the text that the parser does not see.
    before: usize,
    characters: usize,
    bytes: usize,
}

impl Offsets<'_> {
    fn of(&mut self, index: usize) -> usize {
        while self.characters < index {
            let Some(next) = self.text.get(self.bytes..).and_then(|rest| rest.chars().next()) else { break };
            self.characters += 1;
            self.bytes += next.len_utf8();
        }
        while self.characters > index {
            let Some(last) = self.text.get(..self.bytes).and_then(|start| start.chars().next_back()) else {
                break;
            };
            self.characters -= 1;
            self.bytes -= last.len_utf8();
        }
        self.before + self.bytes
    }
}

impl<'a> Loader<'a> {
    /// Reads a document that stands below `above` lines. A syntax error is the last problem.
    pub(super) fn load(bytes: &'a [u8], above: usize) -> Result<Node, Vec<Problem>> {
        let text = utf8(bytes, above).map_err(|problem| vec![problem])?;
        let before = bytes.len() - text.len();
        let mut loader = Loader {
            text,
            above,
            offsets: Offsets { text, before, characters: 0, bytes: 0 },
            events: Parser::new_from_str(text),
            anchors: HashMap::new(),
            copied: 0,
            problems: Vec::new(),
        };
        let root = loader.document();
        let mut problems = loader.problems;
        match root {
            Ok(root) if problems.is_empty() => return Ok(root),
            Ok(_) => {}
            Err(fatal) => problems.push(fatal),
        }
        Err(problems)
    }

    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(Node::default()),
                (Event::DocumentStart(_), _) => break,
                _ => {}
            }
        }
        let (event, span) = self.next()?;
        let root = self.node(event, span, 0)?;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), span) => {
                    return Err(Problem::new(span, "a second document begins here: a file holds one"));
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok((event, span))) => {
                let start = self.offsets.of(span.start.index());
                let mut end = self.offsets.of(span.end.index());
                // The parser counts spaces and a comment behind a quote or a bracket too.
                let rest = self.text.get(start - self.offsets.before..).unwrap_or_default();
                match event {
                    Event::Scalar(_, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted, ..) => {
                        end = quoted_length(rest).map_or(end, |length| start + length);
                    }
                    Event::SequenceEnd | Event::MappingEnd if end > start && rest.starts_with([']', '}']) => {
                        end = start + 1;
                    }
                    _ => {}
                }
                Ok((event, Span { at: location(&span.start, self.above), bytes: start..end }))
            }
            Some(Err(error)) => Err(syntax_error(self.text, &error, self.above)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, mut span: Span, depth: usize) -> Result<Node, Problem> {
        let mut form = self.collection_form(&span);
        let mut is_tagged = false;
        let (anchor, data) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            Event::Scalar(text, style, anchor, tag) => {
                form = Form::Scalar(style);
                is_tagged = tag.is_some();
                (anchor, Data::Scalar(self.scalar(&text, style, tag.as_deref(), &span)))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                (anchor, Data::List(self.list(&mut span, depth + 1)?))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &span);
                (anchor, Data::Map(self.map(&mut span, depth + 1)?))
            }
            _ => return Err(Problem::new(span, "not valid YAML: a value is missing")),
        };
        let mark = if anchor != 0 { Some(Mark::Anchor) } else { is_tagged.then_some(Mark::Tag) };
        let node = Node { span, data, form, mark };
        // The parser numbers anchors from 1.
        if anchor != 0 {
            let kept = self.copy(&node, &node.span, depth)?;
            self.anchors.insert(anchor, kept);
        }
        Ok(node)
    }

    /// Returns the form of a list or map that begins here. The beginning of a flow collection spans its
    /// bracket, and that of a block collection spans nothing.
    fn collection_form(&self, begun: &Span) -> Form {
        let inside = |at: usize| at.saturating_sub(self.offsets.before);
        let text = self.text.get(inside(begun.bytes.start)..inside(begun.bytes.end));
        let is_flow = text.is_some_and(|text| text.contains(['[', '{']));
        if is_flow { Form::Flow } else { Form::Block }
    }

    /// Reads the items of a list. `span` is that of the beginning, and is extended to the end.
    fn list(&mut self, span: &mut Span, depth: usize) -> Result<Vec<Node>, Problem> {
        check_depth(span, depth)?;
        let mut items = Vec::new();
        loop {
            let (event, next) = self.next()?;
            if event == Event::SequenceEnd {
                extend(span, &next);
                return Ok(items);
            }
            let node = self.node(event, next, depth)?;
            extend(span, &node.span);
            items.push(node);
        }
    }

    /// Reads the entries of a map as [`Loader::list`] reads items.
    fn map(&mut self, span: &mut Span, depth: usize) -> Result<BTreeMap<String, (Span, Node)>, Problem> {
        check_depth(span, depth)?;
        let mut map: BTreeMap<String, (Span, Node)> = BTreeMap::new();
        loop {
            let (event, next) = self.next()?;
            extend(span, &next);
            if event == Event::MappingEnd {
                return Ok(map);
            }
            let key = self.key(event, &next)?;
            let (event, value) = self.next()?;
            let node = self.node(event, value, depth)?;
            extend(span, &node.span);
            if let Some((first, _)) = map.get(&key) {
                let message = format!("duplicate key {}: the first is at {first}", quote(&key));
                self.problems.push(Problem::new(next, message));
            } else {
                map.insert(key, (next, node));
            }
        }
    }

    fn key(&mut self, event: Event<'a>, span: &Span) -> Result<String, Problem> {
        let Event::Scalar(text, style, _, tag) = event else {
            return Err(Problem::new(span.clone(), "a key must be a string"));
        };
        if style == ScalarStyle::Plain && text == "<<" {
            let message = "merge keys (`<<`) are not part of YAML 1.2: write the keys out";
            self.problem(span, message);
        } else if !self.scalar(&text, style, tag.as_deref(), span).is_string() {
            let message = format!("a key must be a string: put {} in quotes", quote(&text));
            self.problem(span, message);
        }
        Ok(text.into_owned())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Value {
        if tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str") {
            return Value::from(text);
        }
        self.refuse_tag(tag, span);
        if style != ScalarStyle::Plain {
            return Value::from(text);
        }
        plain(text).unwrap_or_else(|why| {
            self.problem(span, format!("{} {why}", quote(text)));
            Value::Null
        })
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, span: &Span) {
        if tag.is_some() {
            let message =
                "tags other than `!!str` are not supported: put a text that begins with `!` in quotes";
            self.problem(span, message);
        }
    }

    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node, Problem> {
        let Some(node) = self.anchors.remove(&anchor) else {
            return Err(Problem::new(span, "an alias inside the value that it stands for"));
        };
        let copy = self.copy(&node, &span, depth);
        self.anchors.insert(anchor, node);
        // The copy has the place of the alias. The values inside it keep the places where they were written.
        copy.map(|copy| Node { span, mark: Some(Mark::Alias), ..copy })
    }

    /// Copies a node within the limits, so that a few nested aliases cannot fill the memory.
    fn copy(&mut self, node: &Node, span: &Span, depth: usize) -> Result<Node, Problem> {
        let (cost, levels) = node.size();
        check_depth(span, depth + levels)?;
        self.copied += cost;
        if self.copied > MAX_COPIED {
            let message = format!("anchors and aliases expand to more than {MAX_COPIED} values and bytes");
            return Err(Problem::new(span.clone(), message));
        }
        Ok(node.clone())
    }

    fn problem(&mut self, span: &Span, message: impl Into<String>) {
        self.problems.push(Problem::new(span.clone(), message));
    }
}

/// Returns the length of the quoted scalar at the beginning of a text, in bytes. Returns None if there is
/// none.
fn quoted_length(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    let quote = characters.next().map(|(_, quote)| quote).filter(|quote| matches!(quote, '"' | '\''))?;
    let mut characters = characters.peekable();
    while let Some((at, character)) = characters.next() {
        if character == '\\' && quote == '"' {
            characters.next();
        } else if character == quote {
            // Two single quotes stand for one.
            let is_escaped = quote == '\'' && characters.next_if(|(_, next)| *next == quote).is_some();
            if !is_escaped {
                return Some(at + 1);
            }
        }
    }
    None
}

/// Extends `span` to the end of a part. A part that is empty, such as the end of a block, is at the next
/// token and extends nothing.
fn extend(span: &mut Span, part: &Span) {
    if !part.bytes.is_empty() {
        span.bytes.end = span.bytes.end.max(part.bytes.end);
    }
}

fn check_depth(span: &Span, depth: usize) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::new(span.clone(), format!("nested more than {MAX_DEPTH} levels deep")));
    }
    Ok(())
}
