//! Comparison of a document with the JSON Schema of its kind: unknown and missing keys, wrong types, wrong
//! words. Unlike serde's errors, the schema yields all problems at once, and the valid keys of each map.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::pointer;
use crate::config::yaml::{Document, Problem, quote};

/// Minimum similarity of a suggested word: 0 is none, 1 is equality.
const ALIKE: f64 = 0.8;
/// Length in bytes of the longest word for which a suggestion is searched.
const MAX_WORD: usize = 64;

/// Returns the raw values of a document that fits the schema of `T`.
///
/// # Errors
/// Returns every deviation from the schema.
pub(crate) fn read<T: DeserializeOwned>(schema: &Value, document: &Document) -> Result<T, Vec<Problem>> {
    let mut value = document.value.clone();
    if value.is_null() {
        return Err(vec![Problem::new(document.span(""), "the file is empty")]);
    }
    let mut shape = Shape { root: schema, document, problems: Vec::new() };
    shape.check(schema, &mut value, "");
    if !shape.problems.is_empty() {
        return Err(shape.problems);
    }
    // No error is expected: every document that fits the schema fits the types.
    serde_json::from_value(value).map_err(|error| vec![Problem::new(document.span(""), error.to_string())])
}

struct Shape<'a> {
    root: &'a Value,
    document: &'a Document,
    problems: Vec<Problem>,
}

impl<'a> Shape<'a> {
    /// Checks a value against the parts of JSON Schema that `schema_of` generates, and no others: references,
    /// words, types, keys and items.
    fn check(&mut self, schema: &'a Value, value: &mut Value, pointer: &str) {
        let schema = self.resolve(schema);
        let words = words(schema);
        if !words.is_empty() {
            self.check_word(&words, value, pointer);
            return;
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|name| fits(name, value)) {
            let expected: Vec<&str> = types.iter().map(|name| type_name(name)).collect();
            let examples: Vec<&str> = strings(schema.get("examples")).collect();
            let such = if examples.is_empty() {
                String::new()
            } else {
                format!(" such as {}", list(&examples, ", "))
            };
            self.problem(
                pointer,
                &format!("expected {}{such}, found {}", expected.join(" or "), found(value)),
            );
            return;
        }
        match value {
            Value::Object(map) => self.check_map(schema, map, pointer),
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    self.check(schema, item, &format!("{pointer}/{index}"));
                }
            }
            _ => {}
        }
    }

    fn check_map(&mut self, schema: &'a Value, map: &mut Map<String, Value>, parent: &str) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        // A key without a value is absent, as in Kubernetes. A list is the exception: commenting out the last
        // of `clientNames` must not mean everybody.
        map.retain(|key, value| {
            !(value.is_null() && properties.get(key).is_some_and(|schema| !types(schema).contains(&"array")))
        });
        for required in strings(schema.get("required")) {
            if !map.contains_key(required) {
                let words = properties.get(required).map(|schema| words(self.resolve(schema)));
                let next = match words.as_deref() {
                    Some([word]) => format!(": write `{required}: {word}`"),
                    _ => String::new(),
                };
                let message = format!("{}`{required}` is missing{next}", place(parent));
                self.problems.push(Problem::new(self.document.span(parent), message));
            }
        }
        for (key, value) in map {
            let child = format!("{parent}/{}", pointer::escape(key));
            if let Some(schema) = properties.get(key) {
                self.check(schema, value, &child);
                continue;
            }
            let valid: Vec<&str> = properties.keys().map(String::as_str).collect();
            let hint =
                suggestion(key, &valid).unwrap_or_else(|| format!("valid here: {}", list(&valid, ", ")));
            let message = format!("{}unknown key {}: {hint}", place(parent), quote(key));
            self.problems.push(Problem::new(self.document.key_span(&child), message));
        }
    }

    fn check_word(&mut self, words: &[&str], value: &Value, pointer: &str) {
        let word = value.as_str().unwrap_or_default();
        if !words.contains(&word) {
            let hint = suggestion(word, words).filter(|_| words.len() > 1);
            let hint = hint.map_or_else(String::new, |hint| format!(": {hint}"));
            self.problem(pointer, &format!("expected {}, found {}{hint}", list(words, " or "), found(value)));
        }
    }

    fn problem(&mut self, pointer: &str, message: &str) {
        let message = format!("{}{message}", place(pointer));
        self.problems.push(Problem::new(self.document.span(pointer), message));
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
        reference.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }
}

/// Returns a pointer as people write it, to begin a message: `policies[2].limits: `.
pub(crate) fn place(pointer: &str) -> String {
    let mut place = String::new();
    for token in pointer.split('/').skip(1) {
        if token.bytes().all(|byte| byte.is_ascii_digit()) {
            place.push_str(&format!("[{token}]"));
        } else {
            place.push_str(if place.is_empty() { "" } else { "." });
            place.push_str(token);
        }
    }
    if place.is_empty() { place } else { format!("{place}: ") }
}

fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Returns the words that an enum or a constant allows. The list is empty if the schema is neither.
fn words(schema: &Value) -> Vec<&str> {
    let described = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let constants = described.chain([schema]).filter_map(|choice| choice.get("const")?.as_str());
    constants.chain(strings(schema.get("enum"))).collect()
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        names => strings(names).collect(),
    }
}

fn fits(type_name: &str, value: &Value) -> bool {
    match type_name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => false,
    }
}

fn type_name(name: &str) -> &str {
    match name {
        "object" => "a map",
        "array" => "a list",
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        other => other,
    }
}

/// Returns a value for the end of a message: its type, and a scalar itself.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(boolean) => format!("the boolean `{boolean}`"),
        Value::Number(number) => format!("the number `{number}`"),
        Value::String(text) => format!("the string {}", quote(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

/// Returns words in backticks.
pub(crate) fn list(words: &[&str], separator: &str) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(separator)
}

/// Returns a suggestion of the most similar valid word. Returns None if no word is similar enough.
pub(crate) fn suggestion(word: &str, valid: &[&str]) -> Option<String> {
    if word.len() > MAX_WORD {
        return None;
    }
    let alike = |valid: &str| strsim::jaro_winkler(&word.to_lowercase(), &valid.to_lowercase());
    let (score, nearest) =
        valid.iter().map(|valid| (alike(valid), valid)).max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (score >= ALIKE).then(|| format!("did you mean `{nearest}`?"))
}
