//! What a candidate would take the place of.

use std::path::Path;

use crate::config::PolicyName;
use crate::policy::{Entry, PolicySet};
use crate::state::StateDirectory;
use crate::watch::Watcher;

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
    /// The candidate before, which waits.
    pub(super) waiting: Option<&'a PolicySet>,
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

    /// Whether a file may be half of something, so that what is wrong with it is not to be told yet.
    pub(super) fn is_unfinished(self, path: &Path) -> bool {
        self.watcher().is_some_and(|watcher| watcher.is_written(path) || watcher.is_fresh(path))
    }

    /// What is in force under a policy's name.
    pub(super) fn in_force(self, name: &PolicyName) -> Option<&'a Entry> {
        let Before::Running(Running { current, .. }) = self else { return None };
        current.policies.iter().find(|entry| entry.name == *name)
    }
}
