//! Entries of settings, and their changes.

use serde_json::{Number, Value};

use crate::config::pointer;

/// An entry of settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// JSON Pointer into the settings.
    pub pointer: String,
    /// The value.
    pub value: Value,
}

impl Setting {
    /// Returns the pointer of the map or list that holds the entry. Returns None for the settings as a whole.
    pub fn parent(&self) -> Option<&str> {
        parent(&self.pointer)
    }
}

/// Returns the pointer of the map or list that holds the value at a pointer.
pub(super) fn parent(pointer: &str) -> Option<&str> {
    pointer.rsplit_once('/').map(|(parent, _)| parent)
}

/// A change of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The key or the item is left out.
    LeftOut,
    /// The entry has this value.
    To(Value),
}

/// Returns the entries of settings, each map and list before its own entries. Settings that are a map or a
/// list are no entry as a whole, because a policy without settings is another policy.
pub fn settings(value: &Value) -> Vec<Setting> {
    let mut all = Vec::new();
    match value {
        Value::Object(_) | Value::Array(_) => add_children(value, "", &mut all),
        Value::Null => {}
        scalar => all.push(Setting { pointer: String::new(), value: scalar.clone() }),
    }
    all
}

fn add_children(value: &Value, at: &str, all: &mut Vec<Setting>) {
    let mut add = |token: String, value: &Value| {
        let pointer = format!("{at}/{token}");
        all.push(Setting { pointer: pointer.clone(), value: value.clone() });
        add_children(value, &pointer, all);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| add(pointer::escape(key), value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| add(index.to_string(), value));
        }
        _ => {}
    }
}

/// Returns the changes of an entry. Each is coarse, so that a case that depends on the entry in any way
/// notices one of them.
pub fn changes(setting: &Setting) -> Vec<Change> {
    let left_out = (!setting.pointer.is_empty()).then_some(Change::LeftOut);
    let others = match &setting.value {
        Value::Bool(flag) => vec![Value::Bool(!flag)],
        Value::Number(number) => numbers(number),
        Value::String(text) => {
            Some(rotated(text)).filter(|other| other != text).map(Value::from).into_iter().collect()
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Vec::new(),
    };
    left_out.into_iter().chain(others.into_iter().map(Change::To)).collect()
}

/// Returns a larger number, and zero.
fn numbers(number: &Number) -> Vec<Value> {
    let larger = match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(number), ..) => Value::from(number.saturating_mul(2).saturating_add(1)),
        (_, Some(number), _) => Value::from(number.saturating_abs().saturating_mul(2)),
        (.., number) => Value::from(number.unwrap_or_default().abs() * 2.0 + 1.0),
    };
    let all = [larger, Value::from(0)];
    all.into_iter().filter(|other| other.as_f64() != number.as_f64()).collect()
}

/// Returns a text of the same form: each letter and digit becomes the next one. A pattern stays a pattern,
/// and no part of the text is left that an expectation could contain.
fn rotated(text: &str) -> String {
    let next = |character: char| match character {
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        '0'..='8' | 'a'..='y' | 'A'..='Y' => char::from_u32(character as u32 + 1).unwrap_or(character),
        other => other,
    };
    text.chars().map(next).collect()
}

/// Returns the settings with a change of the entry at a pointer. Settings without such an entry stay the
/// same.
pub fn changed(settings: &Value, pointer: &str, change: &Change) -> Value {
    let mut settings = settings.clone();
    match change {
        Change::To(value) => {
            if let Some(entry) = settings.pointer_mut(pointer) {
                *entry = value.clone();
            }
        }
        Change::LeftOut => {
            let Some((parent, token)) = pointer.rsplit_once('/') else { return settings };
            match settings.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.remove(&pointer::unescape(token))),
                Some(Value::Array(items)) => {
                    if let Some(index) = token.parse().ok().filter(|index| *index < items.len()) {
                        items.remove(index);
                    }
                }
                _ => {}
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_entry_is_left_out_and_has_another_value() {
        let settings_of = |settings: Value| {
            let all = settings_and_changes(&settings);
            all.into_iter().map(|(pointer, changed)| (pointer, Value::from(changed))).collect::<Vec<_>>()
        };
        // Settings, and for each entry the changed settings.
        for (settings, expected) in [
            (json!({}), json!({})),
            (json!([]), json!({})),
            (json!(null), json!({})),
            (json!(true), json!({ "": [false] })),
            (json!("text"), json!({ "": ["ufyu"] })),
            (json!({ "a": true }), json!({ "/a": [{}, { "a": false }] })),
            (json!({ "a": null }), json!({ "/a": [{}] })),
            (json!({ "a": 0 }), json!({ "/a": [{}, { "a": 1 }] })),
            (json!({ "a": 5 }), json!({ "/a": [{}, { "a": 11 }, { "a": 0 }] })),
            (json!({ "a": -5 }), json!({ "/a": [{}, { "a": 10 }, { "a": 0 }] })),
            (json!({ "a": 0.5 }), json!({ "/a": [{}, { "a": 2.0 }, { "a": 0 }] })),
            (json!({ "a": u64::MAX }), json!({ "/a": [{}, { "a": 0 }] })),
            (json!({ "a": "Zoe z9, **" }), json!({ "/a": [{}, { "a": "Apf a0, **" }] })),
            (json!({ "a": "**" }), json!({ "/a": [{}] })),
            (
                json!({ "a/b~": ["x", { "c": 1 }] }),
                json!({
                    "/a~1b~0": [{}],
                    "/a~1b~0/0": [{ "a/b~": [{ "c": 1 }] }, { "a/b~": ["y", { "c": 1 }] }],
                    "/a~1b~0/1": [{ "a/b~": ["x"] }],
                    "/a~1b~0/1/c": [
                        { "a/b~": ["x", {}] }, { "a/b~": ["x", { "c": 3 }] }, { "a/b~": ["x", { "c": 0 }] }
                    ],
                }),
            ),
        ] {
            assert_eq!(
                Value::Object(settings_of(settings.clone()).into_iter().collect()),
                expected,
                "{settings}"
            );
        }
    }

    fn settings_and_changes(of: &Value) -> Vec<(String, Vec<Value>)> {
        let with_changes = |setting: Setting| {
            let results =
                changes(&setting).iter().map(|change| changed(of, &setting.pointer, change)).collect();
            (setting.pointer, results)
        };
        settings(of).into_iter().map(with_changes).collect()
    }

    #[test]
    fn a_place_that_is_not_there_changes_nothing() {
        let of = json!({ "a": ["x"] });
        for pointer in ["", "/b", "/a/1", "/a/x", "/a/0/0", "/b/c"] {
            assert_eq!(changed(&of, pointer, &Change::LeftOut), of, "{pointer}");
        }
    }
}
