//! The generation in force, with its TLS material, its decision log and its record.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::pending::Pending;
use super::{PATIENCE, restore};
use crate::limits;
use crate::policy::manifest::{Cause, Content, Publication};
use crate::policy::{Compiler, Component, PolicySet, PolicyStore};
use crate::problem::Problem;
use crate::reload::history::{CandidateSummary, History, Record, Summary};
use crate::review::differences::Differences;
use crate::telemetry::decision_log::DecisionLog;
use crate::tls::{Material, TlsStore};

/// The generation in force.
pub(super) struct InForce {
    pub(super) policies: PolicyStore,
    pub(super) tls: TlsStore,
    pub(super) material: Material,
    pub(super) decision_log: DecisionLog,
    pub(super) history: History,
    pub(super) basis: Basis,
    /// Reason why it is unknown whether a candidate was held when the previous process ended.
    pub(super) latest_damage: Option<String>,
}

/// The basis of the generation in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Files, which decide about the next generation.
    Files,
    /// A rollback: files decide nothing until `host rollback --release`.
    Rollback,
    /// No set that could come into force, so everything is denied. The last good versions still count.
    DenyAll,
}

/// A generation that is about to come into force.
pub(super) struct Next {
    pub(super) set: PolicySet,
    pub(super) cause: Cause,
    pub(super) differences: Option<Differences>,
}

impl InForce {
    /// Returns the policy set in force.
    pub(super) fn current(&self) -> Arc<PolicySet> {
        self.policies.current()
    }

    /// Returns the hold recorded for a candidate, if nobody has approved it. The reviews that caused the hold
    /// may be gone, as after a restart, so the record alone keeps it.
    pub(super) fn held(&self, set: &PolicySet) -> Option<&CandidateSummary> {
        self.history.recorded()?.held.as_ref().filter(|held| held.digest == set.digest())
    }

    /// Records the hold of the pending candidate.
    pub(super) fn record_hold(&mut self, pending: &Pending) {
        let recorded = self.history.recorded().and_then(|newest| newest.held.as_ref());
        let held = pending.hold(recorded);
        self.history.hold(held);
    }

    /// Notes that the files' content is in force.
    pub(super) fn confirm(&mut self) {
        if self.basis == Basis::DenyAll {
            self.basis = Basis::Files;
        }
    }

    /// Returns the set in force with the last good versions of those policies that are not loaded yet.
    /// Returns None if nothing changes by that.
    pub(super) fn with_missing(&self, compiler: &Compiler) -> Option<PolicySet> {
        let current = self.current();
        let directory = self.history.directory()?;
        let newest = directory.newest()?;
        if self.basis == Basis::DenyAll || current.policies.iter().all(|entry| entry.loaded.is_ok()) {
            return None;
        }
        let until = Instant::now() + PATIENCE;
        let policies = current.policies.iter().map(|entry| {
            let last_good = entry.loaded.is_err().then(|| newest.last_good(&entry.name)).flatten();
            let restored = last_good.map(|recorded| restore::restored(compiler, directory, recorded, until));
            restored.filter(|restored| restored.loaded.is_ok()).unwrap_or_else(|| entry.clone())
        });
        let set = PolicySet::new(current.rules.clone(), current.limits.clone(), policies.collect());
        (set.digest() != current.digest()).then_some(set)
    }

    /// Puts a generation in force. The generation is recorded first, so that the next start knows every
    /// generation that gave a response. `found` holds the problems of the pass.
    pub(super) fn publish(&mut self, next: Next, pending: &mut Pending, found: &[Problem]) {
        let before = self.current();
        if next.cause != Cause::Start {
            self.latest_damage = None;
        }
        self.basis = match (&next.cause, self.basis) {
            (Cause::RolledBack { .. }, _) | (_, Basis::Rollback) => Basis::Rollback,
            _ => Basis::Files,
        };
        let publication = Publication {
            number: self.history.number_after(before.number()),
            published: SystemTime::now(),
            cause: next.cause,
        };
        let set = next.set.published(publication);
        let mut told = format!("generation {} in force ({})", set.generation(), set.publication().cause);
        if let Some(differences) = &next.differences {
            told.push_str(&format!("; differences: {differences}"));
        }
        let record = self.record(&set, Some(&before.content()), next.differences, pending.whole, found);
        self.history.append(record, pending.take_components(&set));
        tracing::info!("{told}");
        warn(&set);
        self.policies.publish(set);
        pending.candidate = None;
    }

    /// Returns the record of a set. `before` is the content of the generation before it.
    pub(super) fn record(
        &self,
        set: &PolicySet,
        before: Option<&Content>,
        differences: Option<Differences>,
        whole: bool,
        found: &[Problem],
    ) -> Record {
        let content = set.content();
        let known = self.history.recorded();
        let missing = content.policies.iter().filter(|policy| policy.loaded.is_err());
        let remembered = missing.filter_map(|policy| known?.last_good(&policy.name).cloned()).collect();
        let problems = Problem::first(found, limits::RECORDED_PROBLEMS.size());
        let summary = Summary {
            publication: set.publication().clone(),
            digest: set.digest().to_owned(),
            pinned: self.basis == Basis::Rollback,
            whole: content.is_whole(),
            changes: before.map(|before| content.changes_since(before)).unwrap_or_default(),
            differences,
            problems: problems.iter().map(Problem::to_string).collect(),
        };
        // A held candidate is approved neither by a start, nor by a rollback, nor by a change that is only
        // partly loaded.
        let held = match set.publication().cause {
            Cause::Approved => None,
            Cause::FilesChanged | Cause::Released if whole => None,
            Cause::Start | Cause::RolledBack { .. } | Cause::FilesChanged | Cause::Released => {
                known.and_then(|newest| newest.held.clone())
            }
        };
        Record { summary, content, remembered, held }
    }

    /// Returns a problem for each policy of a rollback that could not be loaded again.
    pub(super) fn missing(&self) -> Vec<Problem> {
        match self.basis {
            Basis::Rollback => Problem::first(&restore::problems(&self.current()), limits::PROBLEMS.size()),
            Basis::Files | Basis::DenyAll => Vec::new(),
        }
    }
}

impl Pending {
    /// Removes the policies of `set` from the prepared policies, and returns their components.
    pub(super) fn take_components(&mut self, set: &PolicySet) -> Vec<Component> {
        let taken = self.prepared.extract_if(.., |prepared| {
            let mut loaded = set.policies.iter().filter_map(|entry| entry.loaded.as_ref().ok());
            loaded.any(|policy| Arc::ptr_eq(policy, &prepared.policy))
        });
        taken.map(|prepared| prepared.component).collect()
    }
}

/// Logs the properties of a new set that the operator may not have intended.
pub(super) fn warn(set: &PolicySet) {
    for warning in set.warnings() {
        tracing::warn!("policies: {warning}");
    }
}
