//! The pending candidate, and the reason why it is not in force.

use std::time::SystemTime;

use super::candidate::Prepared;
use super::in_force::{Basis, InForce, Next};
use crate::limits;
use crate::policy::PolicySet;
use crate::policy::manifest::Cause;
use crate::problem::{Instead, Problem, Subject};
use crate::reload::gate::{Gate, Ruling};
use crate::reload::history::{CandidateSummary, PendingReason};
use crate::review::differences::Differences;
use crate::text;

/// The result of the last pass that is not in force.
pub(super) struct Pending {
    pub(super) candidate: Option<PendingCandidate>,
    /// Whether the last pass could load everything that is configured.
    pub(super) whole: bool,
    /// Policies that the last pass loaded and that are not in force.
    pub(super) prepared: Vec<Prepared>,
}

/// A candidate that is not in force.
pub(super) struct PendingCandidate {
    pub(super) set: PolicySet,
    pub(super) summary: CandidateSummary,
}

/// The next step for a candidate.
pub(super) enum Step {
    /// None: the candidate changes nothing.
    Nothing,
    /// The candidate comes into force.
    Publish(Next),
    /// The candidate waits.
    Wait(PendingCandidate),
}

/// Returns whether `new` would change anything: the verdicts, the limits of the host, or the error that a
/// denial states for a policy that is not loaded.
fn differ(new: &PolicySet, current: &PolicySet) -> bool {
    let errors = |set: &PolicySet| -> Vec<_> {
        set.policies.iter().map(|entry| entry.loaded.as_ref().err().cloned()).collect()
    };
    new.digest() != current.digest() || new.limits != current.limits || errors(new) != errors(current)
}

/// Decides whether a candidate comes into force. `before` is the candidate that was pending so far.
pub(super) fn settle(
    set: PolicySet,
    cause: Cause,
    before: Option<&PendingCandidate>,
    in_force: &InForce,
    gate: &mut Gate,
) -> Step {
    let current = in_force.current();
    if !differ(&set, &current) {
        return Step::Nothing;
    }
    let held = in_force.held(&set).filter(|_| gate.holds()).cloned();
    let since = match before {
        Some(before) if before.set.digest() == set.digest() => before.summary.since,
        _ => held.as_ref().map_or_else(SystemTime::now, |held| held.since),
    };
    match Decision::of(&set, held, in_force, gate) {
        Decision::Publish(differences) => Step::Publish(Next { set, cause, differences }),
        Decision::Wait(state, differences, why) => {
            let changes = set.content().changes_since(&current.content());
            let digest = set.digest().to_owned();
            let why = text::escape_and_truncate(&why, limits::PROBLEM.size());
            let summary = CandidateSummary { digest, since, state, why, changes, differences };
            Step::Wait(PendingCandidate { set, summary })
        }
    }
}

/// The decision about a candidate, with the differences that it brings.
enum Decision {
    /// The candidate comes into force.
    Publish(Option<Differences>),
    /// The candidate waits, for this reason.
    Wait(PendingReason, Option<Differences>, String),
}

impl Decision {
    /// Decides about a candidate. `held` is the recorded hold of the candidate.
    fn of(set: &PolicySet, held: Option<CandidateSummary>, in_force: &InForce, gate: &mut Gate) -> Decision {
        if in_force.basis == Basis::Rollback {
            return Decision::Wait(PendingReason::Pinned, None, "a rollback is in force".to_owned());
        }
        let current = in_force.current();
        // A set that denies everything, because the host had no other, is no basis for a comparison.
        let current = Some(&*current).filter(|_| in_force.basis != Basis::DenyAll);
        let latest_damage = in_force.latest_damage.clone().filter(|_| gate.holds() && current.is_some());
        let ruling = gate.judge(set, current);
        // No differences are stated unless reviews were compared.
        let compared = |differences| gate.compares().then_some(differences);
        match ruling {
            Ruling::Swap(differences) => match (held, latest_damage) {
                (Some(held), _) => Decision::Wait(PendingReason::Held, held.differences, held.why),
                (None, Some(latest_damage)) => {
                    Decision::Wait(PendingReason::Held, compared(differences), latest_damage)
                }
                (None, None) => Decision::Publish(compared(differences)),
            },
            Ruling::Hold(differences, why) => Decision::Wait(PendingReason::Held, compared(differences), why),
            Ruling::Reject(why) => Decision::Wait(PendingReason::Rejected, None, why),
        }
    }
}

impl Pending {
    /// Returns the summary of the pending candidate.
    pub(super) fn summary(&self) -> Option<&CandidateSummary> {
        self.candidate.as_ref().map(|candidate| &candidate.summary)
    }

    /// Returns whether the gate rejects the pending candidate.
    pub(super) fn is_rejected(&self) -> bool {
        self.summary().is_some_and(|summary| summary.state == PendingReason::Rejected)
    }

    /// Returns the hold to record. `recorded` is the recorded one.
    pub(super) fn hold(&self, recorded: Option<&CandidateSummary>) -> Option<CandidateSummary> {
        let held = match self.summary() {
            Some(summary) if summary.state == PendingReason::Held => Some(summary),
            // A hold survives a temporary rejection or a rollback: neither approves the candidate.
            Some(summary) => recorded.filter(|held| held.digest == summary.digest),
            // The candidate may return as soon as the files can be loaded.
            None if !self.whole => recorded,
            None => None,
        };
        held.cloned()
    }

    /// Returns the problem that keeps the files' content from being in force.
    pub(super) fn problem(&self, basis: Basis) -> Option<Problem> {
        let candidate = self.summary();
        if basis == Basis::Rollback {
            let what = match candidate {
                None => "it stays in force whatever files change, until `host rollback --release`".to_owned(),
                Some(candidate) => format!(
                    "it stays in force, and the files' candidate {} waits, until `host rollback --release`",
                    candidate.digest
                ),
            };
            return Some(Problem::new(Subject::Rollback, what));
        }
        let CandidateSummary { digest, state, why, .. } = candidate?;
        let what = match state {
            PendingReason::Rejected => format!("it is refused: {why}"),
            PendingReason::Held | PendingReason::Pinned => {
                format!("it is held until `host approve {digest}`: {why}")
            }
        };
        Some(Problem::new(Subject::Candidate(digest.clone()), what).with_instead(Instead::Generation))
    }
}
