//! Edits of YAML and JSON texts: the rows of `cases/edits.yaml`, and generated texts.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use host::author::update::{UpdateError, diff, rewrite};
use host::config::yaml::Document;
use host::config::yaml::edit::{Change, edited};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::support::project;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn change(row: &Value) -> Change {
    let value = row["to"].clone();
    match (row.get("value"), row.get("key"), row.get("insert")) {
        (Some(pointer), ..) => Change::Value { pointer: text(pointer), value },
        (_, Some(key), Some(parent)) => Change::Insert { parent: text(parent), key: text(key), value },
        (_, Some(pointer), None) => Change::Key { pointer: text(pointer), key: text(&row["as"]), value },
        _ => panic!("{row} is no change"),
    }
}

#[test]
fn edit_cases() {
    let cases = Document::parse(&fs::read(project("tests/cases/edits.yaml")).unwrap()).unwrap().value;
    let mut differences = String::new();
    for case in cases.as_array().unwrap() {
        let changes: Vec<Change> = case["changes"].as_array().unwrap().iter().map(change).collect();
        let (expected, found) = match edited(text(&case["text"]).as_bytes(), &changes) {
            Ok(bytes) => (case.get("result"), String::from_utf8(bytes).unwrap()),
            Err(error) => (case.get("refused"), error.to_string()),
        };
        if expected.and_then(Value::as_str) != Some(&found) {
            let expected = expected.map(text).unwrap_or_default();
            writeln!(differences, "--- {}, expected:\n{expected:?}\n--- found:\n{found:?}", case["name"])
                .unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// A generator of texts with comments, anchors, brackets, blocks and characters of all lengths.
struct Texts {
    random: StdRng,
    /// Comments so far. Each has a number.
    comments: usize,
}

impl Texts {
    fn comment(&mut self) -> String {
        if self.random.random_ratio(2, 3) {
            return String::new();
        }
        self.comments += 1;
        format!("  # c{} é 'x", self.comments)
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.random_range(0..of.len())]
    }

    fn scalar(&mut self) -> &'static str {
        self.pick(&[
            "one",
            "two words",
            "'it''s'",
            "\"a\\tb \\\" # x\"",
            "12",
            "0x1f",
            "-1.5e3",
            "true",
            "~",
            "null",
            "",
            "ünïcödé 🦀",
            "'漢字: {x}'",
            "\"\"",
            "ghcr.io/acme/**",
            "a#b",
            "http://x/y",
        ])
    }

    fn key(&mut self, index: usize) -> String {
        let key = self.pick(&["k", "long key", "ключ", "a.b", "-x"]);
        let quote = self.pick(&["", "", "", "'", "\""]);
        format!("{quote}{key}{index}{quote}")
    }

    fn flow(&mut self, depth: usize) -> String {
        let count = self.random.random_range(0..3);
        let space = self.pick(&["", " "]);
        let (is_map, line) = (self.random.random(), self.pick(&[" ", " ", "\n              "]));
        let mut parts = Vec::new();
        for index in 0..count {
            let value = if depth > 0 { self.flow(depth - 1) } else { self.scalar().to_owned() };
            let value = if value.is_empty() { "x".to_owned() } else { value };
            parts.push(if is_map { format!("{}: {value}", self.key(index)) } else { value });
        }
        let inside = parts.join(&format!(",{line}"));
        if is_map { format!("{{{space}{inside}{space}}}") } else { format!("[{space}{inside}{space}]") }
    }

    /// Writes the rest of an entry after its colon or dash, with its line end.
    fn value(&mut self, into: &mut String, indentation: usize, depth: usize) {
        let spaces = " ".repeat(indentation);
        match self.random.random_range(0..12) {
            0..=1 if depth > 0 => {
                let comment = self.comment();
                writeln!(into, "{comment}").unwrap();
                self.map(into, indentation + 2, depth - 1);
            }
            2..=3 if depth > 0 => {
                let comment = self.comment();
                writeln!(into, "{comment}").unwrap();
                self.list(into, indentation + 2, depth - 1);
            }
            4 => {
                let depth = self.random.random_range(0..3);
                let (flow, comment) = (self.flow(depth), self.comment());
                writeln!(into, " {flow}{comment}").unwrap();
            }
            5 => {
                let header = self.pick(&["|", ">-", "|+", "|-", ">"]);
                writeln!(into, " {header}\n{spaces}  text: # none\n\n{spaces}  more").unwrap();
            }
            6 => writeln!(into, " plain\n{spaces}  of two lines").unwrap(),
            7 => {
                let number = self.comments;
                self.comments += 1;
                writeln!(into, " &a{number} named # c{}", self.comments).unwrap();
            }
            _ => {
                let (scalar, comment) = (self.scalar(), self.comment());
                writeln!(into, " {scalar}{comment}").unwrap();
            }
        }
    }

    fn map(&mut self, into: &mut String, indentation: usize, depth: usize) {
        for index in 0..self.random.random_range(1..5) {
            let key = self.key(index);
            write!(into, "{}{key}:", " ".repeat(indentation)).unwrap();
            self.value(into, indentation, depth);
            if self.random.random_ratio(1, 6) {
                self.comments += 1;
                writeln!(into, "{}# c{}\n", " ".repeat(indentation), self.comments).unwrap();
            }
        }
    }

    fn list(&mut self, into: &mut String, indentation: usize, depth: usize) {
        for _ in 0..self.random.random_range(1..4) {
            write!(into, "{}-", " ".repeat(indentation)).unwrap();
            self.value(into, indentation, depth);
        }
    }

    /// Returns a text and the value that it has.
    fn text(&mut self) -> String {
        let mut text = String::new();
        self.map(&mut text, 0, 5);
        if self.random.random_ratio(1, 5) {
            let value = Document::parse(text.as_bytes()).unwrap().value;
            let json = if self.random.random() { format!("{value:#}\n") } else { value.to_string() };
            return json;
        }
        if self.random.random_ratio(1, 3) {
            text.truncate(text.trim_end().len());
        }
        if self.random.random_ratio(1, 3) {
            text = text.replace('\n', "\r\n");
        }
        if self.random.random_ratio(1, 4) { format!("\u{feff}{text}") } else { text }
    }
}

/// Returns the pointers of all values.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), into));
        }
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            pointers(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
        }),
        _ => {}
    }
}

fn new_values() -> Vec<Value> {
    let list = json!(["a", "b: c", 3]);
    let texts =
        ["x", "true", "a: b", "two\nlines\n", "é\u{202e}", "", " x", "- y", "{z", "#", "'q' \"r\" \\"];
    let others =
        [json!(null), json!(7), json!(1.5), json!({}), list, json!({ "k": "v, w", "l": { "m": [] } })];
    texts.iter().map(|text| json!(text)).chain(others).collect()
}

/// Returns the comments of a generated text.
fn comments(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.split_once("# c")?.1.to_owned())).collect()
}

/// Checks that a change made its value and nothing else.
fn assert_made(document: &Document, old: &str, new: &str, change: &Change) {
    let said = format!("{change:?}\n{old:?}\n{new:?}");
    let read = Document::parse(new.as_bytes()).unwrap_or_else(|error| panic!("{error}: {said}"));
    let mut meant = document.value.clone();
    // The part of the old text that may be written anew.
    let range = match change {
        Change::Value { pointer, value } => {
            *meant.pointer_mut(pointer).unwrap() = value.clone();
            let (key, span) = (document.key_span(pointer).bytes, document.span(pointer).bytes);
            // A missing value, a block and its indicator stand behind the key, and no list has one.
            let parent = pointer.rsplit_once('/').map_or(0, |(parent, _)| document.span(parent).bytes.start);
            if key == span { parent..span.end } else { key.end..span.end }
        }
        Change::Key { pointer, key, value } => {
            let (parent, old) = pointer.rsplit_once('/').unwrap();
            let parent = meant.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.remove(&old.replace("~1", "/").replace("~0", "~")).unwrap();
            parent.insert(key.clone(), value.clone());
            document.key_span(pointer).bytes.start..document.span(pointer).bytes.end
        }
        Change::Insert { parent, key, value } => {
            let map = meant.pointer_mut(parent).unwrap();
            if map.is_null() {
                *map = Value::Object(Map::new());
            }
            map.as_object_mut().unwrap().insert(key.clone(), value.clone());
            document.span(parent).bytes
        }
    };
    assert_eq!(read.value, meant, "{said}");
    assert_eq!(comments(new), comments(old), "{said}");
    // A missing value stands before its colon, and the place of a list or map does not extend to one.
    let (Change::Value { pointer, .. }
    | Change::Key { pointer, .. }
    | Change::Insert { parent: pointer, .. }) = change;
    let is_open =
        document.value.pointer(pointer).is_some_and(|at| !at.is_null() && at.to_string().contains("null"));
    let end = range.end + usize::from(old.split_at(range.end).1.starts_with(':'));
    let range = range.start..if is_open { old.len() } else { end };
    let (before, _) = old.split_at(range.start.min(range.end));
    // An entry stands behind the comment of the line before.
    let (_, rest) = old.split_at(range.end);
    let line = rest.find('\n').unwrap_or(rest.len());
    let after = if matches!(change, Change::Insert { .. }) { rest.split_at(line).1 } else { rest };
    assert!(new.starts_with(before) && new.ends_with(after.trim_start_matches('\r')), "{said}");
    assert!(old.contains('\r') || !new.contains('\r'), "{said}");
    let lone = |text: &str| text.replace("\r\n", "").contains(['\r', '\n']);
    assert!(!old.contains('\r') || !lone(new), "{said}");
    if serde_json::from_str::<Value>(old).is_ok() {
        assert_eq!(serde_json::from_str::<Value>(new).ok(), Some(meant), "{said}");
    }
    let is_map =
        document.value.pointer(pointer).is_some_and(|at| at.as_object().is_some_and(|map| !map.is_empty()));
    if matches!(change, Change::Insert { .. }) && is_map {
        let common = old.bytes().zip(new.bytes()).take_while(|(one, other)| one == other).count();
        assert!(new.as_bytes().ends_with(&old.as_bytes()[common..]), "an entry takes nothing away: {said}");
    }
}

#[test]
fn edits_of_generated_texts_are_right_or_refused() {
    let (mut made, mut refused) = (0_usize, 0_usize);
    for seed in 0..60 {
        let mut texts = Texts { random: StdRng::seed_from_u64(seed), comments: 0 };
        let old = texts.text();
        let document = Document::parse(old.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{old}"));
        let mut all = Vec::new();
        pointers(&document.value, "", &mut all);
        let values = new_values();
        for pointer in all {
            let value = values[texts.random.random_range(0..values.len())].clone();
            let key = texts.pick(&["new", "new: x", "7", "нов", "{"]).to_owned();
            let mut changes = vec![
                Change::Value { pointer: pointer.clone(), value: value.clone() },
                Change::Insert { parent: pointer.clone(), key: key.clone(), value: value.clone() },
            ];
            if !pointer.is_empty() {
                changes.push(Change::Key { pointer, key, value });
            }
            for change in changes {
                match edited(old.as_bytes(), std::slice::from_ref(&change)) {
                    Ok(bytes) => {
                        made += 1;
                        assert_made(&document, &old, &String::from_utf8(bytes).unwrap(), &change);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    println!("{made} changes made, {refused} refused");
    assert!(made > refused, "{made} changes made, {refused} refused");
}

#[test]
fn a_file_is_rewritten_whole_or_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("suite.yaml");
    let old = b"# c\na: one\nb: two\n";
    fs::write(&path, old).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let to = |value: &str| [Change::Value { pointer: "/a".to_owned(), value: json!(value) }];

    let rewritten = rewrite(&path, old, &to("three")).unwrap();
    assert_eq!(rewritten.diff, "1   # c\n2 - a: one\n2 + a: three\n3   b: two\n");
    assert_eq!(fs::read(&path).unwrap(), b"# c\na: three\nb: two\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(rewrite(&path, b"a: three\n", &to("three")).unwrap().diff, "");

    let error = rewrite(&path, old, &to("four")).unwrap_err();
    assert!(matches!(error, UpdateError::Changed(_)), "{error}");
    let link = folder.path().join("link.yaml");
    symlink("suite.yaml", &link).unwrap();
    let error = rewrite(&link, b"# c\na: three\nb: two\n", &to("four")).unwrap_err();
    assert!(matches!(error, UpdateError::Link(_)), "{error}");
    let error = rewrite(folder.path(), b"a: 1", &to("four")).unwrap_err();
    assert!(matches!(error, UpdateError::Irregular(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"# c\na: three\nb: two\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no unfinished file is left");
}

#[test]
fn a_difference_shows_changed_lines() {
    let old: String = (1..=12).map(|number| format!("line {number}\n")).collect();
    let new = old.replace("line 2\n", "line\u{202e} two\n").replace("line 12\n", "line 12\nline 13");
    let expected =
        " 1   line 1\n 2 - line 2\n 2 + line\\u{202e} two\n 3   line 3\n …\n12   line 12\n13 + line 13\n";
    assert_eq!(diff(&old, &new), expected);
}
