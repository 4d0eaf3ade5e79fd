//! Policies and the set of them that is in force: written at one end, read at the other.

mod bindings;
mod scan;
mod store;
mod engine;
mod sandbox;
mod native;
mod record;
mod load;
mod snapshot;
mod child;
mod cache;
mod prepare;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;

pub use self::cache::Cache;
pub(crate) use self::child::{VERB as PREPARE, serve_request};
pub use self::engine::{Engine, EngineError, Purpose};
pub(crate) use self::load::check_header;
pub use self::load::{LoadError, Policy, World, check};
pub use self::native::digest;
pub use self::prepare::{Component, Preparer};
pub use self::record::{Record, Seen};
pub use self::sandbox::SettingsError;
pub(crate) use self::sandbox::{Context, Instance};
pub use self::scan::ScanError;
use crate::config::{FailurePolicy, HostLimits, Mode, PolicyLimits, PolicyName, Rules, Scope};
use crate::verdict::Malfunction;

/// A policy's place in a set: what it is called, where it applies, what it counts for, and what became of loading it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, distinct within the set.
    pub name: PolicyName,
    /// The namespaces where it applies.
    pub scope: Scope,
    /// Whether it takes part in the verdict.
    pub mode: Mode,
    /// What its malfunction counts as.
    pub failure_policy: FailurePolicy,
    /// The policy, or why no version of it could be loaded.
    pub loaded: Result<Arc<Policy>, String>,
}

impl Entry {
    /// A fresh instance.
    pub(crate) fn start(&self, deadline: Duration) -> Result<Instance, Malfunction> {
        match &self.loaded {
            Ok(policy) => policy.start(deadline),
            Err(error) => Err(Malfunction::NotLoaded(error.clone())),
        }
    }
}

/// An immutable whole: the rules and every policy, with its settings.
#[derive(Debug)]
pub struct PolicySet {
    number: u64,
    digest: String,
    /// How decisions become a verdict.
    pub rules: Rules,
    /// Bounds of a review and of the host.
    pub limits: HostLimits,
    /// The policies, in the order of the configuration.
    pub policies: Vec<Entry>,
}

impl PolicySet {
    /// A set that is not in force yet.
    pub fn new(rules: Rules, limits: HostLimits, policies: Vec<Entry>) -> PolicySet {
        let digest = content_digest(&rules, &limits, &policies);
        PolicySet { number: 0, digest, rules, limits, policies }
    }

    /// `NUMBER-DIGEST`: the how-manieth set of this process, and the digest of its content, which is the same on every
    /// replica.
    pub fn generation(&self) -> String {
        format!("{}-{}", self.number, self.digest)
    }

    /// Its place in the order of this process; the first published is 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The digest of all that its verdicts depend on.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

fn content_digest(rules: &Rules, limits: &HostLimits, policies: &[Entry]) -> String {
    #[derive(Serialize)]
    struct Content<'a> {
        rules: &'a Rules,
        /// Of the host's limits those that a verdict depends on; the others may differ from replica to replica.
        limits: (u64, usize, u64, Duration),
        policies: Vec<ContentEntry<'a>>,
    }
    #[derive(Serialize)]
    struct ContentEntry<'a> {
        name: &'a str,
        scope: &'a Scope,
        mode: Mode,
        failure_policy: FailurePolicy,
        component: &'a str,
        settings: &'a str,
        limits: Option<&'a PolicyLimits>,
    }
    let policies = policies
        .iter()
        .map(|entry| {
            let loaded = entry.loaded.as_ref().ok();
            ContentEntry {
                name: entry.name.as_str(),
                scope: &entry.scope,
                mode: entry.mode,
                failure_policy: entry.failure_policy,
                component: loaded.map(|policy| policy.digest()).unwrap_or_default(),
                settings: loaded.map(|policy| policy.settings()).unwrap_or_default(),
                limits: loaded.map(|policy| policy.limits()),
            }
        })
        .collect();
    // Serialising these types cannot fail: their maps have string keys. An empty digest would still be no lie.
    let limits = (limits.body, limits.images, limits.annotations, limits.review_deadline);
    let content = serde_json::to_vec(&Content { rules, limits, policies }).unwrap_or_default();
    digest(&content).chars().take(12).collect()
}

/// The writing end: whoever holds it decides what is in force.
pub struct PolicyStore(Arc<ArcSwap<PolicySet>>);

/// The reading end.
#[derive(Clone)]
pub struct PolicyReader(Arc<ArcSwap<PolicySet>>);

impl PolicyStore {
    /// Puts the first set in force.
    pub fn new(mut first: PolicySet) -> (PolicyStore, PolicyReader) {
        first.number = 1;
        let set = Arc::new(ArcSwap::from_pointee(first));
        (PolicyStore(Arc::clone(&set)), PolicyReader(set))
    }

    /// Puts `set` in force, whole, for every review that begins after this. It waits for no review.
    pub fn publish(&mut self, mut set: PolicySet) -> Arc<PolicySet> {
        set.number = self.current().number + 1;
        let set = Arc::new(set);
        self.0.store(Arc::clone(&set));
        set
    }

    /// The set in force.
    pub fn current(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }
}

impl PolicyReader {
    /// The set in force: a review asks once and keeps it to its end.
    pub fn current(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }
}
