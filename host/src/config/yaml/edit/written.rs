//! Texts of values.

use saphyr_parser::ScalarStyle;
use serde_json::Value;

use super::super::{Document, Form};
use super::place::Editor;
use crate::text::is_plain;

impl Editor<'_> {
    /// Returns a value on one line in its usual form.
    pub(super) fn flow(&self, value: &Value) -> String {
        self.written(value, Form::default(), true)
    }

    /// Returns a value on one line, with the quotes of `like` where these can hold the text.
    pub(super) fn written(&self, value: &Value, like: Form, in_flow: bool) -> String {
        let inside = |value| self.written(value, like, true);
        match value {
            Value::String(text) => self.string(text, like, in_flow),
            Value::Array(items) => format!("[{}]", self.joined(items.iter().map(inside))),
            Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
            Value::Object(entries) => {
                let written =
                    entries.iter().map(|(key, value)| self.entry(key, value, Form::default(), true));
                let written = self.joined(written);
                if self.is_json { format!("{{{written}}}") } else { format!("{{ {written} }}") }
            }
            other => other.to_string(),
        }
    }

    /// Returns the text of an entry of a map.
    pub(super) fn entry(&self, key: &str, value: &Value, like: Form, in_flow: bool) -> String {
        let colon = if self.is_compact { ":" } else { ": " };
        let written = self.written(value, Form::default(), in_flow);
        format!("{}{colon}{written}", self.key(key, like, in_flow))
    }

    fn joined(&self, parts: impl Iterator<Item = String>) -> String {
        parts.collect::<Vec<_>>().join(self.comma())
    }

    /// Returns the comma between two values on one line.
    pub(super) fn comma(&self) -> &'static str {
        if self.is_compact { "," } else { ", " }
    }

    /// Returns the text of a key.
    pub(super) fn key(&self, key: &str, like: Form, in_flow: bool) -> String {
        let reads_back = |written: &str| {
            let text = if in_flow { format!("{{{written}: 0}}") } else { format!("{written}: 0") };
            is_read_as(&text, &serde_json::json!({ key: 0 }))
        };
        self.quoted(key, like, reads_back)
    }

    fn string(&self, text: &str, like: Form, in_flow: bool) -> String {
        let is = |written: &str, value| is_read_as(written, &value);
        let reads_back = |written: &str| {
            is(&format!("a: {written}"), serde_json::json!({ "a": text }))
                && is(&format!("- {written}"), serde_json::json!([text]))
                && (!in_flow || is(&format!("[{written}]"), serde_json::json!([text])))
        };
        self.quoted(text, like, reads_back)
    }

    /// Returns a string in the quotes of `like`, or in double quotes.
    fn quoted(&self, text: &str, like: Form, reads_back: impl Fn(&str) -> bool) -> String {
        let is_visible = text.chars().all(is_plain);
        match like {
            _ if self.is_json || !is_visible => self.in_double_quotes(text),
            Form::Scalar(ScalarStyle::SingleQuoted) => format!("'{}'", text.replace('\'', "''")),
            Form::Scalar(ScalarStyle::Plain) | Form::Flow | Form::Block if reads_back(text) => {
                text.to_owned()
            }
            _ => self.in_double_quotes(text),
        }
    }

    /// Returns a string in double quotes, with escapes for all characters that are invisible.
    pub(super) fn in_double_quotes(&self, text: &str) -> String {
        let mut written = String::from('"');
        for character in text.chars() {
            match character {
                '"' | '\\' => written.extend(['\\', character]),
                '\n' => written.push_str("\\n"),
                '\r' => written.push_str("\\r"),
                '\t' => written.push_str("\\t"),
                _ if is_plain(character) => written.push(character),
                _ if u32::from(character) <= 0xffff => {
                    written.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                // JSON has no escape of eight digits, and the reader of YAML takes no surrogates.
                _ if self.is_json => written.push(character),
                _ => written.push_str(&format!("\\U{:08x}", u32::from(character))),
            }
        }
        written.push('"');
        written
    }

    /// Returns a value of a JSON document in lines that stand at an indentation.
    pub(super) fn in_lines(&self, value: &Value, indentation: &str, unit: &str) -> String {
        let inner = format!("{indentation}{unit}");
        let end = self.line_end;
        let lines = |parts: Vec<String>| parts.join(&format!(",{end}{inner}"));
        match value {
            Value::Array(items) if !items.is_empty() => {
                let items = items.iter().map(|item| self.in_lines(item, &inner, unit)).collect();
                format!("[{end}{inner}{}{end}{indentation}]", lines(items))
            }
            Value::Object(entries) if !entries.is_empty() => {
                let entry = |(key, value): (&String, &Value)| {
                    format!("{}: {}", self.in_double_quotes(key), self.in_lines(value, &inner, unit))
                };
                format!("{{{end}{inner}{}{end}{indentation}}}", lines(entries.iter().map(entry).collect()))
            }
            other => self.flow(other),
        }
    }
}

/// Returns whether a text is a document with a value.
pub(super) fn is_read_as(text: &str, value: &Value) -> bool {
    Document::parse(text.as_bytes()).is_ok_and(|document| document.value == *value)
}
