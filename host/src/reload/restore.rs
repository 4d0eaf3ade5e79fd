//! Restores a policy set from a recorded generation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::policy::manifest::{PolicyContent, Version};
use crate::policy::{Compiler, Component, Entry, LoadError, LoadRequest, NotLoaded, Policy, PolicySet};
use crate::problem::{Instead, Problem, Subject};
use crate::reload::history::{Record, StateDirectory};

/// Returns the policy set of a recorded generation. A policy that cannot be loaded malfunctions, with the
/// reason.
pub(super) fn set(compiler: &Compiler, state: &StateDirectory, record: &Record, until: Instant) -> PolicySet {
    let known = |policy: &PolicyContent| record.last_good(&policy.name).unwrap_or(policy).clone();
    let policies: Vec<_> = record.content.policies.iter().map(known).collect();
    let mut components = Components::new();
    let components: Vec<_> = policies.iter().map(|policy| recorded(state, policy, &mut components)).collect();
    let wanted = components.iter().flatten().map(|(version, component)| LoadRequest {
        component,
        settings: &version.settings,
        limits: &version.limits,
        grants: &version.grants,
    });
    let mut loaded = compiler.load_all(&wanted.collect::<Vec<_>>(), until).into_iter();
    let entries = policies.iter().zip(&components).map(|(policy, component)| {
        let loaded = component.as_ref().map_err(RestoreError::clone).and_then(|_| {
            // `load_all` returns one result for each component.
            Ok(loaded.next().unwrap_or(Err(LoadError::Compiling))?)
        });
        entry(policy, loaded)
    });
    let entries = entries.collect();
    PolicySet::new(record.content.rules.clone(), record.content.limits.clone(), entries)
}

/// Returns a problem for each policy of a set that could not be loaded again.
pub(super) fn problems(set: &PolicySet) -> Vec<Problem> {
    let missing = set.policies.iter().filter_map(|entry| Some((&entry.name, entry.loaded.as_ref().err()?)));
    missing
        .map(|(name, error)| Problem::new(Subject::policy(name), error).with_instead(Instead::FailurePolicy))
        .collect()
}

/// Returns one policy as it was recorded.
pub(super) fn restored(
    compiler: &Compiler,
    state: &StateDirectory,
    policy: &PolicyContent,
    until: Instant,
) -> Entry {
    let loaded = recorded(state, policy, &mut Components::new()).and_then(|(version, component)| {
        let Version { settings, limits, grants, .. } = version;
        let request = LoadRequest { component: &component, settings, limits, grants };
        let loaded = compiler.load_all(&[request], until).pop();
        // `load_all` returns one result for each component.
        Ok(loaded.unwrap_or(Err(LoadError::Compiling))?)
    });
    entry(policy, loaded)
}

/// Reason why a recorded policy is not loaded.
#[derive(Clone, Debug, thiserror::Error)]
enum RestoreError {
    /// A policy that was not loaded when it was recorded, for this reason.
    #[error(transparent)]
    NeverLoaded(NotLoaded),
    /// A component, by its digest, that the state directory does not have.
    #[error("its component {0} is missing in the state directory, or damaged")]
    NoComponent(String),
    /// A component that cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The components that were read, by digest.
type Components = HashMap<String, Option<Component>>;

/// Returns the recorded version of a policy, with its component.
fn recorded<'a>(
    state: &StateDirectory,
    policy: &'a PolicyContent,
    components: &mut Components,
) -> Result<(&'a Version, Component), RestoreError> {
    let version = policy.loaded.as_ref().map_err(|why| RestoreError::NeverLoaded(why.clone()))?;
    let component = components.entry(version.component.clone());
    let component = component.or_insert_with(|| state.component(&version.component));
    let component = component.clone();
    let component = component.ok_or_else(|| RestoreError::NoComponent(version.component.clone()))?;
    Ok((version, component))
}

fn entry(policy: &PolicyContent, loaded: Result<Arc<Policy>, RestoreError>) -> Entry {
    Entry {
        name: policy.name.clone(),
        placement: policy.placement.clone(),
        message: policy.message.as_deref().map(Arc::from),
        loaded: loaded.map_err(|error| error.to_string().into()),
    }
}
