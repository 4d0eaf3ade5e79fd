//! The replacements of byte ranges that make a change.

use serde_json::{Map, Value};

use super::super::{Data, Form, Node, Problem, Span};
use super::Splice;
use super::place::{Editor, Target, is_block_scalar, refuse_mark, refuse_marks};
use super::written::is_read_as;

type Made = Result<Vec<Splice>, Problem>;

fn one(start: usize, end: usize, text: impl Into<String>) -> Vec<Splice> {
    vec![Splice { range: start..end, text: text.into(), added_at: None }]
}

fn refused<T>(node: &Node, why: &str) -> Result<T, Problem> {
    Err(Problem::new(node.span.clone(), why))
}

impl Editor<'_> {
    /// Returns the replacements that give the place at a pointer a value.
    pub(super) fn replaced(&self, pointer: &str, value: &Value) -> Made {
        self.replace(self.target(pointer)?, value)
    }

    /// Returns the replacements that rename a key and replace its value.
    pub(super) fn renamed(&self, pointer: &str, key: &str, value: &Value) -> Made {
        let target = self.target(pointer)?;
        let Some(span) = target.key else {
            return refused(target.node, "this value has no key");
        };
        let written = self.slice(span.bytes.start, span.bytes.end);
        if written.starts_with(['&', '!']) || written.contains('\n') {
            return Err(Problem::new(span.clone(), "the key has an anchor or a tag, or spans several lines"));
        }
        let new = self.key(key, self.key_form(span), target.in_flow);
        let mut splices = one(span.bytes.start, span.bytes.end, new);
        splices.extend(self.replace(target, value)?);
        Ok(splices)
    }

    fn replace(&self, at: Target<'_>, new: &Value) -> Made {
        if at.node.value() == *new {
            return Ok(Vec::new());
        }
        refuse_mark(at.node)?;
        match (&at.node.data, new) {
            (Data::Map(old), Value::Object(new)) if is_extended(old.keys(), new) && !old.is_empty() => {
                let mut splices = Vec::new();
                for (key, (span, child)) in old {
                    if let Some(value) = new.get(key) {
                        splices.extend(self.replace(at.child(Some(span), child), value)?);
                    }
                }
                let added: Map<String, Value> = new
                    .iter()
                    .filter(|(key, _)| !old.contains_key(*key))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                splices.extend(self.insert(at, &added)?);
                Ok(splices)
            }
            (Data::List(old), Value::Array(new)) if old.len() == new.len() => {
                let mut splices = Vec::new();
                for (child, value) in old.iter().zip(new) {
                    splices.extend(self.replace(at.child(None, child), value)?);
                }
                Ok(splices)
            }
            (Data::Scalar(_), _) => self.replace_scalar(at, new),
            _ if at.node.form == Form::Flow => self.replace_flow(at, new),
            _ => self.replace_block(at, new),
        }
    }

    fn replace_scalar(&self, at: Target<'_>, new: &Value) -> Made {
        let written = self.written(new, at.node.form, at.in_flow);
        let (start, end) = (at.node.span.bytes.start, self.end(at.node));
        if is_block_scalar(at.node) {
            return self.replace_block_scalar(at.node, new, &written);
        }
        if !self.is_unwritten(at.node) {
            return Ok(one(start, end, written));
        }
        let Some(key) = at.key else {
            let place = self.slice(0, start).trim_end();
            let is_item = at.parent.is_some_and(|parent| parent.form == Form::Block) && place.ends_with('-');
            return match is_item {
                true => Ok(one(place.len(), place.len(), format!(" {written}"))),
                false => refused(at.node, "no value is written here"),
            };
        };
        match self.after_colon(key) {
            Some(place) => Ok(one(place, place, format!(" {written}"))),
            None if at.in_flow => Ok(one(key.bytes.end, key.bytes.end, format!(": {written}"))),
            None => refused(at.node, "no value is written here"),
        }
    }

    /// Replaces a `|` or `>` block: by a block with the same indicator if one can hold the text, else by
    /// `written`.
    fn replace_block_scalar(&self, node: &Node, new: &Value, written: &str) -> Made {
        let (content, end) = (node.span.bytes.start, self.end(node));
        let is_empty = matches!(&node.data, Data::Scalar(Value::String(text)) if text.is_empty());
        let above = self.slice(0, content).trim_end();
        let line = if is_empty { self.slice(content, end) } else { self.before(above.len()) };
        let line_start = if is_empty { content } else { above.len() - line.len() };
        let header = line.rfind(['|', '>']).and_then(|at| Some((line_start + at, line.get(at..)?)));
        let Some((start, header)) = header.filter(|_| !line.contains('#')) else {
            return refused(node, "a comment stands beside the block's indicator");
        };
        let gap = self.slice(start + header.len(), content);
        let stays = || {
            let text = new.as_str().filter(|_| gap.matches('\n').count() == 1)?;
            let spaces = self.before(content);
            let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
            let is_visible = lines.iter().all(|line| line.chars().all(crate::text::is_plain));
            let can_fold = header.starts_with('|') || lines.len() == 1;
            if !is_visible || !can_fold || spaces.is_empty() || !spaces.bytes().all(|byte| byte == b' ') {
                return None;
            }
            let indent =
                |line: &&str| if line.is_empty() { String::new() } else { format!("{spaces}{line}") };
            let block = lines.iter().map(indent).collect::<Vec<_>>().join(self.line_end);
            let indicator = header.get(..1)?;
            let headers = [header.to_owned(), format!("{indicator}-"), indicator.to_owned()];
            let plain = headers
                .into_iter()
                .filter(|header| !header.contains(|c: char| c == '+' || c.is_ascii_digit()));
            plain.map(|header| format!("{header}{gap}")).find_map(|header| {
                let alone = format!("a: {}{}{}\n", header.trim_end(), self.line_end, block);
                is_read_as(&alone, &serde_json::json!({ "a": text }))
                    .then(|| format!("{}{gap}{}", header.trim_end(), block.trim_start_matches(' ')))
            })
        };
        Ok(one(start, end, stays().unwrap_or_else(|| written.to_owned())))
    }

    fn replace_flow(&self, at: Target<'_>, new: &Value) -> Made {
        refuse_marks(at.node)?;
        let (start, end) = (at.node.span.bytes.start, self.end(at.node));
        let old = self.slice(start, end);
        let like = match &at.node.data {
            Data::List(items) => items.first().map_or_else(Form::default, |item| item.form),
            _ => Form::default(),
        };
        if !old.contains('\n') {
            let written = self.written(new, like, true);
            return Ok(one(start, end, padded_as(old, &written)));
        }
        if !self.is_json {
            return refused(at.node, "the value in brackets spans several lines");
        }
        let indentation_of = |at: usize| {
            let line = self.slice(at - self.before(at).len(), self.end_of_line(at));
            line.get(..line.len() - line.trim_start().len()).unwrap_or_default()
        };
        let outer = indentation_of(start);
        let inside = old.get(1..).unwrap_or_default();
        let first = start + 1 + (inside.len() - inside.trim_start().len());
        let unit = indentation_of(first).strip_prefix(outer).unwrap_or_default();
        Ok(one(start, end, self.in_lines(new, outer, unit)))
    }

    /// Replaces a list or map in lines whose values stand on one line each.
    fn replace_block(&self, at: Target<'_>, new: &Value) -> Made {
        let (items, form): (Vec<&Node>, _) = match &at.node.data {
            Data::List(items) => (items.iter().collect(), items.last().map(|item| item.form)),
            Data::Map(entries) => (entries.values().map(|(_, value)| value).collect(), None),
            Data::Scalar(_) => (Vec::new(), None),
        };
        refuse_marks(at.node)?;
        if self.has_comment(at.node) {
            return refused(at.node, "a comment inside the value would be lost");
        }
        if items.iter().any(|item| item.form == Form::Block) {
            return refused(at.node, "the value has lists or maps inside");
        }
        let Some(start) = self.block_start(at.node) else {
            return refused(at.node, "the beginning of the value is unclear");
        };
        let end = self.end(at.node).max(start);
        let line_end = format!("{}{}", self.line_end, self.indentation(start));
        let like = form.unwrap_or_default();
        match (&at.node.data, new) {
            (Data::List(old), Value::Array(new)) if !new.is_empty() => {
                let item = |(index, value)| {
                    let like = old.get(index).map_or(like, |item: &Node| item.form);
                    format!("- {}", self.written(value, like, false))
                };
                let lines: Vec<String> = new.iter().enumerate().map(item).collect();
                return Ok(one(start, end, lines.join(&line_end)));
            }
            (Data::Map(_), Value::Object(new)) if !new.is_empty() => {
                let entry = |(key, value): (&String, &Value)| self.entry(key, value, Form::default(), false);
                let lines: Vec<String> = new.iter().map(entry).collect();
                return Ok(one(start, end, lines.join(&line_end)));
            }
            _ => {}
        }
        let written = self.written(new, Form::default(), false);
        let Some(place) = at.key.and_then(|key| self.after_colon(key)) else {
            return Ok(one(start, end, written));
        };
        if self.slice(place, start).contains('#') {
            return refused(at.node, "a comment before the value would be lost");
        }
        Ok(one(place, end, format!(" {written}")))
    }

    /// Returns the replacements that add entries to the map at a pointer.
    pub(super) fn inserted(&self, parent: &str, entries: &Map<String, Value>) -> Made {
        self.insert(self.target(parent)?, entries)
    }

    fn insert(&self, at: Target<'_>, entries: &Map<String, Value>) -> Made {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        refuse_mark(at.node)?;
        match &at.node.data {
            Data::Scalar(Value::Null) => self.replace_scalar(at, &Value::Object(entries.clone())),
            Data::Map(old) => {
                let last = old.values().max_by_key(|(key, _)| key.bytes.start);
                match last.map(|entry| (&entry.0, self.entry_end(entry))) {
                    None => self.replace_flow(at, &Value::Object(entries.clone())),
                    Some((key, end)) if at.node.form == Form::Flow => {
                        self.insert_into_flow(at.node, key, end, entries)
                    }
                    Some((key, end)) => Ok(self.insert_lines(key, end, entries)),
                }
            }
            _ => refused(at.node, "this value is no map"),
        }
    }

    fn insert_lines(&self, key: &Span, end: usize, entries: &Map<String, Value>) -> Vec<Splice> {
        let indentation = self.indentation(key.bytes.start);
        let like = self.key_form(key);
        let line = |(key, value): (&String, &Value)| {
            format!("{}{indentation}{}", self.line_end, self.entry(key, value, like, false))
        };
        let place = self.end_of_line(end);
        let text = entries.iter().map(line).collect();
        vec![Splice { range: place..place, text, added_at: Some(indentation.len()) }]
    }

    fn insert_into_flow(&self, node: &Node, key: &Span, end: usize, entries: &Map<String, Value>) -> Made {
        let close = self.end(node).saturating_sub(1);
        let rest = self.slice(end, close);
        if rest.contains('#') {
            return refused(node, "a comment stands behind the last entry");
        }
        let place = self.slice(0, close).trim_end().len();
        let is_closed = self.slice(0, place).ends_with(',');
        let before = self.before(key.bytes.start);
        let begins_line = before.trim().is_empty() && self.slice(node.span.bytes.start, close).contains('\n');
        let gap = match begins_line {
            true => format!("{}{before}", self.line_end),
            false => self.comma().trim_start_matches(',').to_owned(),
        };
        let like = self.key_form(key);
        let entry = |(key, value): (&String, &Value)| format!("{gap}{}", self.entry(key, value, like, true));
        let text = entries.iter().map(entry).collect::<Vec<_>>().join(",");
        let text = if is_closed { format!("{text},") } else { format!(",{text}") };
        let column = before.chars().count();
        Ok(vec![Splice { range: place..place, text, added_at: Some(column) }])
    }
}

/// Returns whether a map has all of these keys.
fn is_extended<'a>(mut keys: impl Iterator<Item = &'a String>, map: &Map<String, Value>) -> bool {
    keys.all(|key| map.contains_key(key))
}

/// Returns the text of a collection with the spaces inside the brackets of an old one.
fn padded_as(old: &str, new: &str) -> String {
    let mut characters = new.chars();
    let brackets = (characters.next(), characters.next_back());
    let inside = characters.as_str().trim();
    let old_inside = old.get(1..).unwrap_or_default().trim_end_matches([']', '}']);
    match brackets {
        (Some(open @ ('[' | '{')), Some(close)) if !old_inside.trim().is_empty() && !inside.is_empty() => {
            let pad = if old_inside.starts_with(' ') { " " } else { "" };
            format!("{open}{pad}{inside}{pad}{close}")
        }
        _ => new.to_owned(),
    }
}
