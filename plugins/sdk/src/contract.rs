//! The records of the contract (`wit/`).
//!
//! They are plain structs, so a policy and its tests compile natively. On WebAssembly `export` converts them
//! from and to the generated bindings, which moves their fields.

use alloc::string::String;
use alloc::vec::Vec;

use image_reference::Reference;

/// A container image reference in the normal form of the container runtimes.
///
/// Compare field by field: equal fields name the same image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The reference as the pod spells it, for messages. Never judge by it.
    pub original: String,
    /// Host, with its port if it has one, in lower case: `docker.io` for `nginx`.
    pub registry: String,
    /// Path below the registry: `library/nginx` for `nginx`.
    pub repository: String,
    /// Tag: `latest` for `nginx`. None where the reference has only a digest. A runtime ignores a tag beside
    /// a digest.
    pub tag: Option<String>,
    /// `sha256:` and 64 digits, or another algorithm.
    pub digest: Option<String>,
}

impl Image {
    /// Returns the fields that are compared, for [`Patterns::first_match`](crate::Patterns::first_match) and
    /// its like.
    pub fn reference(&self) -> Reference<'_> {
        Reference {
            registry: &self.registry,
            repository: &self.repository,
            tag: self.tag.as_deref(),
            digest: self.digest.as_deref(),
        }
    }
}

/// The facts that all images of a review share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Namespace of the pod; empty if the review names none.
    pub namespace: String,
    /// The pod's `*.image-policy.k8s.io/*` annotations, sorted by key. The author of the pod writes them:
    /// they prove nothing.
    pub annotations: Vec<(String, String)>,
}

impl Context {
    /// Returns the value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

/// The outcome of one policy for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The rule applies and is satisfied.
    Allow,
    /// The rule applies and is violated: one denial in force denies the pod.
    Deny,
    /// The rule does not apply: another policy must allow the image.
    Abstain,
}

/// The answer of one policy for one image: made by [`allow`], [`deny`] and [`abstain`].
///
/// ```
/// use image_policy::{Outcome, deny};
///
/// let decision = deny("untrusted-registry", "registry docker.io is not trusted")
///     .annotate("pattern", "docker.io/**")
///     .warn("docker.io has rate limits");
/// assert_eq!(decision.outcome, Outcome::Deny);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Allow, deny or abstain.
    pub outcome: Outcome,
    /// Short and stable: 1 to 63 characters of `a-z`, `0-9` and `-`. Metrics and reports count by it. Any
    /// other code is a malfunction.
    pub code: String,
    /// One line for the person who reads the answer of kubectl, at most 1024 bytes. The host adds the image
    /// and the policy's name.
    pub reason: String,
    /// At most 32 audit annotations. A key has at most 63 characters of `A-Za-z0-9-_.`, a value at most 1024
    /// bytes.
    pub audit_annotations: Vec<(String, String)>,
    /// At most 32 lines for the client, of 1024 bytes each, also when the pod is allowed.
    pub warnings: Vec<String>,
}

impl Decision {
    fn new(outcome: Outcome, code: String, reason: String) -> Decision {
        Decision { outcome, code, reason, audit_annotations: Vec::new(), warnings: Vec::new() }
    }

    /// Adds an audit annotation.
    #[must_use]
    pub fn annotate(mut self, key: impl Into<String>, value: impl Into<String>) -> Decision {
        self.audit_annotations.push((key.into(), value.into()));
        self
    }

    /// Adds a line for the client.
    #[must_use]
    pub fn warn(mut self, line: impl Into<String>) -> Decision {
        self.warnings.push(line.into());
        self
    }
}

/// Returns the decision that the rule applies and is satisfied. Allow only what the rule has looked at.
pub fn allow(code: impl Into<String>, reason: impl Into<String>) -> Decision {
    Decision::new(Outcome::Allow, code.into(), reason.into())
}

/// Returns the decision that the rule applies and is violated. A good reason says what to write instead.
pub fn deny(code: impl Into<String>, reason: impl Into<String>) -> Decision {
    Decision::new(Outcome::Deny, code.into(), reason.into())
}

/// Returns the decision that the rule does not apply.
pub fn abstain(code: impl Into<String>, reason: impl Into<String>) -> Decision {
    Decision::new(Outcome::Abstain, code.into(), reason.into())
}

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// JSON Pointer into the settings: `/allow/3`. The empty text is the settings as a whole.
    pub pointer: String,
    /// The mistake, and what to write, in one line.
    pub message: String,
    /// Place in the text that `pointer` names, for a setting that is a text in a language of its own.
    pub position: Option<TextPosition>,
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPosition {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}
