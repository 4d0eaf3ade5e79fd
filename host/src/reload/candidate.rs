//! A candidate for the next generation: every configured policy loaded, or what stands in for it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::before::{Before, Running};
use super::restore::restored;
use super::standing::{because, listed};
use super::{Problem, settings};
use crate::bounds;
use crate::config::{Config, FailurePolicy, Mode, PolicyConfig, PolicyName, Scope};
use crate::file::{self, FileError};
use crate::policy::{
    Component, Entry, LoadError, Policy, PolicySet, Preparer, SettingsError, Wanted, digest,
};
use crate::text;
use crate::verdict::{Level, LogLine};

/// A set that could be put in force.
pub struct Candidate {
    /// The set.
    pub set: PolicySet,
    /// The policies of it that are not as configured.
    pub problems: Vec<Problem>,
    /// The components that were loaded for it.
    pub(super) loaded: Vec<Component>,
    /// The policies whose files are waited for: until then they are as they were.
    pub(super) awaited: Vec<PolicyName>,
}

/// The last refusal of each policy, with the digest of what was refused.
#[derive(Default)]
pub struct Refused(BTreeMap<PolicyName, (String, LoadError)>);

impl Candidate {
    /// A set that denies everything because of `problem`, for a host that has nothing else to start with.
    pub fn closed(config: &Config, problem: Problem) -> Candidate {
        let stand_in = stand_in(&problem);
        Candidate {
            set: PolicySet::new(config.rules.clone(), config.limits.clone(), stand_in.into_iter().collect()),
            problems: vec![problem],
            loaded: Vec::new(),
            awaited: Vec::new(),
        }
    }
}

/// An entry that malfunctions on every image.
fn stand_in(problem: &Problem) -> Option<Entry> {
    Some(Entry {
        name: PolicyName::try_from("policies").ok()?,
        scope: Scope::default(),
        mode: Mode::Enforce,
        failure_policy: FailurePolicy::Fail,
        message: None,
        loaded: Err(problem.to_string()),
    })
}

/// Loads every policy that `config` names. What has not changed since `before` is taken over.
///
/// # Errors
/// The set as a whole may not be put in force: a directory is gone, or no policy would be left.
pub fn assemble(
    preparer: &Preparer,
    config: &Config,
    before: Before<'_>,
    refused: &mut Refused,
) -> Result<Candidate, Problem> {
    preparer.limit(&config.limits);
    let mut problems = Vec::new();
    let mut configured = configured(config, &mut problems)?;
    let mut loaded = Vec::new();
    let mut awaited = Vec::new();
    // Something comes that is not in force yet, and may replace what is configured no more.
    let mut comes = false;
    let mut without = Vec::new();
    let mut entries = Vec::with_capacity(configured.len());
    let mut wanted = HashSet::new();
    let until = Instant::now() + patience(before);
    let settings = settings::read(config, &mut configured, before);
    // The component is read either way, so that its compiled form is kept.
    let found = configured.iter().zip(settings).map(|(policy, settings)| {
        let found = find(config, policy, before, refused, &mut wanted);
        settings.and(found)
    });
    let found = found.collect();
    for (policy, result) in configured.iter().zip(load(preparer, &configured, found, until)) {
        let entry = match result.and_then(|result| accept(config, policy, result, refused)) {
            Ok((accepted, new)) => {
                refused.0.remove(&policy.name);
                loaded.extend(new);
                entry(policy, Ok(accepted))
            }
            Err(_) if policy.files().any(|file| before.is_unfinished(file)) => {
                awaited.push(policy.name.clone());
                let Some(in_force) = before.in_force(&policy.name) else {
                    comes = true;
                    continue;
                };
                in_force.clone()
            }
            Err(error) => {
                let (entry, message) = match instead(preparer, policy, before, &error, until) {
                    Some((entry, instead)) => (entry, because(&error, instead)),
                    None => (None, error),
                };
                problems.push(Problem { subject: format!("policy {}", policy.name), message });
                if entry.as_ref().is_none_or(|entry| entry.loaded.is_err()) {
                    without.push(policy.name.as_str());
                }
                let Some(entry) = entry else { continue };
                entry
            }
        };
        entries.push(entry);
    }
    preparer.retain(&wanted);
    let awaits = matches!(before, Before::Running(Running { watcher: Some(_), .. }));
    let gone = if without.is_empty() && !awaits {
        Vec::new()
    } else {
        not_replaced(preparer, before, &configured, until)
    };
    for gone in gone {
        let file = config.policy_directory.as_ref().map(|folder| folder.join(format!("{}.wasm", gone.name)));
        if !without.is_empty() {
            let message = format!(
                "it is configured no more, and stays in force all the same as long as {} cannot be loaded, which may be \
                 what replaces it",
                listed(&without)
            );
            problems.push(Problem { subject: format!("policy {}", gone.name), message });
        } else if !comes && !file.is_some_and(|file| before.is_unfinished(&file)) {
            continue;
        }
        entries.push(gone);
    }
    let set = PolicySet::new(config.rules.clone(), config.limits.clone(), entries);
    Ok(Candidate { set, problems, loaded, awaited })
}

/// The policies in force, or at a start those that were, that are configured no more. A policy that is renamed by a
/// change, or moved to another file, goes under one name and comes under another: if what comes cannot be loaded, what
/// goes has to stay.
fn not_replaced(
    preparer: &Preparer,
    before: Before<'_>,
    configured: &[PolicyConfig],
    until: Instant,
) -> Vec<Entry> {
    let gone = |name: &PolicyName| configured.iter().all(|policy| policy.name != *name);
    match before {
        Before::Nothing => Vec::new(),
        Before::Running(Running { current, .. }) => {
            let good = current.policies.iter().filter(|entry| entry.loaded.is_ok());
            good.filter(|entry| gone(&entry.name)).cloned().collect()
        }
        Before::Start(state) => {
            let record = state.and_then(|state| Some((state, state.newest()?)));
            let Some((state, record)) = record else { return Vec::new() };
            let gone = record.content.policies.iter().filter(|policy| gone(&policy.name));
            gone.map(|policy| restored(preparer, state, policy, until))
                .filter(|entry| entry.loaded.is_ok())
                .collect()
        }
    }
}

/// The policies of `policies`, then the other components in `policyDirectory`, each named after its file.
fn configured(config: &Config, problems: &mut Vec<Problem>) -> Result<Vec<PolicyConfig>, Problem> {
    let mut policies = config.policies.clone();
    if let Some(directory) = &config.policy_directory {
        let files = components_in(directory).map_err(|error| Problem {
            subject: format!("policyDirectory {}", text::path(directory)),
            message: format!("it cannot be read: {error}"),
        })?;
        policies.extend(bare(config, files, problems));
    }
    if policies.is_empty() && !config.allow_empty {
        return Err(Problem {
            subject: text::path(&config.path),
            message: "no policy is left, and an empty set is put in force only with `allowEmpty: true`"
                .to_owned(),
        });
    }
    if policies.len() > config.limits.policies {
        return Err(Problem {
            subject: text::path(&config.path),
            message: bounds::POLICIES.says(policies.len(), config.limits.policies as u64),
        });
    }
    Ok(policies)
}

fn components_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (number, entry) in std::fs::read_dir(directory)?.enumerate() {
        if number >= bounds::DIRECTORY.size() {
            return Err(std::io::Error::other(bounds::DIRECTORY.says("", bounds::DIRECTORY.default)));
        }
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn bare(config: &Config, files: Vec<PathBuf>, problems: &mut Vec<Problem>) -> Vec<PolicyConfig> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let claimed: Vec<_> = config.policies.iter().map(|policy| (real(&policy.module), &policy.name)).collect();
    let mut policies = Vec::new();
    for file in files {
        let (path, stem) =
            (real(&file), file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default());
        if claimed.iter().any(|(claimed, _)| *claimed == path) {
            continue;
        }
        let subject = || text::path(&file);
        match PolicyName::try_from(stem.as_ref()) {
            Ok(name) if claimed.iter().any(|(_, claimed)| **claimed == name) => problems.push(Problem {
                subject: subject(),
                message: format!(
                    "it is not in force: an entry of `policies` has its name, `{name}`, and another `module`; rename \
                     one of them"
                ),
            }),
            Ok(name) => policies.push(PolicyConfig::bare(name, file)),
            Err(_) => problems.push(Problem {
                subject: subject(),
                message: format!(
                    "it is not in force: `{}` is no policy name; rename it with lower-case letters, digits and `-`, \
                     such as `{}.wasm`",
                    text::cut(&text::printable(&stem), 64),
                    suggestion(&stem)
                ),
            }),
        }
    }
    policies
}

fn suggestion(stem: &str) -> String {
    let name: String = stem
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    match name.trim_matches('-') {
        "" => "my-policy".to_owned(),
        name => name.to_owned(),
    }
}

/// How long a candidate waits for what is being compiled. That goes on afterwards, and a later candidate has it.
fn patience(before: Before<'_>) -> Duration {
    match before {
        Before::Nothing => Duration::from_secs(3600),
        // Until then the host does not listen, and what comes later malfunctions for a while.
        Before::Start(_) => Duration::from_secs(10),
        Before::Running(_) => Duration::from_secs(10),
    }
}

fn component(config: &Config, policy: &PolicyConfig, before: Before<'_>) -> Result<Component, String> {
    if before.is_written(&policy.module) {
        return Err("it is being written".to_owned());
    }
    let bytes = file::read(&policy.module, config.limits.module).map_err(|error| match error {
        FileError::TooLarge(size, limit) => LoadError::TooLarge(size, limit).to_string(),
        other => other.to_string(),
    });
    bytes.map(Component::new).map_err(|error| format!("{}: {error}", text::path(&policy.module)))
}

/// A component that was read.
enum Found {
    /// It is known what becomes of it.
    Known(Loaded),
    /// To be loaded.
    New(Component),
}

/// What became of a component.
struct Loaded {
    policy: Result<Arc<Policy>, LoadError>,
    /// None where the policy is in force already, or waits.
    component: Option<Component>,
}

/// Reads the component of a policy, and looks whether it is known. Its digest is `wanted` from then on.
fn find(
    config: &Config,
    policy: &PolicyConfig,
    before: Before<'_>,
    refused: &Refused,
    wanted: &mut HashSet<String>,
) -> Result<Found, String> {
    let component = component(config, policy, before)?;
    wanted.insert(component.digest.clone());
    let settings = policy.settings.to_string();
    if let Some(loaded) = unchanged(policy, &component, &settings, before) {
        return Ok(Found::Known(Loaded { policy: Ok(Arc::clone(loaded)), component: None }));
    }
    Ok(match refused.of(config, policy, &component, &settings).cloned() {
        Some(error) => Found::Known(Loaded { policy: Err(error), component: Some(component) }),
        None => Found::New(component),
    })
}

/// Loads all that are new.
fn load(
    preparer: &Preparer,
    configured: &[PolicyConfig],
    found: Vec<Result<Found, String>>,
    until: Instant,
) -> Vec<Result<Loaded, String>> {
    let new = configured.iter().zip(&found).filter_map(|(policy, found)| match found {
        Ok(Found::New(component)) => {
            Some(Wanted { component, settings: &policy.settings, limits: &policy.limits })
        }
        _ => None,
    });
    let mut policies = preparer.load_all(&new.collect::<Vec<_>>(), until).into_iter();
    let loaded = found.into_iter().map(|found| {
        Ok(match found? {
            Found::Known(loaded) => loaded,
            Found::New(component) => Loaded {
                // There is one for each.
                policy: policies.next().unwrap_or(Err(LoadError::Preparing)),
                component: Some(component),
            },
        })
    });
    loaded.collect()
}

/// Writes a line that a policy wrote when it was configured. `info` is the least: such lines are few and of the load.
fn log(policy: &PolicyConfig, line: &LogLine) {
    match line.level {
        Level::Debug | Level::Info => {
            tracing::info!(target: "policy", policy = %policy.name, "{}", line.message);
        }
        Level::Warn => tracing::warn!(target: "policy", policy = %policy.name, "{}", line.message),
        Level::Error => tracing::error!(target: "policy", policy = %policy.name, "{}", line.message),
    }
}

/// The policy that was loaded, with its component if it is new; or why there is none, which is remembered.
fn accept(
    config: &Config,
    policy: &PolicyConfig,
    loaded: Loaded,
    refused: &mut Refused,
) -> Result<(Arc<Policy>, Option<Component>), String> {
    match loaded {
        Loaded { policy: Ok(loaded), component } => {
            if component.is_some() {
                for line in loaded.load_log() {
                    log(policy, line);
                }
            }
            Ok((loaded, component))
        }
        Loaded { policy: Err(error), component } => {
            let message = describe(config, policy, &error);
            if let Some(component) = component.filter(|_| !error.may_pass()) {
                let attempt = attempt_digest(config, policy, &component, &policy.settings.to_string());
                refused.0.insert(policy.name.clone(), (attempt, error));
            }
            Err(message)
        }
    }
}

/// What is in force of a policy, or waits, if it would be loaded again from the same.
fn unchanged<'a>(
    policy: &PolicyConfig,
    component: &Component,
    settings: &str,
    before: Before<'a>,
) -> Option<&'a Arc<Policy>> {
    let Before::Running(Running { current, waiting, .. }) = before else { return None };
    let known = [Some(current), waiting].into_iter().flatten().flat_map(|set| &set.policies);
    let mut known =
        known.filter(|entry| entry.name == policy.name).filter_map(|entry| entry.loaded.as_ref().ok());
    known.find(|loaded| {
        (loaded.digest(), loaded.settings(), loaded.limits())
            == (component.digest.as_str(), settings, &policy.limits)
    })
}

impl Refused {
    /// Why the same was refused before.
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

/// Of all that a refusal depends on.
fn attempt_digest(config: &Config, policy: &PolicyConfig, component: &Component, settings: &str) -> String {
    let host = (config.limits.prepare_time, config.limits.prepare_memory);
    digest(format!("{}\n{settings}\n{:?}\n{host:?}", component.digest, policy.limits).as_bytes())
}

/// Describes an error in the settings with its place in host.yaml or the settings file, and any other with the component.
fn describe(config: &Config, policy: &PolicyConfig, error: &LoadError) -> String {
    let LoadError::Settings(errors) = error else {
        return format!("{}: {error}", text::path(&policy.module));
    };
    let line = |error: &SettingsError| {
        format!("{}: {}", config.locate_setting(policy, &error.pointer), error.message)
    };
    let lines: Vec<_> = errors.iter().take(bounds::LIST.size()).map(line).collect();
    lines.join("; ")
}

fn entry(policy: &PolicyConfig, loaded: Result<Arc<Policy>, String>) -> Entry {
    Entry {
        name: policy.name.clone(),
        scope: policy.scope.clone(),
        mode: policy.mode,
        failure_policy: policy.failure_policy,
        message: policy.message.as_deref().map(Arc::from),
        loaded,
    }
}

/// What is in force instead of a policy that cannot be loaded, and words for it; none where nothing is in force.
fn instead(
    preparer: &Preparer,
    policy: &PolicyConfig,
    before: Before<'_>,
    error: &str,
    until: Instant,
) -> Option<(Option<Entry>, &'static str)> {
    let malfunctioning = || entry(policy, Err(error.to_owned()));
    let instead = match before {
        Before::Nothing => return None,
        Before::Running(_) => match before.in_force(&policy.name) {
            Some(running) if running.loaded.is_ok() => {
                (Some(running.clone()), "its last good version stays in force, as it was configured")
            }
            Some(_) => (Some(malfunctioning()), MALFUNCTIONS),
            None => (None, "it is not in force"),
        },
        Before::Start(state) => {
            let recorded = state.and_then(|state| Some((state, state.newest()?.last_good(&policy.name)?)));
            let last_good = recorded.map(|(state, recorded)| restored(preparer, state, recorded, until));
            match last_good.filter(|entry| entry.loaded.is_ok()) {
                Some(last_good) => (
                    Some(last_good),
                    "its last good version, from the state directory, is in force as it was configured",
                ),
                None => (Some(malfunctioning()), MALFUNCTIONS),
            }
        }
    };
    Some(instead)
}

pub(crate) const MALFUNCTIONS: &str = "no good version is known, so it malfunctions by its failurePolicy";
