//! host.yaml as written. The doc comments are the descriptions in its JSON Schema.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};

use super::namespace::NAMESPACE_PATTERN;
use super::units::{DURATION_PATTERN, QUANTITY_PATTERN};
use super::{
    ADMIN_LISTEN, API_VERSION, FailurePolicy, HostLimits, KIND, LISTEN, Mode, OnDifference, Unjudged,
};
use crate::limits::{self, Limit, Set, Unit, show_bytes};

/// Configuration of the image policy host. Relative paths start at the folder of this file.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(title = "host.yaml")]
pub(super) struct HostYaml {
    /// Version of this format. `host serve` needs it.
    #[schemars(extend("const" = API_VERSION))]
    pub(super) api_version: Option<String>,
    /// Kind of this file. `host serve` needs it.
    #[schemars(extend("const" = KIND))]
    pub(super) kind: Option<String>,
    /// ADDRESS:PORT of the webhook. A change needs a restart.
    pub(super) listen: String,
    /// Certificates of the webhook. `host serve` needs it.
    pub(super) tls: Option<Tls>,
    /// Health and status.
    pub(super) admin: Admin,
    /// Folder for the last good version of each policy, mode 0700. A change needs a restart.
    pub(super) state_directory: Option<String>,
    /// Mode of the whole host: in `audit` it never denies.
    pub(super) mode: Mode,
    /// Result for an image that no policy judged.
    pub(super) unjudged: Unjudged,
    /// Images that no policy judges.
    pub(super) exempt: Exempt,
    /// Whether a policy set without policies, or none of a `policyDirectory` that had some, may be in force.
    pub(super) allow_empty: bool,
    /// Folder in which every `*.wasm` is a policy, named after its file, with the defaults.
    pub(super) policy_directory: Option<String>,
    /// Policies with settings. An entry configures the file at its path, inside policyDirectory or elsewhere.
    pub(super) policies: Vec<Policy>,
    /// Decision log: a line of JSON for every review. Absent: none.
    pub(super) decision_log: Option<DecisionLog>,
    /// Checks that a changed set of policies must pass before it is in force. Absent: none.
    pub(super) gate: Option<Gate>,
    /// Limits of the host.
    pub(super) limits: Limits,
}

impl Default for HostYaml {
    fn default() -> Self {
        Self {
            api_version: None,
            kind: None,
            listen: LISTEN.to_string(),
            tls: None,
            admin: Admin::default(),
            state_directory: None,
            mode: Mode::default(),
            unjudged: Unjudged::default(),
            exempt: Exempt::default(),
            allow_empty: false,
            policy_directory: None,
            policies: Vec::new(),
            decision_log: None,
            gate: None,
            limits: Limits::default(),
        }
    }
}

/// PEM files. They are read again when they change.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Tls {
    /// The certificate chain of the host, leaf first.
    pub(super) certificate: String,
    /// The key of the certificate.
    pub(super) private_key: String,
    /// Whether a client must show a certificate. `None` accepts every client that reaches the port.
    #[serde(default)]
    pub(super) client_auth: ClientAuthKind,
    /// The authorities that sign client certificates. Needed unless clientAuth is None.
    #[serde(rename = "clientCA", default)]
    pub(super) client_ca: Option<String>,
    /// A client certificate must carry one of these names. Absent: any name.
    #[serde(default)]
    pub(super) client_names: Option<Vec<String>>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(super) enum ClientAuthKind {
    #[default]
    Required,
    None,
}

/// Health and status, over plain HTTP.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Admin {
    /// ADDRESS:PORT. A change needs a restart.
    pub(super) listen: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ADMIN_LISTEN.to_string() }
    }
}

/// Images that no policy judges.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Exempt {
    /// Namespaces whose images are allowed; `kube-*` is all that begin so.
    #[schemars(inner(regex(pattern = NAMESPACE_PATTERN)))]
    pub(super) namespaces: Vec<String>,
}

/// One policy.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    /// A DNS label, distinct in this file: 1 to 63 of a-z, 0-9 and inner `-`.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub(super) name: String,
    /// The WebAssembly component.
    pub(super) module: String,
    /// Settings of the policy, any value. The policy checks them.
    #[serde(default = "no_settings")]
    pub(super) settings: Value,
    /// File with more settings, as YAML or JSON. A change of it is loaded like a change of this file. A list
    /// in both places is joined.
    #[serde(default)]
    pub(super) settings_from: Option<String>,
    /// Files with settings that are texts. The value of each key is the path of a file, whose text is the
    /// setting, or the path of a folder, with `/` at its end: then the setting is a map with the text of each
    /// file under its name. A change of a file is loaded like a change of this file.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) settings_files: BTreeMap<String, Value>,
    /// Namespaces and images that the policy applies to. Absent: all.
    #[serde(rename = "match", default)]
    pub(super) scope: Match,
    /// Whether the policy's denials are in force or only reported.
    #[serde(default)]
    pub(super) mode: Mode,
    /// Effect of a malfunction of the policy.
    #[serde(default)]
    pub(super) failure_policy: FailurePolicy,
    /// One line that follows every denial of the policy, such as where to ask.
    #[serde(default)]
    pub(super) message: Option<String>,
    /// Limits of the policy.
    #[serde(default)]
    pub(super) limits: PolicyLimits,
    /// Capabilities that the policy is granted. This version grants none.
    #[serde(default)]
    pub(super) capabilities: Vec<String>,
}

fn no_settings() -> Value {
    json!({})
}

/// Namespaces and images that a policy applies to.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Match {
    /// By namespace.
    pub(super) namespaces: Namespaces,
    /// By image. The policy does not judge the others.
    pub(super) images: Images,
}

/// Images that a policy applies to, as patterns: `ghcr.io/acme/**`, `docker.io/library/nginx:1.*`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Images {
    /// Only these, under every name and port of their registry. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) include: Option<Vec<String>>,
    /// But not these, even if included.
    pub(super) exclude: Vec<String>,
}

/// Namespaces that a policy applies to.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Namespaces {
    /// Only these; `kube-*` is all that begin so. Absent: all.
    #[schemars(inner(regex(pattern = NAMESPACE_PATTERN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) include: Option<Vec<String>>,
    /// But not these, even if included; `kube-*` is all that begin so.
    #[schemars(inner(regex(pattern = NAMESPACE_PATTERN)))]
    pub(super) exclude: Vec<String>,
}

/// A line of JSON for every review, in files that are rotated.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DecisionLog {
    /// Folder for its files, mode 0700.
    pub(super) directory: String,
    /// Fraction, from 0 to 1, of the reviews without a denial or a malfunction that are written. All others
    /// are written.
    #[schemars(with = "f64", range(min = 0.0, max = 1.0))]
    #[serde(default = "all")]
    pub(super) sample: Number,
    #[schemars(extend("description" = described(&limits::DECISION_LOG_FILE)))]
    #[serde(default = "file_size")]
    pub(super) file_size: Quantity,
    #[schemars(extend("description" = described(&limits::DECISION_LOG_FILES)))]
    #[schemars(with = "u32")]
    #[serde(default = "files")]
    pub(super) files: Number,
    #[schemars(extend("description" = described(&limits::DECISION_LOG_QUEUE)))]
    #[schemars(with = "u32")]
    #[serde(default = "queue")]
    pub(super) queue: Number,
}

fn all() -> Number {
    1.into()
}

fn file_size() -> Quantity {
    limits::DECISION_LOG_FILE.default.into()
}

fn files() -> Number {
    limits::DECISION_LOG_FILES.default.into()
}

fn queue() -> Number {
    limits::DECISION_LOG_QUEUE.default.into()
}

/// Checks that a changed set of policies must pass before it is in force.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Gate {
    /// Folders of fixtures, as of `host test`, all of which must pass. The changed set judges them: a
    /// host.yaml among them is not read.
    pub(super) suites: Vec<String>,
    #[schemars(extend("description" = described(&limits::REPLAY)))]
    #[schemars(with = "u32")]
    pub(super) replay: Number,
    /// Effect of a verdict that differs from that of the set in force: with `Hold` the changed set waits for
    /// `host approve DIGEST`.
    pub(super) on_difference: OnDifference,
    #[schemars(extend("description" = described(&limits::GATE_BUDGET)))]
    pub(super) budget: DurationText,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            suites: Vec::new(),
            replay: limits::REPLAY.size().into(),
            on_difference: OnDifference::default(),
            budget: limits::GATE_BUDGET.time().into(),
        }
    }
}

/// Limits of one policy.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PolicyLimits {
    #[schemars(extend("description" = described(&limits::DEADLINE)))]
    pub(super) deadline: DurationText,
    #[schemars(extend("description" = described(&limits::MEMORY)))]
    pub(super) memory: Quantity,
    #[schemars(extend("description" = described(&limits::RESULT)))]
    pub(super) result: Quantity,
    #[schemars(extend("description" = described(&limits::LOG_LINES)))]
    #[schemars(with = "u32")]
    pub(super) log_lines: Number,
    #[schemars(extend("description" = described(&limits::LOG_LINE_BYTES)))]
    pub(super) log_line_bytes: Quantity,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        let defaults = super::PolicyLimits::default();
        let super::PolicyLimits { deadline, memory, result, log_lines, log_line_bytes } = defaults;
        Self {
            deadline: deadline.into(),
            memory: memory.into(),
            result: result.into(),
            log_lines: log_lines.into(),
            log_line_bytes: log_line_bytes.into(),
        }
    }
}

/// Limits of the host.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Limits {
    #[schemars(extend("description" = described(&limits::BODY)))]
    pub(super) body: Quantity,
    #[schemars(extend("description" = described(&limits::IMAGES)))]
    #[schemars(with = "u32")]
    pub(super) images: Number,
    #[schemars(extend("description" = described(&limits::ANNOTATIONS)))]
    pub(super) annotations: Quantity,
    #[schemars(extend("description" = described(&limits::REVIEW_DEADLINE)))]
    pub(super) review_deadline: DurationText,
    #[schemars(extend("description" = described(&limits::CONCURRENT_REVIEWS)))]
    #[schemars(with = "Option<u32>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) concurrent_reviews: Option<Number>,
    #[schemars(extend("description" = described(&limits::QUEUE)))]
    #[schemars(with = "u32")]
    pub(super) queue: Number,
    #[schemars(extend("description" = described(&limits::CONNECTIONS)))]
    #[schemars(with = "u32")]
    pub(super) connections: Number,
    #[schemars(extend("description" = described(&limits::MODULE)))]
    pub(super) module: Quantity,
    #[schemars(extend("description" = described(&limits::POLICIES)))]
    #[schemars(with = "u32")]
    pub(super) policies: Number,
    #[schemars(extend("description" = described(&limits::PREPARE_TIME)))]
    pub(super) prepare_time: DurationText,
    #[schemars(extend("description" = described(&limits::PREPARE_MEMORY)))]
    pub(super) prepare_memory: Quantity,
    #[schemars(extend("description" = described(&limits::CACHE)))]
    pub(super) cache: Quantity,
}

/// Returns the schema's description of a limit's key.
fn described(limit: &Limit) -> String {
    let mut quantity = limit.quantity.to_owned();
    if let Some(first) = quantity.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    match limit.set {
        Set::Key { min, max, .. } => {
            let absent = match (limit.default, limit.unit) {
                (0, Unit::Time) => " Absent: not at all.",
                (0, _) => " Absent: as many as processors.",
                _ => "",
            };
            format!("{quantity}: {} to {}.{absent}", limit.show(min), limit.show(max))
        }
        Set::Fixed(_) => quantity,
    }
}

impl Default for Limits {
    fn default() -> Self {
        let limits = HostLimits::default();
        Self {
            body: limits.body.into(),
            images: limits.images.into(),
            annotations: limits.annotations.into(),
            review_deadline: limits.review_deadline.into(),
            concurrent_reviews: None,
            queue: limits.queue.into(),
            connections: limits.connections.into(),
            module: limits.module.into(),
            policies: limits.policies.into(),
            prepare_time: limits.prepare_time.into(),
            prepare_memory: limits.prepare_memory.into(),
            cache: limits.cache.into(),
        }
    }
}

/// A duration such as `500ms`, `1s` or `1m30s`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("examples" = ["500ms", "1s", "1m30s"]))]
pub(super) struct DurationText(#[schemars(regex(pattern = DURATION_PATTERN))] pub(super) String);

impl From<Duration> for DurationText {
    fn from(duration: Duration) -> Self {
        Self(format!("{duration:?}"))
    }
}

/// Bytes, with or without a suffix.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Quantity {
    Number(Number),
    Text(String),
}

impl From<u64> for Quantity {
    fn from(bytes: u64) -> Self {
        Self::Text(show_bytes(bytes))
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, plain or with a suffix.",
            "examples": ["256Ki", "64Mi", "1Gi"],
            "type": ["string", "integer"],
            "pattern": QUANTITY_PATTERN,
            "minimum": 0,
        })
    }
}

/// Returns the JSON Schema of host.yaml.
#[must_use]
pub fn schema() -> Value {
    schema_of::<HostYaml>()
}

/// Returns the JSON Schema of a kind of file.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Removes null from a schema. Null is read as an absent key, as in Kubernetes, but leaving the key out is
/// the way to write it.
fn without_null(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(choices)) = schema.get("anyOf") else { return };
    if let [Value::Object(only), null] = choices.as_slice()
        && *null == json!({"type": "null"})
    {
        let only = only.clone();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.insert(key, value);
        }
    }
}
