//! The suite file as written. The doc comments are the descriptions in its JSON Schema.

mod cases;
mod facts;
mod names;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use self::cases::{Reader, UnderTest, beside};
use crate::config::{API_VERSION, PolicyEntry, schema_of};

/// The only `kind` of suite files.
pub const KIND: &str = "Suite";

/// The schema of suite files, built once.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

/// Returns the JSON Schema of suite files.
#[must_use]
pub fn schema() -> Value {
    schema_of::<SuiteYaml>()
}

/// Cases for policies: reviews with the expected verdicts. Relative paths start at the folder of this file.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "suite file")]
pub(super) struct SuiteYaml {
    /// Version of this format.
    #[schemars(extend("const" = API_VERSION))]
    #[expect(dead_code, reason = "the schema check compares it")]
    api_version: String,
    /// Kind of this file.
    #[schemars(extend("const" = KIND))]
    #[expect(dead_code, reason = "the schema check compares it")]
    kind: String,
    /// Path of a host.yaml under test, with its scopes, modes and exemptions. Absent, and without `policies`:
    /// the nearest host.yaml above this file.
    #[serde(default)]
    pub(super) host: Option<String>,
    /// Policies under test, as in host.yaml.
    #[serde(default)]
    pub(super) policies: Option<Vec<PolicyEntry>>,
    /// Namespace of the cases that name none.
    #[serde(default = "default_namespace")]
    #[schemars(length(max = 63))]
    pub(super) namespace: String,
    /// Annotations of the pods of the cases with `images`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) annotations: BTreeMap<String, Value>,
    /// Facts of the cases that have none, which stand in for the world outside: a map, or the path of its
    /// file.
    #[serde(default)]
    #[schemars(schema_with = "facts_schema")]
    pub(super) facts: Option<Value>,
    /// Rows of settings. Every case is judged once for each row.
    #[serde(default)]
    pub(super) matrix: Vec<Row>,
    /// The cases.
    pub(super) cases: Vec<CaseYaml>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// A row of the matrix.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Row {
    /// Name, distinct in this file.
    pub(super) name: String,
    /// Settings by policy, merged into the policies' settings (RFC 7396).
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Value>,
}

/// A case: a review, or settings, and what is expected.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CaseYaml {
    /// Name, distinct in this file.
    pub(super) name: String,
    /// Namespace of the review.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub(super) namespace: Option<String>,
    /// Further annotations of the pod, for a case with `images`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) annotations: BTreeMap<String, Value>,
    /// Images of the review: a list, or a map with an expectation for each image.
    #[serde(default)]
    #[schemars(schema_with = "images")]
    pub(super) images: Option<Value>,
    /// The review: a manifest as of `host review -f`, or the path of its file.
    #[serde(default)]
    #[schemars(schema_with = "review")]
    pub(super) review: Option<Value>,
    /// The object of a review with several objects, as `KIND/NAME`.
    #[serde(default)]
    pub(super) object: Option<String>,
    /// Facts of the case, in place of those of the suite: a map, or the path of its file.
    #[serde(default)]
    #[schemars(schema_with = "facts_schema")]
    pub(super) facts: Option<Value>,
    /// Names of the policies that take part. Absent: all under test.
    #[serde(default)]
    pub(super) policies: Option<Vec<String>>,
    /// Settings by policy, merged into the policies' settings (RFC 7396).
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Value>,
    /// Rows of the matrix in which the case is judged. Absent: all.
    #[serde(default)]
    pub(super) only: Option<Vec<String>>,
    /// Rows of the matrix in which the case is not judged.
    #[serde(default)]
    pub(super) except: Vec<String>,
    /// The expected verdict.
    #[serde(default)]
    #[schemars(schema_with = "expectation")]
    pub(super) expect: Option<Value>,
    /// The expected errors of `settings`: a text for each JSON Pointer into the settings, by policy where
    /// `settings` has several.
    #[serde(default)]
    #[schemars(schema_with = "refused")]
    pub(super) refused: Option<Value>,
}

impl SuiteYaml {
    /// Returns the cases that any policies can judge: without settings of their own. Returns None if the
    /// suite names its policies.
    pub(super) fn without_own_policies(mut self) -> Option<SuiteYaml> {
        if self.host.is_some() || self.policies.is_some() || !self.matrix.is_empty() {
            return None;
        }
        self.cases.retain(|case| case.settings.is_empty() && case.refused.is_none());
        (!self.cases.is_empty()).then_some(self)
    }
}

/// Schema of a text that is expected.
fn text() -> Value {
    json!({
        "description": "Part of the text, `/REGULAR EXPRESSION/`, or the whole text as `is`.",
        "anyOf": [
            { "type": "string" },
            {
                "type": "object",
                "properties": { "is": { "type": "string" } },
                "required": ["is"],
                "additionalProperties": false
            }
        ]
    })
}

/// Schema of texts of which each is expected.
fn texts() -> Value {
    json!({
        "description": "Texts of which each is expected. An empty list: there is none.",
        "anyOf": [text(), { "type": "array", "items": text() }]
    })
}

/// Schema of a string, or of a key without a value. Null is the first choice: as a second one it would stand
/// for an absent key, which [`schema_of`] leaves out.
fn or_empty(description: &str) -> Value {
    json!({ "description": description, "anyOf": [{ "type": "null" }, { "type": "string" }] })
}

/// Schema of an expectation with these further keys.
fn outcome(keys: Value, others: Value) -> Value {
    let code = or_empty("Code of the decision. Empty: any.");
    let mut properties = json!({
        "allow": code,
        "deny": code,
        "abstain": code,
        "malfunction": or_empty("Kind of the malfunction. Empty: any."),
        "reason": texts(),
        "auditAnnotations": { "type": "object", "additionalProperties": texts() },
        "warnings": texts(),
        "log": texts(),
    });
    if let (Value::Object(properties), Value::Object(keys)) = (&mut properties, keys) {
        properties.extend(keys);
    }
    json!({
        "anyOf": [
            { "enum": ["allow", "deny", "abstain", "malfunction"] },
            { "type": "object", "properties": properties, "additionalProperties": others }
        ]
    })
}

/// Schema of the expectation for an image, whose further keys are policies.
fn of_image() -> Value {
    outcome(json!({}), outcome(json!({}), json!(false)))
}

fn of_images() -> Value {
    json!({ "type": "object", "additionalProperties": of_image() })
}

fn described(description: &str, mut schema: Value) -> Schema {
    if let Value::Object(map) = &mut schema {
        map.insert("description".to_owned(), description.into());
    }
    schema.try_into().unwrap_or_default()
}

fn expectation(_: &mut SchemaGenerator) -> Schema {
    described("The expected verdict.", outcome(json!({ "images": of_images() }), json!(false)))
}

fn images(_: &mut SchemaGenerator) -> Schema {
    let list = json!({ "type": "array", "items": { "type": "string" } });
    described(
        "Images of the review: a list, or a map with an expectation for each image.",
        json!({ "anyOf": [list, of_images()] }),
    )
}

fn review(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "The review: a manifest as of `host review -f`, or the path of its file.",
        "type": ["string", "object"]
    })
}

fn facts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Facts, which stand in for the world outside: a map, or the path of its file. This \
            version knows no facts, so that the map is empty.",
        "type": ["string", "object"]
    })
}

fn refused(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "The expected errors of `settings`: a text for each JSON Pointer into the settings, \
            by policy where `settings` has several.",
        "type": ["object", "string"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_accepts_an_outcome_without_a_code() {
        let schema = schema();
        let properties = schema.pointer("/$defs/CaseYaml/properties/expect/anyOf/1/properties").unwrap();
        for outcome in ["allow", "deny", "abstain", "malfunction"] {
            let choices = json!([{ "type": "null" }, { "type": "string" }]);
            assert_eq!(properties[outcome]["anyOf"], choices, "{outcome}");
        }
    }
}
