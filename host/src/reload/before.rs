//! What a candidate would take the place of.

use std::path::Path;
use std::time::Instant;

use super::candidate::Prepared;
use super::restore;
use crate::config::{Config, PolicyConfig, PolicyName};
use crate::policy::{PolicySet, Preparer};
use crate::reload::history::{Record, StateDirectory};
use crate::reload::watch::Watcher;

/// What stands in for a policy that cannot be loaded.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// Nothing: the policies are loaded to be tried, not to serve.
    Nothing,
    /// The host starts: the last good version, where one was recorded.
    Start(Option<&'a StateDirectory>),
    /// The host runs: what is in force.
    Running(Running<'a>),
}

/// What a candidate of a running host would take the place of.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    /// What is in force.
    pub(super) current: &'a PolicySet,
    /// The configuration of the look before.
    pub(super) config: &'a Config,
    /// The policies that the look before has loaded and that are not in force.
    pub(super) prepared: &'a [Prepared],
    /// The last good versions, where they are recorded.
    pub(super) state: Option<&'a StateDirectory>,
    /// What is known of the files.
    pub(super) watcher: Option<&'a Watcher>,
}

impl<'a> Before<'a> {
    fn watcher(self) -> Option<&'a Watcher> {
        match self {
            Before::Running(Running { watcher, .. }) => watcher,
            _ => None,
        }
    }

    /// Whether a file is being written.
    pub(super) fn is_written(self, path: &Path) -> bool {
        self.watcher().is_some_and(|watcher| watcher.is_written(path))
    }

    /// Whether a file may be half of something, so that an error in it is not reported yet.
    pub(super) fn is_unfinished(self, path: &Path) -> bool {
        self.watcher().is_some_and(|watcher| watcher.is_written(path) || watcher.is_fresh(path))
    }

    /// The newest generation that is recorded.
    pub(super) fn record(self) -> Option<&'a Record> {
        match self {
            Before::Nothing => None,
            Before::Start(state) | Before::Running(Running { state, .. }) => state?.newest(),
        }
    }

    /// Returns what is in force, or at a start what was: None where nothing is known.
    pub(super) fn set(self, preparer: &Preparer, until: Instant) -> Option<PolicySet> {
        match self {
            Before::Nothing => None,
            Before::Start(state) => Some(restore::set(preparer, state?, state?.newest()?, until)),
            Before::Running(Running { current, .. }) => {
                let PolicySet { rules, limits, policies, .. } = current;
                Some(PolicySet::new(rules.clone(), limits.clone(), policies.clone()))
            }
        }
    }

    /// The names of the policies in force, or at a start of those that were.
    fn names(self) -> Vec<&'a PolicyName> {
        match self {
            Before::Running(Running { current, .. }) => {
                current.policies.iter().map(|entry| &entry.name).collect()
            }
            _ => {
                let policies = self.record().map(|record| record.content.policies.iter());
                policies.into_iter().flatten().map(|policy| &policy.name).collect()
            }
        }
    }

    /// The policies in force of which `policies` says nothing, nor did in the look before: those of `policyDirectory`.
    pub(super) fn unmentioned(self, config: &Config) -> Vec<&'a str> {
        let entries =
            |name: &PolicyName, config: &Config| config.policies.iter().any(|policy| policy.name == *name);
        let names = self.names().into_iter().filter(|name| !entries(name, config));
        let names = names.filter(|name| match self {
            Before::Running(Running { config, .. }) => !entries(name, config),
            _ => true,
        });
        names.map(PolicyName::as_str).collect()
    }

    /// The policies in force that are configured no more and whose files were there a moment ago: another file may be
    /// about to take their place.
    pub(super) fn just_removed(self, config: &Config, configured: &[PolicyConfig]) -> Vec<PolicyName> {
        let Some(folder) = config.policy_directory.as_ref().filter(|_| self.watcher().is_some()) else {
            return Vec::new();
        };
        let gone = |name: &PolicyName| configured.iter().all(|policy| policy.name != *name);
        let names = self.names().into_iter().filter(|name| gone(name));
        names.filter(|name| self.is_unfinished(&folder.join(format!("{name}.wasm")))).cloned().collect()
    }
}
