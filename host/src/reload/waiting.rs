//! What waits: a candidate that is not put in force, and why it is not.

use std::time::SystemTime;

use super::standing::because;
use super::{Next, Problem, Reloader};
use crate::config::OnDifference;
use crate::limits;
use crate::policy::PolicySet;
use crate::policy::manifest::Cause;
use crate::reload::gate::{Differences, Ruling};
use crate::reload::history::{CandidateSummary, Waits};
use crate::text;

/// A candidate that is not put in force.
pub(super) struct Waiting {
    pub(super) set: PolicySet,
    pub(super) summary: CandidateSummary,
}

/// Whether anything would change with `new`: its verdicts, the host's limits, or what a denial tells of a policy that is
/// not loaded.
fn differ(new: &PolicySet, current: &PolicySet) -> bool {
    let errors = |set: &PolicySet| -> Vec<_> {
        set.policies.iter().map(|entry| entry.loaded.as_ref().err().cloned()).collect()
    };
    new.digest() != current.digest() || new.limits != current.limits || errors(new) != errors(current)
}

impl Reloader {
    /// Puts a candidate in force, or keeps it waiting. A file that is `unfinished` says nothing yet about the candidate
    /// that waits.
    pub(super) fn settle(&mut self, set: PolicySet, unfinished: bool, cause: Cause) {
        let before = self.waiting.take();
        let current = self.policies.current();
        if !differ(&set, &current) {
            self.closed = false;
            self.waiting = before.filter(|_| unfinished);
            self.hold();
            return;
        }
        let held = self.held(&set);
        // What denies everything, because there was nothing else, judges nothing.
        let in_force = Some(&*current).filter(|_| !self.closed);
        let doubt = self.doubt.clone().filter(|_| self.holds() && in_force.is_some());
        let since = match &before {
            Some(before) if before.set.digest() == set.digest() => before.summary.since,
            _ => held.as_ref().map_or_else(SystemTime::now, |held| held.since),
        };
        let ruling = if self.pinned {
            Err((Waits::Pinned, None, "a rollback is in force".to_owned()))
        } else {
            match self.gate.judge(&set, in_force) {
                Ruling::Swap(differences) => match (held, doubt) {
                    (Some(held), _) => Err((Waits::Held, held.differences, held.why)),
                    (None, Some(doubt)) => Err((Waits::Held, self.compared(differences), doubt)),
                    (None, None) => Ok(self.compared(differences)),
                },
                Ruling::Hold(differences, why) => Err((Waits::Held, self.compared(differences), why)),
                Ruling::Refuse(why) => Err((Waits::Refused, None, why)),
            }
        };
        match ruling {
            Ok(differences) => self.publish(Next { set, cause, differences }),
            Err((state, differences, why)) => {
                let changes = set.content().changes_since(&current.content());
                let digest = set.digest().to_owned();
                let why = text::shown(&why, limits::PROBLEM.size());
                let summary = CandidateSummary { digest, since, state, why, changes, differences };
                self.waiting = Some(Waiting { set, summary });
                self.hold();
            }
        }
    }

    /// A candidate that was held for what it was tried on, and that nobody has approved: those reviews may be forgotten, as
    /// at a restart.
    fn held(&self, set: &PolicySet) -> Option<CandidateSummary> {
        let held = self.state.as_ref()?.newest()?.held.as_ref()?;
        (held.digest == set.digest() && self.holds()).then(|| held.clone())
    }

    /// Differences of a gate that looks for some, also where there was nothing to find them in.
    fn compared(&self, differences: Differences) -> Option<Differences> {
        self.gate.compares().then_some(differences)
    }

    /// Whether host.yaml wants anything to be held.
    fn holds(&self) -> bool {
        self.config.gate.as_ref().is_some_and(|gate| gate.on_difference == OnDifference::Hold)
    }

    /// Records what is held.
    fn hold(&mut self) {
        let waiting = self.waiting.as_ref().map(|waiting| &waiting.summary);
        let Some(state) = &mut self.state else { return };
        let before = state.newest().and_then(|newest| newest.held.as_ref());
        let held = match waiting {
            Some(summary) if summary.state == Waits::Held => Some(summary),
            // A moment in which it is refused, or a rollback, is no leave for it.
            Some(summary) => before.filter(|held| held.digest == summary.digest),
            // The candidate may come again as soon as the files are whole.
            None if !self.whole => before,
            None => None,
        };
        let held = held.cloned();
        // The report tells of it.
        let _ = state.amend(|record| record.held = held);
    }

    /// What keeps files from being in force.
    pub(super) fn waits(&self) -> Option<Problem> {
        let candidate = self.waiting.as_ref().map(|waiting| &waiting.summary);
        let (subject, message) = match candidate {
            _ if self.pinned => (
                "rollback".to_owned(),
                match candidate {
                    None => {
                        "it stays in force whatever files change, until `host rollback --release`".to_owned()
                    }
                    Some(candidate) => format!(
                        "it stays in force, and the files' candidate {} waits, until `host rollback --release`",
                        candidate.digest
                    ),
                },
            ),
            None => return None,
            Some(CandidateSummary { digest, state: Waits::Refused, why, .. }) => (
                format!("candidate {digest}"),
                because(&format!("it is refused: {why}"), "the generation in force stays"),
            ),
            Some(CandidateSummary { digest, why, .. }) => (
                format!("candidate {digest}"),
                because(
                    &format!("it is held until `host approve {digest}`: {why}"),
                    "the generation in force stays",
                ),
            ),
        };
        Some(Problem { subject, message })
    }
}
