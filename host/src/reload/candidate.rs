//! A candidate for the next generation: every configured policy, loaded or replaced by its fallback.

mod load;
mod sources;

use std::time::{Duration, Instant};

use self::load::Attempt;
pub(super) use self::load::Prepared;
pub use self::load::Rejected;
use super::fallback::Fallback;
use crate::config::{Config, FailurePolicy, Mode, Placement, PolicyName, Scope};
use crate::limits;
use crate::policy::{Compiler, Entry, PolicySet};
use crate::problem::{Instead, Problem, Subject, listed};
use crate::reload::history::Record;
use crate::text;

/// A policy set that may come into force.
pub struct Candidate {
    /// The configured set if all of it loaded or there is nothing to fall back on; otherwise the set that
    /// stays in force.
    pub set: PolicySet,
    /// Every deviation from the configuration.
    pub problems: Vec<Problem>,
    /// Whether `set` is the configured set, not the one that stays in force.
    pub(super) whole: bool,
    /// Policies whose files may be incomplete: being written, changed a moment ago, or just removed.
    pub(super) awaited: Vec<PolicyName>,
    /// Policies that were loaded and are not in force.
    pub(super) prepared: Vec<Prepared>,
}

impl Candidate {
    /// Returns a set that does not depend on files.
    pub(super) fn fixed(set: PolicySet, problems: Vec<Problem>) -> Candidate {
        Candidate { set, problems, whole: true, awaited: Vec::new(), prepared: Vec::new() }
    }

    /// Returns a set that denies every image because of `problem`, for a host that has no other set to start
    /// with.
    pub fn closed(config: &Config, problem: Problem) -> Candidate {
        let stand_in = stand_in(&problem);
        let set = PolicySet::new(config.rules.clone(), config.limits.clone(), stand_in.into_iter().collect());
        Candidate::fixed(set, vec![problem])
    }
}

/// Returns an entry that malfunctions on every image.
fn stand_in(problem: &Problem) -> Option<Entry> {
    Some(Entry {
        name: PolicyName::try_from("policies").ok()?,
        placement: Placement {
            scope: Scope::default(),
            mode: Mode::Enforce,
            failure_policy: FailurePolicy::Fail,
        },
        message: None,
        loaded: Err(problem.to_string().into()),
    })
}

/// Loads every policy that `config` names, and reuses those that are already loaded. Returns the configured
/// set if all of it loaded. Otherwise the candidate keeps the set of `fallback`: part of a change may be
/// weaker than both the set in force and the whole change, so a change comes into force whole or not at all.
///
/// # Errors
/// Returns an error if the set as a whole may not come into force: `policyDirectory` cannot be read, no
/// policy would be left, or there are more policies than the limit.
pub fn assemble(
    compiler: &Compiler,
    config: &Config,
    fallback: Fallback<'_>,
    rejected: &mut Rejected,
) -> Result<Candidate, Problem> {
    compiler.limit(&config.limits);
    let (configured, mut problems) = sources::configured(config, fallback)?;
    let until = Instant::now() + patience(fallback);
    let attempt = Attempt::new(compiler, config, configured, fallback, rejected, until);
    let Attempt { mut entries, failed, awaited, prepared } = attempt;

    let mut blockers: Vec<Subject> = problems.iter().map(|problem| problem.subject.clone()).collect();
    let in_force = match failed.is_empty() && awaited.is_empty() && blockers.is_empty() {
        true => None,
        false => fallback.set(compiler, until),
    };
    for (name, error) in &failed {
        let subject = Subject::policy(name);
        blockers.push(subject.clone());
        let instead = instead(fallback, in_force.as_ref(), name);
        problems.push(Problem::new(subject, error).with_instead(instead));
    }
    if let Fallback::None = fallback {
        entries.retain(|entry| entry.loaded.is_ok());
    }
    let set = PolicySet::new(config.rules.clone(), config.limits.clone(), entries);
    let Some(in_force) = in_force else {
        return Ok(Candidate { set, problems, whole: true, awaited, prepared });
    };
    let stays = stays(in_force, &set, fallback.record(), &blockers);
    if !blockers.is_empty() {
        // The problem stays within the number of problems shown, however many policies fail to load.
        let position = problems.len().min(limits::PROBLEMS.size().saturating_sub(1));
        problems.splice(position..position, held_back(&set, &stays, &blockers));
    }
    Ok(Candidate { set: stays, problems, whole: false, awaited, prepared })
}

/// Returns the replacement of a policy that cannot be loaded. `in_force` is the set of the fallback.
fn instead(fallback: Fallback<'_>, in_force: Option<&PolicySet>, name: &PolicyName) -> Option<Instead> {
    let in_force = match (fallback, in_force) {
        (Fallback::None, _) => return None,
        (_, None) => return Some(Instead::FailurePolicy),
        (_, Some(in_force)) => in_force,
    };
    let entry = in_force.policies.iter().find(|entry| entry.name == *name);
    Some(entry.map_or(Instead::Nothing, |entry| match (&entry.loaded, fallback) {
        (Err(_), _) => Instead::FailurePolicy,
        (Ok(_), Fallback::InForce(_)) => Instead::LastGood,
        (Ok(_), _) => Instead::RecordedLastGood,
    }))
}

/// Returns the part of `in_force` that stays while `configured` is not whole: every rule and every policy,
/// however it changed. A policy of which no version was ever loaded is an exception and follows its
/// configuration, because a changed configuration is the way out of its denials. The exception applies only
/// while every broken policy is of this kind: another broken policy may be the one that replaces it.
fn stays(
    in_force: PolicySet,
    configured: &PolicySet,
    record: Option<&Record>,
    blockers: &[Subject],
) -> PolicySet {
    let never_good = |name: &PolicyName| record.is_none_or(|record| record.last_good(name).is_none());
    let was_never_good = |entry: &Entry| entry.loaded.is_err() && never_good(&entry.name);
    let alone = blockers.iter().all(|blocker| {
        in_force.policies.iter().any(|entry| blocker.is_policy(entry.name.as_str()) && was_never_good(entry))
    });
    let entries = in_force.policies.into_iter().map(|entry| {
        let follows = alone && was_never_good(&entry);
        let configured = configured.policies.iter().find(|other| follows && other.name == entry.name);
        configured.cloned().unwrap_or(entry)
    });
    PolicySet::new(in_force.rules, in_force.limits, entries.collect())
}

/// Returns the problem that changes wait for policies that cannot be loaded. Returns None if nothing else
/// changed.
fn held_back(configured: &PolicySet, stays: &PolicySet, blockers: &[Subject]) -> Option<Problem> {
    let broken = |name: &PolicyName| blockers.iter().any(|blocker| blocker.is_policy(name.as_str()));
    let mut changes = configured.content().changes_since(&stays.content());
    changes.retain(|change| !change.policy.as_ref().is_some_and(broken));
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    let blockers: Vec<_> = blockers.iter().map(Subject::name).collect();
    let (changes, blockers) = (changes.join(", "), listed(&blockers));
    (!changes.is_empty()).then(|| {
        let what = format!(
            "all stays as it was as long as {blockers} cannot be loaded, and these changes wait: {}",
            text::truncate(&changes, CHANGES)
        );
        Problem::new(Subject::Change, what)
            .with_remedy("a change comes into force whole or not at all: mend what is broken, or remove it")
    })
}

/// Size limit of the changes in a message, in bytes.
const CHANGES: usize = 512;

/// Returns how long a candidate waits for compilation. The compilation continues afterwards, and a later
/// candidate uses its result.
fn patience(fallback: Fallback<'_>) -> Duration {
    match fallback {
        Fallback::None => Duration::from_secs(3600),
        // The host does not listen until then. A policy that takes longer malfunctions for a while.
        Fallback::LastGood(_) => Duration::from_secs(10),
        Fallback::InForce(_) => Duration::from_secs(10),
    }
}
