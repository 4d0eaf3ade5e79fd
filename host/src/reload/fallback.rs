//! The fallback for policies that cannot be loaded.

use std::path::Path;
use std::time::Instant;

use super::candidate::Prepared;
use super::restore;
use crate::config::{Config, PolicyConfig, PolicyName};
use crate::policy::{Compiler, PolicySet};
use crate::reload::history::{Record, StateDirectory};
use crate::reload::watch::Watcher;

/// The fallback for a policy that cannot be loaded.
#[derive(Clone, Copy)]
pub enum Fallback<'a> {
    /// No fallback: the policies are loaded for a trial, not to serve.
    None,
    /// The host starts: the last good version, if one was recorded.
    LastGood(Option<&'a StateDirectory>),
    /// The host runs: the set in force.
    InForce(Running<'a>),
}

/// The state of a running host that a candidate would replace.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    /// The set in force.
    pub(super) current: &'a PolicySet,
    /// The configuration of the previous pass.
    pub(super) config: &'a Config,
    /// Policies that the previous pass loaded and that are not in force.
    pub(super) prepared: &'a [Prepared],
    /// The record of the last good versions, if there is a state directory.
    pub(super) state: Option<&'a StateDirectory>,
    /// The state of the watched files.
    pub(super) watcher: Option<&'a Watcher>,
}

impl<'a> Fallback<'a> {
    fn watcher(self) -> Option<&'a Watcher> {
        match self {
            Fallback::InForce(Running { watcher, .. }) => watcher,
            _ => None,
        }
    }

    /// Reads a file. Returns None if the file is being written.
    pub(super) fn read_complete<T>(self, file: &Path, read: impl FnOnce() -> T) -> Option<T> {
        match self.watcher() {
            Some(watcher) => watcher.read_complete(&[file], read),
            None => Some(read()),
        }
    }

    /// Returns whether a file may be incomplete, so that an error in it is not reported yet.
    pub(super) fn is_unfinished(self, path: &Path) -> bool {
        self.watcher().is_some_and(|watcher| watcher.is_written(path) || watcher.is_fresh(path))
    }

    /// Returns the newest recorded generation.
    pub(super) fn record(self) -> Option<&'a Record> {
        match self {
            Fallback::None => None,
            Fallback::LastGood(state) | Fallback::InForce(Running { state, .. }) => state?.newest(),
        }
    }

    /// Returns the set in force, or at a start the last recorded one. Returns None if no set is known.
    pub(super) fn set(self, compiler: &Compiler, until: Instant) -> Option<PolicySet> {
        match self {
            Fallback::None => None,
            Fallback::LastGood(state) => Some(restore::set(compiler, state?, state?.newest()?, until)),
            Fallback::InForce(Running { current, .. }) => {
                let PolicySet { rules, limits, policies, .. } = current;
                Some(PolicySet::new(rules.clone(), limits.clone(), policies.clone()))
            }
        }
    }

    /// Returns the names of the policies in force, or at a start of those in the newest record.
    fn names(self) -> Vec<&'a PolicyName> {
        match self {
            Fallback::InForce(Running { current, .. }) => {
                current.policies.iter().map(|entry| &entry.name).collect()
            }
            _ => {
                let policies = self.record().map(|record| record.content.policies.iter());
                policies.into_iter().flatten().map(|policy| &policy.name).collect()
            }
        }
    }

    /// Returns the policies in force that `policies` names neither now nor in the previous pass. Such
    /// policies came from `policyDirectory`.
    pub(super) fn unmentioned(self, config: &Config) -> Vec<&'a str> {
        let entries =
            |name: &PolicyName, config: &Config| config.policies.iter().any(|policy| policy.name == *name);
        let names = self.names().into_iter().filter(|name| !entries(name, config));
        let names = names.filter(|name| match self {
            Fallback::InForce(Running { config, .. }) => !entries(name, config),
            _ => true,
        });
        names.map(PolicyName::as_str).collect()
    }

    /// Returns the policies in force that are no longer configured and whose files were removed a moment ago.
    /// Another file may be about to replace such a file.
    pub(super) fn just_removed(self, config: &Config, configured: &[PolicyConfig]) -> Vec<PolicyName> {
        let Some(folder) = config.policy_directory.as_ref().filter(|_| self.watcher().is_some()) else {
            return Vec::new();
        };
        let gone = |name: &PolicyName| configured.iter().all(|policy| policy.name != *name);
        let names = self.names().into_iter().filter(|name| gone(name));
        names.filter(|name| self.is_unfinished(&folder.join(format!("{name}.wasm")))).cloned().collect()
    }
}
