//! Policies, and the policy set in force, with a writing end and a reading end.

mod compile;
pub mod manifest;
mod sandbox;
mod stats;
mod load;
mod world;
mod capabilities;
mod audit_only_warning;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

pub use self::compile::cache::Cache;
pub use self::compile::compiler::{Compiler, Component, LoadRequest};
pub use self::compile::confine::{ConfineError, Confinement, Profile, confine, deny_access, filter_calls};
pub use self::compile::scan::ScanError;
pub(crate) use self::compile::worker::{VERB as COMPILE, serve_request};
pub use self::load::{LoadError, Policy, SnapshotError, check};
pub use self::sandbox::SettingsError;
pub use self::sandbox::engine::{Engine, EngineError, Purpose};
pub use self::sandbox::native::digest;
pub(crate) use self::sandbox::{Context, Instance};
pub use self::stats::{PolicyStats, StatsSnapshot};
pub use self::world::World;
pub(crate) use self::world::check_header;
use crate::config::{HostLimits, Placement, PolicyName, Rules};
use crate::limits;
use crate::policy::manifest::{Content, PolicyContent, Publication, Version};
use crate::review::verdict::Malfunction;
use crate::text;

/// Policy of a set: its name, where it applies, how it counts, and the result of loading it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name, unique in the set.
    pub name: PolicyName,
    /// Its place among the policies.
    pub placement: Placement,
    /// Line that follows every denial, escaped.
    pub message: Option<Arc<str>>,
    /// Policy, or the reason why no version of it could be loaded.
    pub loaded: Result<Arc<Policy>, NotLoaded>,
}

/// Reason why no version of a policy could be loaded, in one line. The line is escaped and cut, because every
/// image and record repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "String")]
#[error("{0}")]
pub struct NotLoaded(String);

impl NotLoaded {
    /// Returns the reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for NotLoaded {
    fn from(why: String) -> NotLoaded {
        NotLoaded(text::escape_and_truncate(&why, limits::LOAD_ERROR.size()))
    }
}

impl Policy {
    /// Returns the component, settings, limits and grants with which the policy was loaded.
    pub(crate) fn version(&self) -> Version {
        Version {
            component: self.digest().to_owned(),
            // The same library wrote this JSON.
            settings: serde_json::from_str(self.settings()).unwrap_or_default(),
            limits: self.limits().clone(),
            grants: self.grants().clone(),
        }
    }
}

impl Entry {
    /// Starts a fresh instance.
    pub(crate) fn start(&self, deadline: Duration) -> Result<Instance, Malfunction> {
        match &self.loaded {
            Ok(policy) => policy.start(deadline),
            Err(error) => Err(Malfunction::NotLoaded(error.to_string())),
        }
    }
}

/// Immutable set of the rules and every policy, with its settings.
#[derive(Debug)]
pub struct PolicySet {
    publication: Publication,
    digest: String,
    warnings: Vec<String>,
    /// Rules that turn decisions into a verdict.
    pub rules: Rules,
    /// Limits of a review and of the host.
    pub limits: HostLimits,
    /// Policies, in the order of the configuration.
    pub policies: Vec<Entry>,
}

impl PolicySet {
    /// Returns a set that is not in force yet.
    pub fn new(rules: Rules, limits: HostLimits, policies: Vec<Entry>) -> PolicySet {
        let mut set = PolicySet {
            publication: Publication::NONE,
            digest: String::new(),
            warnings: Vec::new(),
            rules,
            limits,
            policies,
        };
        set.warnings = audit_only_warning::of(&set.rules, &set.policies).into_iter().collect();
        set.digest = digest(&set.content().identity()).chars().take(12).collect();
        set
    }

    /// Returns the set with the publication of the generation that it becomes.
    #[must_use]
    pub fn published(self, publication: Publication) -> PolicySet {
        PolicySet { publication, ..self }
    }

    /// Returns `NUMBER-DIGEST`: the number of the generation on this host, and the digest of its content,
    /// which is the same on every replica.
    pub fn generation(&self) -> String {
        format!("{}-{}", self.number(), self.digest)
    }

    /// Returns the number of its generation; 0 before the set is in force.
    pub fn number(&self) -> u64 {
        self.publication.number
    }

    /// Returns the time and the cause of its publication.
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Returns the digest of everything that its verdicts depend on.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns likely mistakes of the operator, one a line. No warning keeps the set from being in force.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns its content, without the components themselves.
    pub fn content(&self) -> Content {
        let policies = self.policies.iter().map(|entry| PolicyContent {
            name: entry.name.clone(),
            placement: entry.placement.clone(),
            message: entry.message.as_deref().map(str::to_owned),
            loaded: entry.loaded.as_ref().map(|policy| policy.version()).map_err(NotLoaded::clone),
        });
        Content { rules: self.rules.clone(), limits: self.limits.clone(), policies: policies.collect() }
    }
}

/// Writing end: its owner decides which set is in force.
pub struct PolicyStore(Arc<ArcSwap<PolicySet>>);

/// Reading end.
#[derive(Clone)]
pub struct PolicyReader(Arc<ArcSwap<PolicySet>>);

impl PolicyStore {
    /// Puts the first set in force, and returns both ends.
    pub fn new(first: PolicySet) -> (PolicyStore, PolicyReader) {
        let set = Arc::new(ArcSwap::from_pointee(first));
        (PolicyStore(Arc::clone(&set)), PolicyReader(set))
    }

    /// Puts `set` in force, whole, for every review that begins after this call. The call waits for no
    /// review.
    pub fn publish(&mut self, set: PolicySet) {
        self.0.store(Arc::new(set));
    }

    /// Returns the set in force.
    pub fn current(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }
}

impl PolicyReader {
    /// Returns the set in force. A review calls this once and keeps the set to its end.
    pub fn current(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }
}
