//! Loads the configured policies, and reuses those that are already loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Fallback;
use super::sources::{Fetched, SourceError, Sources};
use crate::config::{Config, PolicyConfig, PolicyName, SettingsFileError, SettingsReader};
use crate::fs;
use crate::limits;
use crate::policy::{
    Compiler, Component, Entry, LoadError, LoadRequest, NotLoaded, Policy, SettingsError, digest,
};
use crate::reload::fallback::Running;
use crate::review::verdict::{Level, LogLine};

/// Reason why a configured policy is not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
    /// A component whose file is being written.
    #[error("it is being written")]
    BeingWritten,
    /// A component that cannot be read.
    #[error(transparent)]
    Source(SourceError),
    /// A settings file that cannot be used.
    #[error(transparent)]
    SettingsFile(#[from] SettingsFileError),
    /// Settings that the policy rejects: a line for each error, with its place in host.yaml or the settings
    /// file.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// A component that cannot be loaded, with its path.
    #[error("{0}: {1}")]
    Load(String, Box<LoadError>),
}

/// The result of loading all configured policies.
#[derive(Default)]
pub(super) struct Attempt {
    /// An entry for each configured policy.
    pub(super) entries: Vec<Entry>,
    /// Policies that cannot be loaded.
    pub(super) failed: Vec<(PolicyName, PolicyError)>,
    /// Policies whose files may be incomplete: being written, or changed a moment ago.
    pub(super) awaited: Vec<PolicyName>,
    /// Policies that were loaded and are not in force.
    pub(super) prepared: Vec<Prepared>,
}

/// A loaded policy that is not in force, with its component for the record.
#[derive(Clone)]
pub(in crate::reload) struct Prepared {
    name: PolicyName,
    pub(in crate::reload) policy: Arc<Policy>,
    pub(in crate::reload) component: Component,
}

/// The last rejection of each configured policy, with the digest of the rejected attempt. A file that stays
/// broken is not compiled on every pass.
#[derive(Default)]
pub struct Rejected(BTreeMap<PolicyName, (String, LoadError)>);

impl Attempt {
    /// Loads the policies `configured`, and waits for compilation until the time `until`.
    pub(super) fn new(
        compiler: &Compiler,
        config: &Config,
        mut configured: Vec<PolicyConfig>,
        fallback: Fallback<'_>,
        rejected: &mut Rejected,
        until: Instant,
    ) -> Attempt {
        let mut sources = Sources::default();
        let read = |path: &Path, most: u64| fallback.read_complete(path, || fs::read(path, most));
        let mut reader = SettingsReader::new(config, &read);
        let settings: Vec<_> = configured.iter_mut().map(|policy| reader.add(policy)).collect();
        // The component is read even if its settings are unusable, so that its compiled form is kept.
        let found = configured.iter().zip(settings).map(|(policy, settings)| {
            let found = find(config, policy, fallback, rejected, &mut sources);
            settings.map_err(PolicyError::from).and(found)
        });
        let found = found.collect();
        let mut attempt = Attempt::default();
        for (policy, result) in configured.iter().zip(load(compiler, &configured, found, until)) {
            match result.and_then(|loaded| accept(config, policy, loaded, rejected)) {
                Ok((loaded, new)) => {
                    attempt.prepared.extend(new);
                    attempt.entries.push(entry(policy, Ok(loaded)));
                }
                Err(error) => {
                    attempt.entries.push(entry(policy, Err(error.to_string().into())));
                    let component = policy.module.file().to_owned();
                    let mut files = policy.files_of_settings().chain([component]);
                    match files.any(|file| fallback.is_unfinished(&file)) {
                        true => attempt.awaited.push(policy.name.clone()),
                        false => attempt.failed.push((policy.name.clone(), error)),
                    }
                }
            }
        }
        compiler.retain(&sources.digests());
        rejected.0.retain(|name, _| configured.iter().any(|policy| policy.name == *name));
        attempt.awaited.extend(fallback.just_removed(config, &configured));
        attempt
    }
}

/// A component that was read.
enum Found {
    /// A component with a known result.
    Known(Loaded),
    /// A component that has yet to be loaded.
    New(Component),
}

/// The result of loading a component.
struct Loaded {
    policy: Result<Arc<Policy>, LoadError>,
    /// The component; None if the policy is in force already.
    component: Option<Component>,
    /// Whether this pass loaded it.
    new: bool,
}

/// Reads the component of a policy, and looks up whether it was loaded or rejected before.
fn find(
    config: &Config,
    policy: &PolicyConfig,
    fallback: Fallback<'_>,
    rejected: &Rejected,
    sources: &mut Sources,
) -> Result<Found, PolicyError> {
    let component = match sources.fetch(config, policy, fallback) {
        Fetched::Ready(component) => component,
        Fetched::NotYet => return Err(PolicyError::BeingWritten),
        Fetched::Broken(error) => return Err(PolicyError::Source(error)),
    };
    let settings = policy.settings.to_string();
    let known = |policy, component| Ok(Found::Known(Loaded { policy, component, new: false }));
    if let Some((loaded, in_force)) = unchanged(policy, &component, &settings, fallback) {
        return known(Ok(Arc::clone(loaded)), (!in_force).then_some(component));
    }
    match rejected.of(config, policy, &component, &settings).cloned() {
        Some(error) => known(Err(error), Some(component)),
        None => Ok(Found::New(component)),
    }
}

/// Loads all new components.
fn load(
    compiler: &Compiler,
    configured: &[PolicyConfig],
    found: Vec<Result<Found, PolicyError>>,
    until: Instant,
) -> Vec<Result<Loaded, PolicyError>> {
    let new = configured.iter().zip(&found).filter_map(|(policy, found)| match found {
        Ok(Found::New(component)) => {
            let PolicyConfig { settings, limits, capabilities: grants, .. } = policy;
            Some(LoadRequest { component, settings, limits, grants })
        }
        _ => None,
    });
    let mut policies = compiler.load_all(&new.collect::<Vec<_>>(), until).into_iter();
    let loaded = found.into_iter().map(|found| {
        Ok(match found? {
            Found::Known(loaded) => loaded,
            Found::New(component) => Loaded {
                // `load_all` returns one result for each component.
                policy: policies.next().unwrap_or(Err(LoadError::Compiling)),
                component: Some(component),
                new: true,
            },
        })
    });
    loaded.collect()
}

/// Logs a line that a policy wrote while it was configured. Debug lines are logged as `info`: such lines are
/// few, and they belong to the load.
fn log(policy: &PolicyConfig, line: &LogLine) {
    match line.level {
        Level::Debug | Level::Info => {
            tracing::info!(target: "policy", policy = %policy.name, "{}", line.message);
        }
        Level::Warn => tracing::warn!(target: "policy", policy = %policy.name, "{}", line.message),
        Level::Error => tracing::error!(target: "policy", policy = %policy.name, "{}", line.message),
    }
}

/// Returns the loaded policy, with its component if the policy is not in force. Returns the error otherwise,
/// and records the rejection.
fn accept(
    config: &Config,
    policy: &PolicyConfig,
    loaded: Loaded,
    rejected: &mut Rejected,
) -> Result<(Arc<Policy>, Option<Prepared>), PolicyError> {
    let Loaded { policy: result, component, new } = loaded;
    match result {
        Ok(loaded) => {
            rejected.0.remove(&policy.name);
            for line in loaded.load_log().iter().filter(|_| new) {
                log(policy, line);
            }
            let prepared =
                |component| Prepared { name: policy.name.clone(), policy: Arc::clone(&loaded), component };
            Ok((Arc::clone(&loaded), component.map(prepared)))
        }
        Err(error) => {
            let described = describe(config, policy, &error);
            if let Some(component) = component.filter(|_| !error.may_pass()) {
                let attempt = attempt_digest(config, policy, &component, &policy.settings.to_string());
                rejected.0.insert(policy.name.clone(), (attempt, error));
            }
            Err(described)
        }
    }
}

/// Returns the policy that was loaded before from the same component, settings and limits, and whether it is
/// in force.
fn unchanged<'a>(
    policy: &PolicyConfig,
    component: &Component,
    settings: &str,
    fallback: Fallback<'a>,
) -> Option<(&'a Arc<Policy>, bool)> {
    let Fallback::InForce(Running { current, prepared, .. }) = fallback else { return None };
    let in_force =
        current.policies.iter().filter_map(|entry| Some((&entry.name, entry.loaded.as_ref().ok()?, true)));
    let prepared = prepared.iter().map(|prepared| (&prepared.name, &prepared.policy, false));
    let mut known = in_force.chain(prepared).filter(|(name, ..)| **name == policy.name);
    known.find_map(|(_, loaded, in_force)| {
        let same = (loaded.digest(), loaded.settings(), loaded.limits(), loaded.grants())
            == (component.digest.as_str(), settings, &policy.limits, &policy.capabilities);
        same.then_some((loaded, in_force))
    })
}

impl Rejected {
    /// Returns the error with which the same attempt was rejected before.
    fn of(
        &self,
        config: &Config,
        policy: &PolicyConfig,
        component: &Component,
        settings: &str,
    ) -> Option<&LoadError> {
        let (attempt, error) = self.0.get(&policy.name)?;
        (*attempt == attempt_digest(config, policy, component, settings)).then_some(error)
    }
}

/// Returns the digest of all that a rejection depends on.
fn attempt_digest(config: &Config, policy: &PolicyConfig, component: &Component, settings: &str) -> String {
    let host = (config.limits.prepare_time, config.limits.prepare_memory);
    let terms = (&policy.limits, &policy.capabilities);
    digest(format!("{}\n{settings}\n{terms:?}\n{host:?}", component.digest).as_bytes())
}

/// Describes an error in the settings with its place in host.yaml or the settings file, and any other error
/// with the path of the component.
fn describe(config: &Config, policy: &PolicyConfig, error: &LoadError) -> PolicyError {
    let LoadError::Settings(errors) = error else {
        return PolicyError::Load(policy.module.to_string(), Box::new(error.clone()));
    };
    let line = |error: &SettingsError| {
        format!("{}: {}", config.locate_setting(policy, &error.pointer, error.position), error.message)
    };
    PolicyError::Settings(errors.iter().take(limits::LIST.size()).map(line).collect())
}

fn entry(policy: &PolicyConfig, loaded: Result<Arc<Policy>, NotLoaded>) -> Entry {
    Entry {
        name: policy.name.clone(),
        placement: policy.placement.clone(),
        message: policy.message.as_deref().map(Arc::from),
        loaded,
    }
}
