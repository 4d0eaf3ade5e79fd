//! Generations as they are recorded, shown and compared: what one is made of, when and why it came. Pure.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{FailurePolicy, HostLimits, Mode, PolicyLimits, PolicyName, Rules, Scope};
use crate::telemetry::timestamp;

/// When and why a generation came into force, and its place in the order of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Numbers only grow, across restarts too; the first is 1, and 0 is of what is not in force.
    pub number: u64,
    /// When it came into force, by the machine's clock.
    #[serde(with = "timestamp")]
    pub published: SystemTime,
    /// Why.
    pub cause: Cause,
}

impl Publication {
    /// Of a set that is not in force.
    pub const NONE: Publication =
        Publication { number: 0, published: SystemTime::UNIX_EPOCH, cause: Cause::Start };
}

/// Why a generation came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Cause {
    /// The host started, with other content than it had when it stopped.
    Start,
    /// Files changed while it ran.
    FilesChanged,
    /// Someone put back what an older generation was made of.
    RolledBack {
        /// The number of that generation.
        to: u64,
    },
    /// Someone let the files decide again, after a rollback.
    Released,
    /// Someone approved a candidate that was held.
    Approved,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Start => f.write_str("start"),
            Cause::FilesChanged => f.write_str("files changed"),
            Cause::RolledBack { to } => write!(f, "rolled back to generation {to}"),
            Cause::Released => f.write_str("released after a rollback"),
            Cause::Approved => f.write_str("approved"),
        }
    }
}

/// All that a policy set is made of, but for the components themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// How decisions become a verdict.
    pub rules: Rules,
    /// Bounds of a review and of the host.
    pub limits: HostLimits,
    /// The policies, in order.
    pub policies: Vec<PolicyContent>,
}

/// A policy of a [`Content`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyContent {
    /// Distinct in a content.
    pub name: PolicyName,
    /// Where it applies.
    pub scope: Scope,
    /// Whether it takes part in the verdict.
    pub mode: Mode,
    /// What its malfunction counts as.
    pub failure_policy: FailurePolicy,
    /// One line that follows every denial, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was loaded, or why nothing could be.
    pub loaded: Result<Version, String>,
}

/// What a policy was loaded from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// SHA-256 of the component, in hexadecimal.
    pub component: String,
    /// The settings that it took.
    pub settings: Value,
    /// Bounds of its instances.
    pub limits: PolicyLimits,
}

impl Content {
    /// All that verdicts depend on, as bytes: the same on every replica, whatever the size of its machine.
    pub(crate) fn identity(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Identity<'a>(&'a Rules, (u64, usize, u64, std::time::Duration), Vec<PolicyIdentity<'a>>);
        #[derive(Serialize)]
        struct PolicyIdentity<'a>(
            &'a PolicyName,
            &'a Scope,
            Mode,
            FailurePolicy,
            Option<&'a Version>,
            #[serde(skip_serializing_if = "Option::is_none")] Option<&'a str>,
        );
        let policies = self.policies.iter().map(|policy| {
            let PolicyContent { name, scope, mode, failure_policy, message, loaded } = policy;
            let message = message.as_deref();
            PolicyIdentity(name, scope, *mode, *failure_policy, loaded.as_ref().ok(), message)
        });
        let limits = &self.limits;
        let limits = (limits.body, limits.images, limits.annotations, limits.review_deadline);
        // Serialising these types cannot fail: their maps have string keys. No bytes would still be no lie.
        serde_json::to_vec(&Identity(&self.rules, limits, policies.collect())).unwrap_or_default()
    }

    /// Whether every policy is loaded.
    pub fn is_whole(&self) -> bool {
        self.policies.iter().all(|policy| policy.loaded.is_ok())
    }

    /// In what it differs from `before`.
    pub fn changes_since(&self, before: &Content) -> Vec<Change> {
        let named = |content: &Content, name: &PolicyName| {
            content.policies.iter().find(|policy| policy.name == *name).cloned()
        };
        let mut changes = Vec::new();
        let mut add = |policy: Option<&PolicyName>, what: &[(&'static str, bool)]| {
            let what: Vec<String> =
                what.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect();
            if !what.is_empty() {
                changes.push(Change { policy: policy.cloned(), what });
            }
        };
        add(None, &[("rules", self.rules != before.rules), ("limits", self.limits != before.limits)]);
        for policy in &self.policies {
            let name = Some(&policy.name);
            let Some(old) = named(before, &policy.name) else {
                add(name, &[("added", true)]);
                continue;
            };
            let version = |of: fn(&Version) -> Value| {
                let of = |policy: &PolicyContent| policy.loaded.as_ref().ok().map(of);
                of(policy).is_some() && of(&old).is_some() && of(policy) != of(&old)
            };
            let limits = |version: &Version| serde_json::to_value(&version.limits).unwrap_or_default();
            add(
                name,
                &[
                    ("loaded", policy.loaded.is_ok() && old.loaded.is_err()),
                    ("not loaded", policy.loaded.is_err() && old.loaded.is_ok()),
                    ("component", version(|version| version.component.clone().into())),
                    ("settings", version(|version| version.settings.clone())),
                    ("limits", version(limits)),
                    ("match", policy.scope != old.scope),
                    ("mode", policy.mode != old.mode),
                    ("failurePolicy", policy.failure_policy != old.failure_policy),
                    ("message", policy.message != old.message),
                ],
            );
        }
        for old in before.policies.iter().filter(|old| named(self, &old.name).is_none()) {
            add(Some(&old.name), &[("removed", true)]);
        }
        changes
    }
}

/// In what a generation differs from the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The policy that has changed; none: it is of the host.
    pub policy: Option<PolicyName>,
    /// `added`, `removed`, or the parts that have changed.
    pub what: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "{policy} ({})", self.what.join(", ")),
            None => f.write_str(&self.what.join(", ")),
        }
    }
}
