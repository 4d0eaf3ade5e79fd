//! Rollback: puts the content of an earlier generation in force again, until files decide again.

use std::time::Instant;

use super::command::CommandError;
use super::in_force::{Basis, InForce, Next};
use super::pending::Pending;
use super::{PATIENCE, restore};
use crate::policy::Compiler;
use crate::policy::manifest::Cause;
use crate::problem::Problem;

/// Puts the content of the generation `to` in force, and returns a description. `found` holds the problems of
/// the last pass.
pub(super) fn begin(
    to: Option<u64>,
    compiler: &Compiler,
    in_force: &mut InForce,
    pending: &mut Pending,
    found: &[Problem],
) -> Result<String, CommandError> {
    let directory = in_force.history.directory().ok_or(CommandError::NoStateDirectory)?;
    let to = match to {
        Some(to) => to,
        None => previous(in_force)?,
    };
    let record = directory.record(to)?;
    if !record.content.is_whole() {
        return Err(CommandError::NotWhole(to));
    }
    let set = restore::set(compiler, directory, &record, Instant::now() + PATIENCE);
    let missing = set.policies.iter().find_map(|entry| Some((&entry.name, entry.loaded.as_ref().err()?)));
    if let Some((policy, why)) = missing {
        let (policy, why) = (policy.to_string(), why.to_string());
        return Err(CommandError::NotRestored { to, policy, why });
    }
    in_force.publish(Next { set, cause: Cause::RolledBack { to }, differences: None }, pending, found);
    Ok(format!("what generation {to} was made of is in force again, until `host rollback --release`"))
}

/// Returns the number of the latest generation before the one in force that was loaded whole and differs from
/// it in content. After a rollback to a generation, only those before that one count.
fn previous(in_force: &InForce) -> Result<u64, CommandError> {
    let current = in_force.current();
    let now = match current.publication().cause {
        Cause::RolledBack { to } => to,
        _ => current.number(),
    };
    let summaries = in_force.history.summaries();
    let mut earlier = summaries.iter().rev().filter(|summary| summary.publication.number < now);
    let previous = earlier.find(|summary| summary.whole && summary.digest != current.digest());
    previous.map(|summary| summary.publication.number).ok_or(CommandError::NoEarlier(now))
}

/// Ends a rollback, so that files decide again.
pub(super) fn end(in_force: &mut InForce) -> Result<(), CommandError> {
    if in_force.basis != Basis::Rollback {
        return Err(CommandError::NoRollback);
    }
    in_force.basis = Basis::Files;
    in_force.history.release();
    Ok(())
}

/// Describes the effect of the end of a rollback.
pub(super) fn released(in_force: &InForce, pending: &Pending) -> String {
    const STAYS: &str = "files decide again, but the generation in force is what was put back";
    match pending.problem(in_force.basis) {
        None if !pending.whole => {
            format!("{STAYS} as long as they cannot be loaded: see `host status`")
        }
        None => "files decide again".to_owned(),
        Some(waits) => format!("{STAYS}: {waits}"),
    }
}
