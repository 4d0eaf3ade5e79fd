//! A candidate for the next generation: every configured policy, loaded or replaced by its fallback.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::before::{Before, Running};
use super::standing::{because, listed};
use super::{Problem, settings};
use crate::config::{Config, FailurePolicy, Mode, PolicyConfig, PolicyName, Scope};
use crate::fs::{self, FileError};
use crate::limits;
use crate::policy::{
    Component, Entry, LoadError, LoadRequest, NotLoaded, Policy, PolicySet, Preparer, SettingsError, digest,
};
use crate::reload::history::Record;
use crate::review::verdict::{Level, LogLine};
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

/// A loaded policy that is not in force, with its component for the record.
#[derive(Clone)]
pub(super) struct Prepared {
    name: PolicyName,
    pub(super) policy: Arc<Policy>,
    pub(super) component: Component,
}

/// The last rejection of each configured policy, with the digest of the rejected attempt.
#[derive(Default)]
pub struct Refused(BTreeMap<PolicyName, (String, LoadError)>);

impl Candidate {
    /// Returns a set that denies every image because of `problem`, for a host that has no other set to start
    /// with.
    pub fn closed(config: &Config, problem: Problem) -> Candidate {
        let stand_in = stand_in(&problem);
        Candidate {
            set: PolicySet::new(config.rules.clone(), config.limits.clone(), stand_in.into_iter().collect()),
            problems: vec![problem],
            whole: true,
            awaited: Vec::new(),
            prepared: Vec::new(),
        }
    }
}

/// Returns an entry that malfunctions on every image.
fn stand_in(problem: &Problem) -> Option<Entry> {
    Some(Entry {
        name: PolicyName::try_from("policies").ok()?,
        scope: Scope::default(),
        mode: Mode::Enforce,
        failure_policy: FailurePolicy::Fail,
        message: None,
        loaded: Err(problem.to_string().into()),
    })
}

/// Loads every policy that `config` names, and reuses those that are already loaded. Returns the configured
/// set if all of it loaded. Otherwise the candidate keeps the set that `before` has in force: part of a
/// change may be weaker than both the set in force and the whole change, so a change comes into force whole
/// or not at all.
///
/// # Errors
/// Returns an error if the set as a whole may not come into force: `policyDirectory` cannot be read, no
/// policy would be left, or there are more policies than the limit.
pub fn assemble(
    preparer: &Preparer,
    config: &Config,
    before: Before<'_>,
    refused: &mut Refused,
) -> Result<Candidate, Problem> {
    preparer.limit(&config.limits);
    let mut problems = Vec::new();
    let mut configured = configured(config, before, &mut problems)?;
    let mut blockers: Vec<String> = problems.iter().map(|problem| problem.subject.clone()).collect();
    let mut awaited = Vec::new();
    let mut failed = Vec::new();
    let mut prepared = Vec::new();
    let mut entries = Vec::with_capacity(configured.len());
    let until = Instant::now() + patience(before);
    let mut files = Files::default();
    let settings = settings::read(config, &mut configured, before);
    // The component is read even if its settings are unusable, so that its compiled form is kept.
    let found = configured.iter().zip(settings).map(|(policy, settings)| {
        let found = find(config, policy, before, refused, &mut files);
        settings.and(found)
    });
    let found = found.collect();
    for (policy, result) in configured.iter().zip(load(preparer, &configured, found, until)) {
        let loaded = result.and_then(|result| accept(config, policy, result, refused));
        match &loaded {
            Ok((_, new)) => prepared.extend(new.clone()),
            Err(_) if policy.files().any(|file| before.is_unfinished(file)) => {
                awaited.push(policy.name.clone())
            }
            Err(error) => failed.push((policy, error.clone())),
        }
        entries.push(entry(policy, loaded.map(|(policy, _)| policy)));
    }
    preparer.retain(&files.digests());
    refused.0.retain(|name, _| configured.iter().any(|policy| policy.name == *name));
    awaited.extend(before.just_removed(config, &configured));

    let in_force = match failed.is_empty() && awaited.is_empty() && blockers.is_empty() {
        true => None,
        false => before.set(preparer, until),
    };
    let instead = |policy: &PolicyConfig| match (before, &in_force) {
        (Before::Nothing, _) => None,
        (_, None) => Some(MALFUNCTIONS),
        (_, Some(set)) => {
            let entry = set.policies.iter().find(|entry| entry.name == policy.name);
            Some(entry.map_or("it is not in force", |entry| match (&entry.loaded, before) {
                (Err(_), _) => MALFUNCTIONS,
                (Ok(_), Before::Running(_)) => "its last good version stays in force, as it was configured",
                (Ok(_), _) => {
                    "its last good version, from the state directory, is in force as it was configured"
                }
            }))
        }
    };
    for (policy, error) in &failed {
        blockers.push(policy.name.to_string());
        let message = match instead(policy) {
            Some(instead) => because(error, instead),
            None => error.clone(),
        };
        problems.push(Problem { subject: format!("policy {}", policy.name), message });
    }
    if let Before::Nothing = before {
        entries.retain(|entry| entry.loaded.is_ok());
    }
    let set = PolicySet::new(config.rules.clone(), config.limits.clone(), entries);
    let Some(in_force) = in_force else {
        return Ok(Candidate { set, problems, whole: true, awaited, prepared });
    };
    let stays = stays(in_force, &set, before.record(), &blockers);
    if !blockers.is_empty() {
        // The problem stays within the number of problems shown, however many policies fail to load.
        let position = problems.len().min(limits::PROBLEMS.size().saturating_sub(1));
        problems.splice(position..position, held_back(&set, &stays, &blockers));
    }
    Ok(Candidate { set: stays, problems, whole: false, awaited, prepared })
}

/// Returns the part of `in_force` that stays while `configured` is not whole: every rule and every policy,
/// however it changed. A policy of which no version was ever loaded is an exception and follows its
/// configuration, because a changed configuration is the way out of its denials. The exception applies only
/// while every broken policy is of this kind: another broken policy may be the one that replaces it.
fn stays(
    in_force: PolicySet,
    configured: &PolicySet,
    record: Option<&Record>,
    blockers: &[String],
) -> PolicySet {
    let never_good = |name: &PolicyName| record.is_none_or(|record| record.last_good(name).is_none());
    let was_never_good = |entry: &Entry| entry.loaded.is_err() && never_good(&entry.name);
    let alone = blockers.iter().all(|blocker| {
        in_force.policies.iter().any(|entry| entry.name.as_str() == blocker && was_never_good(entry))
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
fn held_back(configured: &PolicySet, stays: &PolicySet, blockers: &[String]) -> Option<Problem> {
    let broken = |name: &PolicyName| blockers.iter().any(|blocker| blocker == name.as_str());
    let mut changes = configured.content().changes_since(&stays.content());
    changes.retain(|change| !change.policy.as_ref().is_some_and(broken));
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    let (changes, blockers) = (changes.join(", "), listed(blockers));
    (!changes.is_empty()).then(|| Problem {
        subject: CHANGE.to_owned(),
        message: format!(
            "all stays as it was as long as {} cannot be loaded, and these changes wait: {} (a change comes into force \
             whole or not at all: mend what is broken, or remove it)",
            blockers,
            text::cut(&changes, CHANGES)
        ),
    })
}

/// Subject of the problem that a change waits.
pub(super) const CHANGE: &str = "change";

/// Size limit of the changes in a message, in bytes.
const CHANGES: usize = 512;

/// Returns the policies of `policies`, then the other components in `policyDirectory`, each named after its
/// file.
fn configured(
    config: &Config,
    before: Before<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<PolicyConfig>, Problem> {
    let mut policies = config.policies.clone();
    if let Some(directory) = &config.policy_directory {
        let subject = || format!("policyDirectory {}", text::path(directory));
        let files = components_in(directory).map_err(|error| Problem {
            subject: subject(),
            message: format!("it cannot be read: {error}"),
        })?;
        let lost = match files.is_empty() && !config.allow_empty {
            true => before.unmentioned(config),
            false => Vec::new(),
        };
        if !lost.is_empty() && !policies.is_empty() {
            problems.push(Problem {
                subject: subject(),
                message: format!(
                    "it has no policy, as if its file system were not mounted, and {} stays in force (mount it, or put \
                     the files there; to have none, remove `policyDirectory` or set `allowEmpty: true`)",
                    listed(&lost)
                ),
            });
        }
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
            message: limits::POLICIES.says(policies.len(), config.limits.policies as u64),
        });
    }
    Ok(policies)
}

fn components_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (number, entry) in std::fs::read_dir(directory)?.enumerate() {
        if number >= limits::DIRECTORY.size() {
            return Err(std::io::Error::other(limits::DIRECTORY.says("", limits::DIRECTORY.default)));
        }
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wasm")) {
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
        if file.extension().is_none_or(|extension| extension != "wasm") {
            problems.push(Problem {
                subject: subject(),
                message: "it is not in force: the name of a policy's file ends in `.wasm`, in lower case; rename it"
                    .to_owned(),
            });
            continue;
        }
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
    PolicyName::nearest(stem).map_or_else(|| "my-policy".to_owned(), |name| name.to_string())
}

/// Returns how long a candidate waits for compilation. The compilation continues afterwards, and a later
/// candidate uses its result.
fn patience(before: Before<'_>) -> Duration {
    match before {
        Before::Nothing => Duration::from_secs(3600),
        // The host does not listen until then. A policy that takes longer malfunctions for a while.
        Before::Start(_) => Duration::from_secs(10),
        Before::Running(_) => Duration::from_secs(10),
    }
}

/// The components that were read, each file once.
#[derive(Default)]
struct Files(HashMap<PathBuf, Result<Component, String>>);

impl Files {
    fn read(
        &mut self,
        config: &Config,
        policy: &PolicyConfig,
        before: Before<'_>,
    ) -> Result<Component, String> {
        if before.is_written(&policy.module) {
            return Err("it is being written".to_owned());
        }
        let read = || {
            let bytes = fs::read(&policy.module, config.limits.module).map_err(|error| match error {
                FileError::TooLarge(size, limit) => LoadError::TooLarge(size, limit).to_string(),
                other => other.to_string(),
            });
            bytes.map(Component::new).map_err(|error| format!("{}: {error}", text::path(&policy.module)))
        };
        self.0.entry(policy.module.clone()).or_insert_with(read).clone()
    }

    fn digests(&self) -> HashSet<String> {
        self.0.values().flatten().map(|component| component.digest.clone()).collect()
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
    before: Before<'_>,
    refused: &Refused,
    files: &mut Files,
) -> Result<Found, String> {
    let component = files.read(config, policy, before)?;
    let settings = policy.settings.to_string();
    let known = |policy, component| Ok(Found::Known(Loaded { policy, component, new: false }));
    if let Some((loaded, in_force)) = unchanged(policy, &component, &settings, before) {
        return known(Ok(Arc::clone(loaded)), (!in_force).then_some(component));
    }
    match refused.of(config, policy, &component, &settings).cloned() {
        Some(error) => known(Err(error), Some(component)),
        None => Ok(Found::New(component)),
    }
}

/// Loads all new components.
fn load(
    preparer: &Preparer,
    configured: &[PolicyConfig],
    found: Vec<Result<Found, String>>,
    until: Instant,
) -> Vec<Result<Loaded, String>> {
    let new = configured.iter().zip(&found).filter_map(|(policy, found)| match found {
        Ok(Found::New(component)) => {
            let PolicyConfig { settings, limits, capabilities: grants, .. } = policy;
            Some(LoadRequest { component, settings, limits, grants })
        }
        _ => None,
    });
    let mut policies = preparer.load_all(&new.collect::<Vec<_>>(), until).into_iter();
    let loaded = found.into_iter().map(|found| {
        Ok(match found? {
            Found::Known(loaded) => loaded,
            Found::New(component) => Loaded {
                // `load_all` returns one result for each component.
                policy: policies.next().unwrap_or(Err(LoadError::Preparing)),
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
    refused: &mut Refused,
) -> Result<(Arc<Policy>, Option<Prepared>), String> {
    let Loaded { policy: result, component, new } = loaded;
    match result {
        Ok(loaded) => {
            refused.0.remove(&policy.name);
            for line in loaded.load_log().iter().filter(|_| new) {
                log(policy, line);
            }
            let prepared =
                |component| Prepared { name: policy.name.clone(), policy: Arc::clone(&loaded), component };
            Ok((Arc::clone(&loaded), component.map(prepared)))
        }
        Err(error) => {
            let message = describe(config, policy, &error);
            if let Some(component) = component.filter(|_| !error.may_pass()) {
                let attempt = attempt_digest(config, policy, &component, &policy.settings.to_string());
                refused.0.insert(policy.name.clone(), (attempt, error));
            }
            Err(message)
        }
    }
}

/// Returns the policy that was loaded before from the same component, settings and limits, and whether it is
/// in force.
fn unchanged<'a>(
    policy: &PolicyConfig,
    component: &Component,
    settings: &str,
    before: Before<'a>,
) -> Option<(&'a Arc<Policy>, bool)> {
    let Before::Running(Running { current, prepared, .. }) = before else { return None };
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

impl Refused {
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
fn describe(config: &Config, policy: &PolicyConfig, error: &LoadError) -> String {
    let LoadError::Settings(errors) = error else {
        return format!("{}: {error}", text::path(&policy.module));
    };
    let line = |error: &SettingsError| {
        format!("{}: {}", config.locate_setting(policy, &error.pointer, error.position), error.message)
    };
    let lines: Vec<_> = errors.iter().take(limits::LIST.size()).map(line).collect();
    lines.join("; ")
}

fn entry(policy: &PolicyConfig, loaded: Result<Arc<Policy>, String>) -> Entry {
    Entry {
        name: policy.name.clone(),
        scope: policy.scope.clone(),
        mode: policy.mode,
        failure_policy: policy.failure_policy,
        message: policy.message.as_deref().map(Arc::from),
        loaded: loaded.map_err(NotLoaded::from),
    }
}

pub(super) const MALFUNCTIONS: &str = "no good version is known, so it malfunctions by its failurePolicy";
