//! From a generation that is recorded to a policy set.

use std::time::Instant;

use super::{MALFUNCTIONS, Problem};
use crate::generation::PolicyContent;
use crate::policy::{Entry, PolicySet, Preparer};
use crate::state::{Record, StateDirectory};

/// What a generation was made of, as far as that can be loaded; what cannot malfunctions, and says why.
pub(super) fn set(preparer: &Preparer, state: &StateDirectory, record: &Record, until: Instant) -> PolicySet {
    let known = |policy: &PolicyContent| record.last_good(&policy.name).unwrap_or(policy).clone();
    let policies: Vec<_> = record.content.policies.iter().map(known).collect();
    for policy in &policies {
        if let Ok(version) = &policy.loaded
            && let Some(component) = state.component(&version.component)
        {
            preparer.announce(&component, &version.settings.to_string(), &version.limits);
        }
    }
    let entries = policies.iter().map(|policy| restored(preparer, state, policy, until)).collect();
    PolicySet::new(record.content.rules.clone(), record.content.limits.clone(), entries)
}

/// The policies of a set that could not be loaded again.
pub(super) fn problems(set: &PolicySet) -> Vec<Problem> {
    let missing = set.policies.iter().filter_map(|entry| Some((&entry.name, entry.loaded.as_ref().err()?)));
    missing
        .map(|(name, error)| Problem {
            subject: format!("policy {name}"),
            message: format!("{error} ({MALFUNCTIONS})"),
        })
        .collect()
}

/// One policy as it was recorded.
pub(super) fn restored(
    preparer: &Preparer,
    state: &StateDirectory,
    policy: &PolicyContent,
    until: Instant,
) -> Entry {
    let loaded = policy.loaded.clone().and_then(|version| {
        let component = state.component(&version.component).ok_or_else(|| {
            format!("its component {} is missing in the state directory, or damaged", version.component)
        })?;
        let loaded = preparer.load(&component, &version.settings, &version.limits, until);
        loaded.map_err(|error| error.to_string())
    });
    Entry {
        name: policy.name.clone(),
        scope: policy.scope.clone(),
        mode: policy.mode,
        failure_policy: policy.failure_policy,
        loaded,
    }
}
