//! The settings: the `spec` of a ValidatingAdmissionPolicy, with `code` and `params`.

use std::collections::BTreeSet;

use image_reference::shorten;
use serde_json::{Map, Value};

use crate::contract::{SettingsError, TextPosition};
use crate::words::nearest;

/// Limit of the mistakes that are reported at once.
pub const MISTAKES: usize = 32;

/// Limit of the expressions of one policy.
pub const EXPRESSIONS: usize = 64;

/// Limit of a message, in bytes.
pub const MESSAGE: usize = 1024;

/// Limit of the nesting of the settings.
const NESTING: usize = 32;

/// The keys that this policy reads.
const KEYS: [&str; 6] = ["variables", "matchConditions", "validations", "auditAnnotations", "code", "params"];

/// Keys of a policy of Kubernetes or Kyverno that say where it applies and what follows from it, which
/// host.yaml says here.
const IGNORED: [&str; 8] = [
    "autogen",
    "evaluation",
    "failurePolicy",
    "matchConstraints",
    "paramKind",
    "reinvocationPolicy",
    "validationActions",
    "webhookConfiguration",
];

/// The reasons of Kubernetes, and the codes that they become.
const REASONS: [(&str, &str); 4] = [
    ("Unauthorized", "unauthorized"),
    ("Forbidden", "forbidden"),
    ("Invalid", "invalid"),
    ("RequestEntityTooLarge", "request-entity-too-large"),
];

/// The code of a denial where the settings give none, as `reason` is in Kubernetes.
const CODE: &str = "invalid";

/// The text of an expression and its place in the settings.
#[derive(Debug, Clone)]
pub struct Text {
    /// The pointer of the text.
    pub pointer: String,
    /// The text.
    pub text: String,
}

/// A name, or a key, and its expression.
#[derive(Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The expression.
    pub expression: Text,
}

/// An entry of `validations`.
#[derive(Debug)]
pub struct Validation {
    /// The rule.
    pub expression: Text,
    /// The reason of a denial.
    pub message: Option<String>,
    /// An expression that makes the reason.
    pub message_expression: Option<Text>,
    /// The code of a denial.
    pub code: String,
}

/// The settings.
#[derive(Debug, Default)]
pub struct Settings {
    /// Expressions with a name, each for the ones after it.
    pub variables: Vec<Named>,
    /// Conditions without which the policy abstains.
    pub conditions: Vec<Named>,
    /// The rules.
    pub validations: Vec<Validation>,
    /// Expressions whose values the audit log gets.
    pub annotations: Vec<Named>,
    /// A value that expressions use.
    pub params: Option<Value>,
    /// Keys that have no effect.
    pub ignored: Vec<String>,
}

/// Makes an error of the settings.
pub fn error(pointer: &str, message: &str, position: Option<TextPosition>) -> SettingsError {
    SettingsError {
        pointer: pointer.to_owned(),
        message: shorten(message, MESSAGE / 4).into_owned(),
        position,
    }
}

/// Reads the settings. Returns all that could be read, and all mistakes.
pub fn read(json: &str) -> (Settings, Vec<SettingsError>) {
    let whole = |message: &str| (Settings::default(), vec![error("", message, None)]);
    if nesting(json) > NESTING {
        return whole(&format!("the settings nest deeper than {NESTING} levels"));
    }
    let fields = match serde_json::from_str(json) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return whole(&format!("wanted a mapping, found {}", kind(&other))),
        Err(found) => return whole(&format!("not JSON: {found}")),
    };
    let mut reader = Reader::default();
    let settings = reader.settings(fields);
    if reader.expressions > EXPRESSIONS {
        return whole(&format!("{} expressions: a policy has at most {EXPRESSIONS}", reader.expressions));
    }
    (settings, reader.mistakes)
}

/// Returns the depth of lists and mappings in JSON, before a parser recurses over them.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth = depth.saturating_add(1),
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[derive(Default)]
struct Reader {
    mistakes: Vec<SettingsError>,
    expressions: usize,
}

impl Reader {
    fn mistake(&mut self, pointer: &str, message: &str) {
        self.mistakes.push(error(pointer, message, None));
    }

    fn settings(&mut self, mut fields: Map<String, Value>) -> Settings {
        let code = fields.remove("code").and_then(|code| self.code("/code", &code));
        let code = code.unwrap_or_else(|| CODE.to_owned());
        let mut settings = Settings { params: fields.remove("params"), ..Settings::default() };
        settings.variables = self.named(&mut fields, "variables", "expression");
        for (index, variable) in settings.variables.iter().enumerate() {
            let identifier = variable.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !variable.name.starts_with(|first: char| first.is_ascii_digit());
            if !identifier {
                let message = "wanted a name of letters, digits and `_` that begins with no digit";
                self.mistake(&format!("/variables/{index}/name"), message);
            }
        }
        settings.conditions = self.named(&mut fields, "matchConditions", "expression");
        settings.annotations = self.named(&mut fields, "auditAnnotations", "valueExpression");
        for (index, annotation) in settings.annotations.iter().enumerate() {
            let fits = annotation.name.len() <= 63
                && annotation.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !fits {
                let message = "wanted at most 63 letters, digits, `-`, `_` and `.`";
                self.mistake(&format!("/auditAnnotations/{index}/key"), message);
            }
        }
        settings.validations = self.validations(&mut fields, &code);
        for key in fields.keys() {
            if IGNORED.contains(&key.as_str()) {
                settings.ignored.push(key.clone());
            } else {
                self.unknown("", key, &KEYS);
            }
        }
        settings
    }

    fn unknown(&mut self, place: &str, key: &str, keys: &[&str]) {
        let pointer = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
        let key = shorten(key, 64);
        let message = match (&*key, nearest(&key, keys.iter().copied())) {
            ("spec" | "apiVersion" | "kind" | "metadata", _) if place.is_empty() => {
                format!("unknown key `{key}`: of a ValidatingAdmissionPolicy write what stands below `spec`")
            }
            (_, Some(near)) => format!("unknown key `{key}`: write `{near}`"),
            (_, None) => format!("unknown key `{key}`: there are {}", keys.join(", ")),
        };
        self.mistake(&pointer, &message);
    }

    /// Returns the mappings of a list, with their pointers.
    fn entries(&mut self, fields: &mut Map<String, Value>, key: &str) -> Vec<(String, Map<String, Value>)> {
        let entries = match fields.remove(key) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.mistake(&format!("/{key}"), &format!("wanted a list, found {}", kind(&other)));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let pointer = format!("/{key}/{index}");
            match entry {
                Value::Object(fields) => found.push((pointer, fields)),
                other => self.mistake(&pointer, &format!("wanted a mapping, found {}", kind(&other))),
            }
        }
        found
    }

    /// Returns the entries of a list of names with expressions. No name may occur twice.
    fn named(&mut self, fields: &mut Map<String, Value>, key: &str, expression: &'static str) -> Vec<Named> {
        let name = if expression == "expression" { "name" } else { "key" };
        let mut names = BTreeSet::new();
        let mut found = Vec::new();
        for (pointer, mut entry) in self.entries(fields, key) {
            let named = self.line(&pointer, &mut entry, name);
            if named.is_none() && !entry.contains_key(name) {
                self.mistakes.extend(missing(&self.mistakes, &pointer, name));
            }
            let text = self.expression(&pointer, &mut entry, expression);
            for unknown in entry.keys() {
                self.unknown(&pointer, unknown, &[name, expression]);
            }
            let (Some(named), Some(text)) = (named, text) else { continue };
            if !names.insert(named.clone()) {
                self.mistake(&format!("{pointer}/{name}"), &format!("`{named}` occurs twice"));
            }
            found.push(Named { name: named, expression: text });
        }
        found
    }

    fn validations(&mut self, fields: &mut Map<String, Value>, code: &str) -> Vec<Validation> {
        let written = fields.contains_key("validations");
        let entries = self.entries(fields, "validations");
        if entries.is_empty()
            && self.mistakes.iter().all(|mistake| !mistake.pointer.starts_with("/validations"))
        {
            let place = if written { "/validations" } else { "" };
            self.mistake(
                place,
                "`validations` is missing: write a list of expressions that hold of every image",
            );
        }
        let mut found = Vec::new();
        for (pointer, mut entry) in entries {
            let expression = self.expression(&pointer, &mut entry, "expression");
            let message_expression = entry
                .contains_key("messageExpression")
                .then(|| self.expression(&pointer, &mut entry, "messageExpression"))
                .flatten();
            let message = self.line(&pointer, &mut entry, "message");
            let reason = entry.remove("reason").and_then(|reason| self.reason(&pointer, &reason));
            let own = entry.remove("code").and_then(|code| self.code(&format!("{pointer}/code"), &code));
            for unknown in entry.keys() {
                let keys = ["expression", "message", "messageExpression", "reason", "code"];
                self.unknown(&pointer, unknown, &keys);
            }
            let Some(expression) = expression else { continue };
            let code = own.or(reason).unwrap_or_else(|| code.to_owned());
            found.push(Validation { expression, message, message_expression, code });
        }
        found
    }

    fn expression(&mut self, place: &str, entry: &mut Map<String, Value>, key: &str) -> Option<Text> {
        let pointer = format!("{place}/{key}");
        self.expressions = self.expressions.saturating_add(1);
        match entry.remove(key) {
            Some(Value::String(text)) => return Some(Text { pointer, text }),
            // YAML reads a bare `true` as a boolean, and CEL has the same word.
            Some(Value::Bool(value)) => return Some(Text { pointer, text: value.to_string() }),
            Some(other) => {
                self.mistake(&pointer, &format!("wanted the text of an expression, found {}", kind(&other)));
            }
            None => self.mistake(place, &format!("`{key}` is missing")),
        }
        None
    }

    /// Returns a text of one line. Returns None if the key is missing or wrong.
    fn line(&mut self, place: &str, entry: &mut Map<String, Value>, key: &str) -> Option<String> {
        let message = match entry.remove(key)? {
            Value::String(text) if text.trim().is_empty() => "empty: write a line".to_owned(),
            Value::String(text) if text.contains(char::is_control) => {
                "wanted one line without control characters".to_owned()
            }
            Value::String(text) if text.len() > MESSAGE => {
                format!("{} bytes: wanted at most {MESSAGE}", text.len())
            }
            Value::String(text) => return Some(text),
            other => format!("wanted a string, found {}", kind(&other)),
        };
        self.mistake(&format!("{place}/{key}"), &message);
        None
    }

    fn code(&mut self, pointer: &str, value: &Value) -> Option<String> {
        let fits = |code: &&str| {
            (1..=63).contains(&code.len())
                && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let code = value.as_str().filter(fits);
        if code.is_none() {
            self.mistake(pointer, "wanted 1 to 63 characters of `a-z`, `0-9` and `-`");
        }
        code.map(str::to_owned)
    }

    fn reason(&mut self, place: &str, value: &Value) -> Option<String> {
        let found = REASONS.iter().find(|(reason, _)| value.as_str() == Some(reason));
        if found.is_none() {
            let reasons: Vec<&str> = REASONS.iter().map(|(reason, _)| *reason).collect();
            self.mistake(&format!("{place}/reason"), &format!("wanted one of {}", reasons.join(", ")));
        }
        found.map(|(_, code)| (*code).to_owned())
    }
}

/// Returns the mistake of a missing key, unless the key was there and wrong.
fn missing(mistakes: &[SettingsError], place: &str, key: &str) -> Option<SettingsError> {
    let wrong = format!("{place}/{key}");
    let told = mistakes.iter().any(|mistake| mistake.pointer == wrong);
    (!told).then(|| error(place, &format!("`{key}` is missing"), None))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
