//! Settings as they are read again and again: each time without the values that were found to be wrong.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::error::{Error, Fault};
use super::json::{JsonError, Kind, Node, parse};
use super::mistakes::{MISTAKES, Mistakes};

/// The settings as a whole.
pub(super) const ROOT: usize = 0;

/// Limit on the values that are looked at before the mistakes found so far are enough: reading many mistakes
/// in large settings may take a policy no longer than its deadline.
const VALUES: usize = 200_000;

/// Limit on the times that small settings are read.
const READS: usize = 128;

/// A required key of a mapping that is missing or wrong.
#[derive(Debug)]
pub(super) struct Filled {
    /// Position of the mapping.
    pub(super) map: usize,
    pub(super) key: &'static str,
    /// Position of the value that stands for it.
    pub(super) node: usize,
}

/// The settings, and the mistakes found in them so far.
#[derive(Debug)]
pub(super) struct Document<'a> {
    json: &'a str,
    nodes: Vec<Node>,
    /// Number of values in the text; behind them are those that stand for others.
    written: usize,
    filled: Vec<Filled>,
    mistakes: Mistakes,
    /// Number of times that the settings may be read again.
    reads: usize,
}

impl<'a> Document<'a> {
    pub(super) fn parse(json: &'a str) -> Result<Document<'a>, JsonError> {
        if u32::try_from(json.len()).is_err() {
            return Err(JsonError::Syntax(0));
        }
        let nodes = parse(json)?;
        let written = nodes.len();
        let reads = (VALUES / written.max(1)).clamp(1, READS);
        Ok(Document { json, nodes, written, filled: Vec::new(), mistakes: Mistakes::default(), reads })
    }

    pub(super) fn node(&self, at: usize) -> Node {
        self.nodes.get(at).copied().unwrap_or(Node::fill())
    }

    /// Returns the text of a value as it is written.
    pub(super) fn text(&self, at: usize) -> &'a str {
        self.node(at).text(self.json)
    }

    /// Returns the characters of a string.
    pub(super) fn string(&self, at: usize) -> Result<alloc::borrow::Cow<'a, str>, JsonError> {
        self.node(at).string(self.json)
    }

    /// Returns the keys that stand in for those of a mapping.
    pub(super) fn filled(&self) -> &[Filled] {
        &self.filled
    }

    /// Returns the mistakes that were found.
    pub(super) fn into_mistakes(self) -> Mistakes {
        self.mistakes
    }

    /// Returns the mistakes of settings that have to be an empty mapping.
    pub(super) fn of_no_settings(&self) -> Mistakes {
        let root = self.node(ROOT);
        if root.kind != Kind::Map {
            return Mistakes::of("", format!("wanted a mapping, found {}", root.kind));
        }
        let mut mistakes = Mistakes::default();
        let mut value = ROOT + 2;
        while value < root.next as usize {
            mistakes.add(self.pointer(value), "this policy has no settings: leave the key out");
            value = self.node(value).next as usize + 1;
        }
        mistakes
    }

    /// Records why reading failed, and changes the settings so that reading gets further. Returns whether
    /// reading again may find more.
    pub(super) fn learn(&mut self, error: Error) -> bool {
        let (fault, at) = error.into_parts();
        let mut at = at.unwrap_or(ROOT);
        if at >= self.written {
            // The stand-in is refused too: its mapping cannot be read.
            at = self.filled.iter().find(|filled| filled.node == at).map_or(ROOT, |filled| filled.map);
        } else if self.node(at).taken {
            // As an item of a tuple.
            at = self.walk(at, &mut |_| {});
        } else if let Fault::Missing(key) = fault {
            let known = self.filled.iter().any(|filled| filled.map == at && filled.key == key);
            if !known {
                if !self.is_taken(at, key) {
                    self.mistakes.add(self.pointer(at), format!("the key `{key}` is missing"));
                }
                self.filled.push(Filled { map: at, key, node: self.nodes.len() });
                self.nodes.push(Node::fill());
                return self.again();
            }
        } else if !self.is_changed(at) {
            // Otherwise the mistake may be a consequence of those reported before.
            self.mistakes.add(self.pointer(at), fault.to_string());
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.taken = true;
        }
        at != ROOT && self.again()
    }

    fn again(&mut self) -> bool {
        self.reads = self.reads.saturating_sub(1);
        self.reads > 0 && self.mistakes.len() < MISTAKES
    }

    /// Returns whether a value inside this one was taken out, or stands in for another.
    fn is_changed(&self, at: usize) -> bool {
        let inside = at + 1..self.node(at).next as usize;
        self.nodes.get(inside.clone()).unwrap_or_default().iter().any(|node| node.taken)
            || self.filled.iter().any(|filled| filled.map == at || inside.contains(&filled.map))
    }

    /// Returns whether the value of a key was taken out.
    fn is_taken(&self, map: usize, key: &str) -> bool {
        let mut at = map + 1;
        while at < self.node(map).next as usize {
            if self.node(at + 1).taken && self.string(at).is_ok_and(|found| found == key) {
                return true;
            }
            at = self.node(at + 1).next as usize;
        }
        false
    }

    /// Returns the JSON Pointer of a value.
    fn pointer(&self, to: usize) -> String {
        let mut pointer = String::new();
        self.walk(to, &mut |step| {
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        });
        pointer
    }

    /// Visits the keys and numbers on the way to a value, and returns the position of what it is in.
    fn walk(&self, to: usize, visit: &mut dyn FnMut(&str)) -> usize {
        let (mut at, mut parent) = (ROOT, ROOT);
        while at < to {
            let is_map = self.node(at).kind == Kind::Map;
            let mut child = at + 1;
            let mut number = 0_u32;
            loop {
                let value = if is_map { child + 1 } else { child };
                let next = self.node(value).next as usize;
                if next <= value {
                    return parent;
                }
                if to < next {
                    match is_map {
                        true => visit(&self.string(child).unwrap_or(self.text(child).into())),
                        false => visit(&number.to_string()),
                    }
                    (parent, at) = (at, value);
                    break;
                }
                child = next;
                number += 1;
            }
        }
        parent
    }
}
