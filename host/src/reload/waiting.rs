//! The pending candidate, and why it is not in force.

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

/// A candidate that is not in force.
pub(super) struct Waiting {
    pub(super) set: PolicySet,
    pub(super) summary: CandidateSummary,
}

/// Returns whether `new` would change anything: the verdicts, the limits of the host, or the error that a
/// denial states for a policy that is not loaded.
fn differ(new: &PolicySet, current: &PolicySet) -> bool {
    let errors = |set: &PolicySet| -> Vec<_> {
        set.policies.iter().map(|entry| entry.loaded.as_ref().err().cloned()).collect()
    };
    new.digest() != current.digest() || new.limits != current.limits || errors(new) != errors(current)
}

impl Reloader {
    /// Puts a candidate in force, or keeps it pending. While a file is `unfinished`, the files do not yet
    /// decide about the candidate that is pending.
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
        // A set that denies everything, because the host had no other, is no basis for a comparison.
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

    /// Returns the hold recorded for this candidate, if nobody has approved it and host.yaml lets differences
    /// hold candidates. The reviews that caused the hold may be gone, as after a restart, so the record alone
    /// keeps it.
    fn held(&self, set: &PolicySet) -> Option<CandidateSummary> {
        let held = self.state.as_ref()?.newest()?.held.as_ref()?;
        (held.digest == set.digest() && self.holds()).then(|| held.clone())
    }

    /// Returns the differences if the gate replays reviews, even if there were no reviews to replay.
    fn compared(&self, differences: Differences) -> Option<Differences> {
        self.gate.compares().then_some(differences)
    }

    /// Returns whether host.yaml lets differences hold a candidate.
    fn holds(&self) -> bool {
        self.config.gate.as_ref().is_some_and(|gate| gate.on_difference == OnDifference::Hold)
    }

    /// Records the held candidate.
    fn hold(&mut self) {
        let waiting = self.waiting.as_ref().map(|waiting| &waiting.summary);
        let Some(state) = &mut self.state else { return };
        let before = state.newest().and_then(|newest| newest.held.as_ref());
        let held = match waiting {
            Some(summary) if summary.state == Waits::Held => Some(summary),
            // A hold survives a temporary rejection or a rollback: neither approves the candidate.
            Some(summary) => before.filter(|held| held.digest == summary.digest),
            // The candidate may return as soon as the files can be loaded.
            None if !self.whole => before,
            None => None,
        };
        let held = held.cloned();
        // `report` shows the error.
        let _ = state.amend(|record| record.held = held);
    }

    /// Returns the problem that keeps the files' content from being in force.
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
