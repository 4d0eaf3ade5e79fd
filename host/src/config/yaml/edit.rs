//! Edits of a document's text that keep all bytes outside the changed values: comments, order, layout,
//! quotes, line ends, the byte order mark and the absent line break at the end.
//!
//! A change is a replacement of byte ranges. The changed text is parsed and must have the value that the
//! changes describe, so an edit is right or is refused.

mod place;
mod replace;
mod written;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use self::place::Editor;
use super::{Document, Problem, YamlError, pointer, quote};

/// A change of a document. Pointers are RFC 6901 JSON Pointers into the document before all changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces the value at a pointer.
    Value {
        /// The place.
        pointer: String,
        /// The new value.
        value: Value,
    },
    /// Renames the key at the end of a pointer and replaces its value.
    Key {
        /// The place.
        pointer: String,
        /// The new key.
        key: String,
        /// The new value.
        value: Value,
    },
    /// Adds an entry to the map at a pointer: at the end of a map in lines, or inside the braces of a flow
    /// map. Null counts as an empty map.
    Insert {
        /// The place of the map.
        parent: String,
        /// The key, which the map does not have.
        key: String,
        /// The value.
        value: Value,
    },
}

/// A change that is not made.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The index of the change.
    pub change: usize,
    /// The reason and the place.
    pub problem: Problem,
}

/// The reason why a text is not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The text is no document.
    #[error(transparent)]
    Unreadable(#[from] YamlError),
    /// At least one change cannot be made with certainty. The refusals are in the order of the changes.
    #[error("{}", .0.iter().map(|refusal| refusal.problem.to_string()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
}

/// Returns the text with all changes.
///
/// # Errors
/// Returns an error if the text is no document, or if a change cannot be made with certainty. No change is
/// made then.
pub fn edited(bytes: &[u8], changes: &[Change]) -> Result<Vec<u8>, EditError> {
    let document = Document::parse(bytes)?;
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let editor = Editor::new(&document, text);
    let all: Vec<(usize, &Change)> = changes.iter().enumerate().collect();
    let refusals = match apply(&editor, &all) {
        Ok(text) => return Ok(text.into_bytes()),
        Err(refusals) => refusals,
    };
    if !refusals.is_empty() {
        return Err(EditError::Refused(refusals));
    }
    // The text has another value than was meant. Each change alone tells which one cannot be made.
    let is_wrong = |change: &&(usize, &Change)| apply(&editor, &[**change]).is_err();
    let wrong: Vec<(usize, &Change)> = all.iter().filter(is_wrong).copied().collect();
    let (wrong, why) = match wrong.is_empty() {
        true => (all, "the changes contradict each other"),
        false => (wrong, "the text around the value is ambiguous"),
    };
    let refused = |(index, change)| Refusal { change: index, problem: editor.refuse(change, why) };
    Err(EditError::Refused(wrong.into_iter().map(refused).collect()))
}

/// Replaces byte ranges of the text.
struct Splice {
    range: Range<usize>,
    text: String,
    /// Indentation of an added entry. An entry that is added at the end of a line stands behind the changes
    /// of that line, and the innermost is the first.
    added_at: Option<usize>,
}

/// Returns the text with changes. An error without refusals means that the text has another value than was
/// meant.
fn apply(editor: &Editor<'_>, changes: &[(usize, &Change)]) -> Result<String, Vec<Refusal>> {
    let mut meant = editor.document.value.clone();
    let (mut splices, mut refusals) = (Vec::new(), Vec::new());
    let mut added: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (index, change) in changes {
        let made = mean(&mut meant, change).map_err(|why| editor.refuse(change, why)).and_then(|()| {
            match change {
                Change::Value { pointer, value } => editor.replaced(pointer, value),
                Change::Key { pointer, key, value } => editor.renamed(pointer, key, value),
                // The entries of one map are added together.
                Change::Insert { parent, key, value } => {
                    let entries = added.entry(parent).or_default();
                    entries.insert(key.clone(), value.clone());
                    editor.inserted(parent, entries).map(|_| Vec::new())
                }
            }
            .map_err(|problem| editor.complete(change, problem))
        });
        match made {
            Ok(made) => splices.extend(made),
            Err(problem) => refusals.push(Refusal { change: *index, problem }),
        }
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    for (parent, entries) in added {
        splices.extend(editor.inserted(parent, &entries).unwrap_or_default());
    }
    let text = spliced(editor.text, splices).ok_or_else(Vec::new)?;
    let read = Document::parse(text.as_bytes()).map_err(|_| Vec::new())?;
    let is_json =
        !editor.is_json || serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}')).is_ok();
    if read.value == meant && is_json { Ok(text) } else { Err(Vec::new()) }
}

/// Makes a change in a value. Returns the reason if the value has no such place.
fn mean(value: &mut Value, change: &Change) -> Result<(), &'static str> {
    const NO_VALUE: &str = "there is no such value, or another change contains it";
    const NO_KEY: &str = "this value has no key";
    const NO_MAP: &str = "this value is no map";
    let (map, key, new) = match change {
        Change::Value { pointer, value: new } => {
            *value.pointer_mut(pointer).ok_or(NO_VALUE)? = new.clone();
            return Ok(());
        }
        Change::Key { pointer, key, value: new } => {
            let (parent, old) = pointer.rsplit_once('/').ok_or(NO_KEY)?;
            let parent = value.pointer_mut(parent).ok_or(NO_VALUE)?.as_object_mut().ok_or(NO_KEY)?;
            parent.remove(&pointer::unescape(old)).ok_or(NO_VALUE)?;
            (parent, key, new)
        }
        Change::Insert { parent, key, value: new } => {
            let parent = value.pointer_mut(parent).ok_or(NO_VALUE)?;
            if parent.is_null() {
                *parent = Value::Object(Map::new());
            }
            (parent.as_object_mut().ok_or(NO_MAP)?, key, new)
        }
    };
    match map.insert(key.clone(), new.clone()) {
        None => Ok(()),
        Some(_) => Err("the map has this key already"),
    }
}

/// Returns a text with all replacements. Returns None if two of them overlap.
fn spliced(text: &str, mut splices: Vec<Splice>) -> Option<String> {
    splices.sort_by_key(|splice| {
        (splice.range.start, splice.range.end, splice.added_at.map_or(0, |column| usize::MAX - column))
    });
    let mut written = String::with_capacity(text.len());
    let mut from = 0;
    for splice in splices {
        written.push_str(text.get(from..splice.range.start)?);
        written.push_str(&splice.text);
        from = splice.range.end;
    }
    written.push_str(text.get(from..)?);
    Some(written)
}

impl Editor<'_> {
    /// Returns the problem of a change at its place.
    fn refuse(&self, change: &Change, why: &str) -> Problem {
        let span = match change {
            Change::Value { pointer, .. } | Change::Insert { parent: pointer, .. } => {
                self.document.span(pointer)
            }
            Change::Key { pointer, .. } => self.document.key_span(pointer),
        };
        self.complete(change, Problem::new(span, why))
    }

    /// Adds the next step to a problem.
    fn complete(&self, change: &Change, problem: Problem) -> Problem {
        let flow = |value| quote(&self.flow(value));
        let step = match change {
            Change::Value { value, .. } => format!("change the value by hand to {}", flow(value)),
            Change::Key { key, value, .. } => {
                format!("change the entry by hand to {}", quote(&format!("{key}: {}", self.flow(value))))
            }
            Change::Insert { key, value, .. } => {
                format!("add by hand {}", quote(&format!("{key}: {}", self.flow(value))))
            }
        };
        Problem { message: format!("{}: {step}", problem.message), ..problem }
    }
}
