//! Generations as they are recorded, shown and compared: their content, and the time and cause of their
//! publication. Pure.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{
    FailurePolicy, Grants, HostLimits, Mode, Placement, PolicyLimits, PolicyName, Rules, Scope,
};
use crate::policy::NotLoaded;
use crate::telemetry::timestamp;

/// Time and cause of a generation's publication, and its number in the order of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Number, which only grows, also across restarts. The first is 1; 0 is for a set that is not in force.
    pub number: u64,
    /// Time at which the generation came into force, by the machine's clock.
    #[serde(with = "timestamp")]
    pub published: SystemTime,
    /// Cause of the publication.
    pub cause: Cause,
}

impl Publication {
    /// Publication of a set that is not in force.
    pub const NONE: Publication =
        Publication { number: 0, published: SystemTime::UNIX_EPOCH, cause: Cause::Start };
}

/// Cause of a generation's publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Cause {
    /// Start of the host, with other content than at its last stop.
    Start,
    /// Change of files while the host ran.
    FilesChanged,
    /// Rollback to the content of an older generation.
    RolledBack {
        /// Number of that generation.
        to: u64,
    },
    /// Release after a rollback: an operator let the files decide again.
    Released,
    /// Approval of a candidate that was held.
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

/// Content of a policy set, without the components themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// Rules that turn decisions into a verdict.
    pub rules: Rules,
    /// Limits of a review and of the host.
    pub limits: HostLimits,
    /// Policies, in order.
    pub policies: Vec<PolicyContent>,
}

/// Policy of a [`Content`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyContent {
    /// Name, unique in the content.
    pub name: PolicyName,
    /// Its place among the policies.
    #[serde(flatten)]
    pub placement: Placement,
    /// Line that follows every denial, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version that was loaded, or the reason why none could be.
    pub loaded: Result<Version, NotLoaded>,
}

/// Component, settings, limits and grants with which a policy was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// SHA-256 of the component, in hexadecimal.
    pub component: String,
    /// Settings that the policy accepted.
    pub settings: Value,
    /// Limits of its instances.
    pub limits: PolicyLimits,
    /// Capabilities that the policy is granted. A record from before this field existed has none.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
}

impl Content {
    /// Returns everything that verdicts depend on, as bytes. The bytes are equal on every replica, whatever
    /// the size of its machine.
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
            let PolicyContent { name, placement, message, loaded } = policy;
            let Placement { scope, mode, failure_policy } = placement;
            let message = message.as_deref();
            PolicyIdentity(name, scope, *mode, *failure_policy, loaded.as_ref().ok(), message)
        });
        let limits = &self.limits;
        let limits = (limits.body, limits.images, limits.annotations, limits.review_deadline);
        // Serialising these types cannot fail: their maps have string keys. An empty result would still state
        // nothing false.
        serde_json::to_vec(&Identity(&self.rules, limits, policies.collect())).unwrap_or_default()
    }

    /// Returns true if every policy is loaded.
    pub fn is_whole(&self) -> bool {
        self.policies.iter().all(|policy| policy.loaded.is_ok())
    }

    /// Returns the differences from `before`.
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
        let Rules { mode, unjudged, exempt_namespaces } = &self.rules;
        add(
            None,
            &[
                ("mode", *mode != before.rules.mode),
                ("unjudged", *unjudged != before.rules.unjudged),
                ("exempt.namespaces", *exempt_namespaces != before.rules.exempt_namespaces),
                ("limits", self.limits != before.limits),
            ],
        );
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
            let grants = |version: &Version| version.grants.iter().collect();
            add(
                name,
                &[
                    ("loaded", policy.loaded.is_ok() && old.loaded.is_err()),
                    ("not loaded", policy.loaded.is_err() && old.loaded.is_ok()),
                    ("component", version(|version| version.component.clone().into())),
                    ("settings", version(|version| version.settings.clone())),
                    ("limits", version(limits)),
                    ("capabilities", version(grants)),
                    ("match", policy.placement.scope != old.placement.scope),
                    ("mode", policy.placement.mode != old.placement.mode),
                    ("failurePolicy", policy.placement.failure_policy != old.placement.failure_policy),
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

/// Difference between a generation and the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Changed policy. None stands for a change of the host's rules or limits.
    pub policy: Option<PolicyName>,
    /// `added`, `removed`, or the changed parts.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(grants: &[&str]) -> Content {
        let version = Version {
            component: "c".to_owned(),
            settings: Value::Null,
            limits: PolicyLimits::default(),
            grants: grants.iter().map(|grant| (*grant).to_owned()).collect(),
        };
        let policy = PolicyContent {
            name: PolicyName::try_from("p").unwrap(),
            placement: Placement::default(),
            message: None,
            loaded: Ok(version),
        };
        Content { rules: Rules::default(), limits: HostLimits::default(), policies: vec![policy] }
    }

    #[test]
    fn grants_are_part_of_a_generation() {
        let (none, one, two) = (granted(&[]), granted(&["a"]), granted(&["b", "a"]));
        assert!(none.identity() != one.identity() && one.identity() != two.identity());
        assert_eq!(two.identity(), granted(&["a", "b", "a"]).identity(), "the order does not count");
        let changes = one.changes_since(&none);
        assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["p (capabilities)"]);
        // A record without the field is from a version that granted nothing.
        let read =
            |content: &Content| serde_json::to_value(content).and_then(serde_json::from_value::<Content>);
        assert!(!serde_json::to_string(&none).unwrap().contains("grants"));
        assert_eq!((read(&none).unwrap(), read(&two).unwrap()), (none, two));
    }
}
