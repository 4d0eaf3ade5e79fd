//! JSON as a list of its values in the order of the text.
//!
//! A value is a few numbers, and its text is read when it is wanted. So reading takes little memory, which
//! the host copies for each review, and no more stack the deeper the values are nested.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Limit on the depth of lists and mappings.
const DEPTH: usize = 64;

/// Kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    List,
    Map,
    /// Stands for a required value that is missing or wrong, so that reading can go on.
    Fill,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Bool => "true or false",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::List => "a list",
            Kind::Map => "a mapping",
            Kind::Fill => "nothing",
        })
    }
}

/// A value. The members of a mapping are pairs: the key, and after it the value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// The value is wrong, and reading leaves it out.
    pub(super) taken: bool,
    /// First byte in the text; that of a string is after its quotation mark.
    start: u32,
    /// Byte after the last.
    end: u32,
    /// Position of the next value that is not inside this one.
    pub(super) next: u32,
}

impl Node {
    /// Returns the value that stands for a required one.
    pub(super) fn fill() -> Node {
        Node { kind: Kind::Fill, taken: false, start: 0, end: 0, next: 0 }
    }

    /// Returns the text of the value as it is written.
    pub(super) fn text<'a>(&self, json: &'a str) -> &'a str {
        json.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Returns the characters of a string.
    pub(super) fn string<'a>(&self, json: &'a str) -> Result<Cow<'a, str>, JsonError> {
        let text = self.text(json);
        if text.contains('\\') { unescape(text).map(Cow::Owned) } else { Ok(Cow::Borrowed(text)) }
    }
}

/// The reason why a text is no JSON, or a string has no characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonError {
    /// The number of the byte that fits nowhere.
    Syntax(usize),
    TooDeep,
    /// An escape that stands for no character.
    Unicode,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax(at) => write!(f, "not JSON: byte {at} is unexpected"),
            JsonError::TooDeep => write!(f, "nested deeper than {DEPTH} lists and mappings"),
            JsonError::Unicode => f.write_str("wanted a string of Unicode: an escape is half a character"),
        }
    }
}

/// Reads a text. The first value is the whole.
pub(super) fn parse(json: &str) -> Result<Vec<Node>, JsonError> {
    let mut parser = Parser { json: json.as_bytes(), at: 0, nodes: Vec::new(), open: Vec::new() };
    loop {
        while parser.begin()? {}
        if !parser.end()? {
            return Ok(parser.nodes);
        }
    }
}

struct Parser<'a> {
    json: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Positions of the lists and mappings that are not closed.
    open: Vec<usize>,
}

impl Parser<'_> {
    /// Returns the next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.json.get(self.at) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn fault(&self) -> JsonError {
        JsonError::Syntax(self.at)
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.nodes.len() + 1;
        self.nodes.push(Node { kind, taken: false, start: start as u32, end: end as u32, next: next as u32 });
    }

    /// Reads a scalar, or the beginning of a list or a mapping. Returns whether a value must follow.
    fn begin(&mut self) -> Result<bool, JsonError> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.open(Kind::Map, b'}'),
            Some(b'[') => self.open(Kind::List, b']'),
            Some(b'"') => self.string().map(|()| false),
            Some(b't') => self.word(b"true", Kind::Bool),
            Some(b'f') => self.word(b"false", Kind::Bool),
            Some(b'n') => self.word(b"null", Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(JsonError::Syntax(start.max(self.at))),
        }
    }

    fn open(&mut self, kind: Kind, close: u8) -> Result<bool, JsonError> {
        if self.open.len() == DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.push(kind, self.at, self.at);
        self.at += 1;
        self.open.push(self.nodes.len() - 1);
        if self.peek() == Some(close) {
            return Ok(false);
        }
        if kind == Kind::Map {
            self.key()?;
        }
        Ok(true)
    }

    fn key(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.fault());
        }
        self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.fault());
        }
        self.at += 1;
        Ok(())
    }

    /// Closes lists and mappings that end here. Returns whether another value follows.
    fn end(&mut self) -> Result<bool, JsonError> {
        loop {
            let next = self.peek();
            let Some(container) = self.open.last().copied() else {
                return if next.is_none() { Ok(false) } else { Err(self.fault()) };
            };
            let after = self.nodes.len();
            let Some(node) = self.nodes.get_mut(container) else { return Err(self.fault()) };
            let is_map = node.kind == Kind::Map;
            match next {
                Some(b',') if after > container + 1 => {
                    self.at += 1;
                    if is_map {
                        self.key()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if is_map => {}
                Some(b']') if !is_map => {}
                _ => return Err(self.fault()),
            }
            node.next = after as u32;
            self.at += 1;
            self.open.pop();
        }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<bool, JsonError> {
        let end = self.at + word.len();
        if self.json.get(self.at..end) != Some(word) {
            return Err(self.fault());
        }
        self.push(kind, self.at, end);
        self.at = end;
        Ok(false)
    }

    fn number(&mut self) -> Result<bool, JsonError> {
        let start = self.at;
        self.at += usize::from(self.json.get(start) == Some(&b'-'));
        let first = self.json.get(self.at).copied();
        let digits = self.digits()?;
        if first == Some(b'0') && digits > 1 {
            return Err(self.fault());
        }
        if self.json.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.json.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.json.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        self.push(Kind::Number, start, self.at);
        Ok(false)
    }

    /// Reads one digit or more, and returns their number.
    fn digits(&mut self) -> Result<usize, JsonError> {
        let start = self.at;
        while self.json.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault()) } else { Ok(self.at - start) }
    }

    /// Reads a string to its end; the escapes in it are only looked at.
    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.json.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    match self.json.get(self.at) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u') => self.at += 1,
                        _ => return Err(self.fault()),
                    }
                }
                Some(0..0x20) | None => return Err(self.fault()),
                Some(_) => self.at += 1,
            }
        }
        self.push(Kind::String, start, self.at);
        self.at += 1;
        Ok(())
    }
}

/// Replaces the escapes of a string.
fn unescape(text: &str) -> Result<String, JsonError> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut after = escape.chars();
        plain.push(match after.next().ok_or(JsonError::Unicode)? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = unit(&mut after)?;
                match unit {
                    0xd800..=0xdbff => {
                        let low = after.as_str().strip_prefix("\\u").ok_or(JsonError::Unicode)?;
                        after = low.chars();
                        let low = self::unit(&mut after)?.checked_sub(0xdc00).filter(|low| *low < 0x400);
                        let low = low.ok_or(JsonError::Unicode)?;
                        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + low)
                    }
                    unit => char::from_u32(unit),
                }
                .ok_or(JsonError::Unicode)?
            }
            plain => plain,
        });
        rest = after.as_str();
    }
    plain.push_str(rest);
    Ok(plain)
}

/// Reads the four digits of an escape.
fn unit(text: &mut core::str::Chars<'_>) -> Result<u32, JsonError> {
    let (digits, rest) = text.as_str().split_at_checked(4).ok_or(JsonError::Unicode)?;
    *text = rest.chars();
    let sound = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| sound).ok_or(JsonError::Unicode)
}
