//! host.yaml, read into a checked [`Config`].
//!
//! `raw` has the types of the file as written, and their JSON Schema for editors. `schema_check` compares a
//! document with the schema: unknown keys, wrong types. `validate` turns the raw values into the types below:
//! ranges, names, keys that exclude each other. Both report every problem that they find, each with its line.

pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::yaml::Document;
use crate::image::Image;
use crate::limits;
use crate::text;
pub use error::{ConfigError, Problem};
pub use grants::Grants;
pub use images::ImageScope;
pub use name::{NameError, PolicyName};
pub use namespace::{NamespacePattern, NamespacePatterns};
pub use raw::schema;
pub(crate) use raw::{Policy as PolicyEntry, schema_of};
pub(crate) use schema_check::{found, list, suggestion};
pub use settings::{
    Overlay, ReadFile, SettingsFile, SettingsFileError, SettingsReader, TextSource, Unusable,
};

mod raw;
pub(crate) mod pointer;
pub(crate) mod schema_check;
mod validate;
mod name;
mod namespace;
mod grants;
mod images;
mod settings;
mod units;
mod error;

/// The only `apiVersion` of host.yaml.
pub const API_VERSION: &str = "image-policy-host/v1alpha1";
/// The only `kind` of host.yaml.
pub const KIND: &str = "HostConfiguration";

/// The schema of host.yaml, built once: building takes longer than the comparison with a document.
static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1234);
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9234);

/// A checked host.yaml. Every path is already resolved against `directory`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file as named by the user; empty if there is no file.
    pub path: PathBuf,
    /// The folder of the file.
    pub directory: PathBuf,
    /// Settings of the webhook; None if `tls` is absent. See [`Config::require_serving`].
    pub serving: Option<Serving>,
    /// Address of health and status, plain HTTP; default `127.0.0.1:9234`.
    pub admin_listen: SocketAddr,
    /// Folder of past generations and the control socket.
    pub state_directory: Option<PathBuf>,
    /// Rules by which decisions become a verdict.
    pub rules: Rules,
    /// Whether an empty policy set, or no policy of a `policyDirectory` that had some, may be published;
    /// default false.
    pub allow_empty: bool,
    /// Folder in which every `*.wasm` is a policy.
    pub policy_directory: Option<PathBuf>,
    /// The entries, in the order of the file, with distinct names.
    pub policies: Vec<PolicyConfig>,
    /// The decision log; None if reviews are not written.
    pub decision_log: Option<DecisionLogConfig>,
    /// Checks of a changed policy set before it is in force; None if there are none.
    pub gate: Option<Gate>,
    /// Limits of the host.
    pub limits: HostLimits,
    /// The file, for the positions of values.
    document: Document,
    /// Lines that `host serve` needs and the file lacks, besides `tls`.
    missing: Vec<String>,
}

/// Settings that the webhook needs to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    /// Address; default `127.0.0.1:1234`.
    pub listen: SocketAddr,
    /// Certificates.
    pub tls: TlsConfig,
}

/// Certificates of the webhook, as PEM files.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// The certificate chain that the host presents, leaf first.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub private_key: PathBuf,
    /// The clients that are accepted.
    pub client_auth: ClientAuth,
}

impl TlsConfig {
    /// Returns the files that the configuration names.
    pub fn files(&self) -> Vec<&Path> {
        let ca = match &self.client_auth {
            ClientAuth::Required { ca, .. } => Some(ca.as_path()),
            ClientAuth::None => None,
        };
        [self.certificate.as_path(), self.private_key.as_path()].into_iter().chain(ca).collect()
    }
}

/// The clients that may request a verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuth {
    /// Clients with a certificate of this authority.
    Required {
        /// PEM file of the authorities.
        ca: PathBuf,
        /// Names of which a client's certificate must carry one; empty: any name.
        names: Vec<String>,
    },
    /// Everyone who can reach the port. Never a default.
    None,
}

/// The decision log.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionLogConfig {
    /// The folder of its files.
    pub directory: PathBuf,
    /// Fraction, from 0 to 1, of the reviews without a denial or a malfunction that are written.
    pub sample: f64,
    /// Size of a file in bytes, after which a new file begins.
    pub file_size: u64,
    /// Maximum number of files.
    pub files: usize,
    /// Maximum number of reviews that wait to be written.
    pub queue: usize,
}

/// Rules by which decisions become a verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rules {
    /// Mode of the whole host.
    pub mode: Mode,
    /// Result for an image that no policy judged.
    pub unjudged: Unjudged,
    /// Namespaces whose images are allowed without evaluation.
    pub exempt_namespaces: NamespacePatterns,
}

/// Whether denials are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Denials deny.
    #[default]
    Enforce,
    /// Denials are only reported.
    Audit,
}

/// Result for an image that no policy judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unjudged {
    /// It is denied.
    #[default]
    Deny,
    /// It is allowed.
    Allow,
}

/// Effect of a malfunction of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// A denial.
    #[default]
    Fail,
    /// An abstention.
    Ignore,
}

/// Checks that a changed policy set must pass before it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Folders of fixtures, all of which must pass.
    pub suites: Vec<PathBuf>,
    /// Number of recent reviews that both the candidate and the set in force evaluate.
    pub replay: usize,
    /// Effect of a difference between their verdicts.
    pub on_difference: OnDifference,
    /// Time limit of all suites, and of the replay.
    pub budget: Duration,
}

/// Effect of a verdict that differs from that of the set in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDifference {
    /// The changed set is put in force, and the differences are reported.
    #[default]
    Swap,
    /// The changed set waits until someone approves it.
    Hold,
}

/// Place of a policy among the others: the images that it judges, and the weight of its decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Namespaces and images to which the policy applies; default all.
    pub scope: Scope,
    /// Whether the policy's denials are in force; default `enforce`.
    pub mode: Mode,
    /// Effect of a malfunction; default `Fail`.
    pub failure_policy: FailurePolicy,
}

/// The source of a policy's component.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleSource {
    /// A file.
    File(PathBuf),
}

impl ModuleSource {
    /// Returns the file that is followed for changes.
    pub fn file(&self) -> &Path {
        let ModuleSource::File(path) = self;
        path
    }
}

impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::path(self.file()))
    }
}

/// One policy and its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Name, distinct in a policy set.
    pub name: PolicyName,
    /// The source of the component.
    pub module: ModuleSource,
    /// Settings for `configure`; default `{}`.
    pub settings: Value,
    /// File with more settings, or None.
    pub settings_from: Option<PathBuf>,
    /// Files whose texts are settings, by their keys.
    pub settings_files: BTreeMap<String, TextSource>,
    /// The file of `settings_from`, once its settings are added to `settings`.
    pub settings_file: Option<SettingsFile>,
    /// Whether the settings of `settings_from` and `settings_files` are added to `settings`.
    pub has_file_settings: bool,
    /// Settings of a suite that replace parts of `settings`, in the order in which they were merged.
    pub overlays: Vec<Overlay>,
    /// Its place among the policies.
    pub placement: Placement,
    /// Line that follows every denial, escaped.
    pub message: Option<String>,
    /// Limits of the policy.
    pub limits: PolicyLimits,
    /// Capabilities granted beyond `log`; default none.
    pub capabilities: Grants,
    /// JSON Pointer to the entry (`/policies/2`); empty for a bare file of `policyDirectory`.
    pub pointer: String,
}

impl PolicyConfig {
    /// Returns a policy with the defaults, as a bare file of `policyDirectory` gets them.
    #[must_use]
    pub fn bare(name: PolicyName, module: PathBuf) -> Self {
        Self {
            name,
            module: ModuleSource::File(module),
            settings: json!({}),
            settings_from: None,
            settings_files: BTreeMap::new(),
            settings_file: None,
            has_file_settings: false,
            overlays: Vec::new(),
            placement: Placement::default(),
            message: None,
            limits: PolicyLimits::default(),
            capabilities: Grants::default(),
            pointer: String::new(),
        }
    }
}

/// The namespaces and images that a policy applies to. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Only these namespaces; None: all.
    pub include: Option<NamespacePatterns>,
    /// Except these, even if included.
    pub exclude: NamespacePatterns,
    /// The images. In a record from before this field existed the scope means all images.
    #[serde(default, skip_serializing_if = "ImageScope::is_all")]
    pub images: ImageScope,
}

impl Scope {
    /// Returns whether a policy of this scope judges the images of a namespace.
    #[must_use]
    pub fn applies(&self, namespace: &str) -> bool {
        let included = self.include.as_ref().is_none_or(|include| include.matches(namespace));
        included && !self.exclude.matches(namespace)
    }

    /// Returns whether a policy of this scope judges an image, in a namespace that it applies to.
    #[must_use]
    pub fn applies_to(&self, image: &Image) -> bool {
        self.images.applies(image)
    }
}

/// Limits of one policy; [`limits`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyLimits {
    /// Wall-clock time of one call.
    pub deadline: Duration,
    /// Linear memory of an instance in bytes.
    pub memory: u64,
    /// Size of one lifted result in bytes.
    pub result: u64,
    /// Log lines in a review.
    pub log_lines: u32,
    /// Bytes of a log line.
    pub log_line_bytes: u64,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self {
            deadline: limits::DEADLINE.time(),
            memory: limits::MEMORY.default,
            result: limits::RESULT.default,
            log_lines: limits::LOG_LINES.default as u32,
            log_line_bytes: limits::LOG_LINE_BYTES.default,
        }
    }
}

/// Limits of the host; [`limits`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostLimits {
    /// Size of a request body in bytes. The default is more than the 3 Mi that the apiserver itself accepts.
    pub body: u64,
    /// Images of a review.
    pub images: usize,
    /// Size of a review's annotations in bytes, keys and values. The default is Kubernetes' limit for one
    /// object.
    pub annotations: u64,
    /// Wall-clock time of a review. The apiserver gives up after 30 s.
    pub review_deadline: Duration,
    /// Reviews evaluated at once; by default one more than the number of processors.
    pub concurrent_reviews: usize,
    /// Reviews that may wait in the queue.
    pub queue: usize,
    /// Open connections.
    pub connections: usize,
    /// Size of a module file in bytes.
    pub module: u64,
    /// Policies in a set.
    pub policies: usize,
    /// Wall-clock time to prepare a policy.
    pub prepare_time: Duration,
    /// Memory to prepare a policy, in bytes.
    pub prepare_memory: u64,
    /// Size of the compiled policies in the state directory, in bytes.
    pub cache: u64,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            body: limits::BODY.default,
            images: limits::IMAGES.size(),
            annotations: limits::ANNOTATIONS.default,
            review_deadline: limits::REVIEW_DEADLINE.time(),
            concurrent_reviews: match limits::CONCURRENT_REVIEWS.size() {
                0 => std::thread::available_parallelism().map_or(1, usize::from) + 1,
                reviews => reviews,
            },
            queue: limits::QUEUE.size(),
            connections: limits::CONNECTIONS.size(),
            module: limits::MODULE.default,
            policies: limits::POLICIES.size(),
            prepare_time: limits::PREPARE_TIME.time(),
            prepare_memory: limits::PREPARE_MEMORY.default,
            cache: limits::CACHE.default,
        }
    }
}

impl Config {
    /// Reads and checks a file. Only a regular file within the size limit is read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &error::read(path)?)
    }

    /// Checks the bytes of a file. `path` serves for messages and to resolve relative paths.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let invalid = |problems| ConfigError::invalid(path, bytes, problems);
        let document = Document::parse(bytes).map_err(|error| invalid(error.problems))?;
        let host_yaml = schema_check::read(&SCHEMA, &document).map_err(invalid)?;
        validate::config(path, document, host_yaml).map_err(invalid)
    }

    /// Returns a configuration of the `policies` entries of a suite file. All other keys have their defaults.
    ///
    /// # Errors
    /// Returns every problem of the entries.
    pub(crate) fn of_entries(
        path: &Path,
        document: Document,
        entries: Vec<PolicyEntry>,
    ) -> Result<Self, Vec<yaml::Problem>> {
        validate::config(path, document, raw::HostYaml { policies: entries, ..raw::HostYaml::default() })
    }

    /// Returns a configuration without a file: these policies and the defaults.
    #[must_use]
    pub fn for_policies(policies: Vec<PolicyConfig>) -> Self {
        Self {
            path: PathBuf::new(),
            directory: PathBuf::from("."),
            serving: None,
            admin_listen: ADMIN_LISTEN,
            state_directory: None,
            rules: Rules::default(),
            allow_empty: false,
            policy_directory: None,
            policies,
            decision_log: None,
            gate: None,
            limits: HostLimits::default(),
            document: Document::default(),
            missing: vec![
                format!("`apiVersion: {API_VERSION}` is missing"),
                format!("`kind: {KIND}` is missing"),
            ],
        }
    }

    /// Returns the settings that `host serve` needs besides policies. The error names every missing line.
    pub fn require_serving(&self) -> Result<&Serving, ConfigError> {
        match &self.serving {
            Some(serving) if self.missing.is_empty() => Ok(serving),
            serving => {
                let tls =
                    serving.is_none().then_some("`tls` is missing: it names `certificate` and `privateKey`");
                let missing = self.missing.iter().map(String::as_str).chain(tls);
                let at = self.document.locate("");
                let problem =
                    |line| crate::config::yaml::Problem::new(at, format!("{line} (`host serve` needs it)"));
                Err(ConfigError::invalid(&self.path, &[], missing.map(problem).collect()))
            }
        }
    }

    /// Returns the position of the value at a JSON Pointer (`host.yaml:12:5`), or of its nearest existing
    /// parent. Returns the pointer itself if there is no file.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> String {
        if self.path.as_os_str().is_empty() {
            return pointer.to_owned();
        }
        format!("{}:{}", text::path(&self.path), self.document.locate(pointer))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::for_policies(Vec::new())
    }
}
