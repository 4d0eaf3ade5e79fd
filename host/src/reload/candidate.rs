//! A candidate for the next generation: every configured policy loaded, or what stands in for it.

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
    Component, Entry, LoadError, Policy, PolicySet, Preparer, SettingsError, Wanted, digest,
};
use crate::reload::history::Record;
use crate::review::verdict::{Level, LogLine};
use crate::text;

/// A set that could be put in force.
pub struct Candidate {
    /// The configured set where it is whole; otherwise what stays in force.
    pub set: PolicySet,
    /// Whatever is not as configured.
    pub problems: Vec<Problem>,
    /// Whether everything that is configured could be loaded.
    pub(super) whole: bool,
    /// The policies whose files are still being written.
    pub(super) awaited: Vec<PolicyName>,
    /// The policies that were loaded and are not in force.
    pub(super) prepared: Vec<Prepared>,
}

/// A loaded policy that is not in force, with its component for the record.
#[derive(Clone)]
pub(super) struct Prepared {
    name: PolicyName,
    pub(super) policy: Arc<Policy>,
    pub(super) component: Component,
}

/// The last refusal of each configured policy, with the digest of what was refused.
#[derive(Default)]
pub struct Refused(BTreeMap<PolicyName, (String, LoadError)>);

impl Candidate {
    /// A set that denies everything because of `problem`, for a host that has nothing else to start with.
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

/// Loads every policy that `config` names, and takes over those that are loaded already. The result is the configured
/// set if all of it could be loaded. Otherwise it is what `before` has in force: part of a change may be weaker than both
/// what is in force and the whole change, so a change comes into force whole or not at all.
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
    let mut configured = configured(config, before, &mut problems)?;
    let mut blockers: Vec<String> = problems.iter().map(|problem| problem.subject.clone()).collect();
    let mut awaited = Vec::new();
    let mut failed = Vec::new();
    let mut prepared = Vec::new();
    let mut entries = Vec::with_capacity(configured.len());
    let until = Instant::now() + patience(before);
    let mut files = Files::default();
    let settings = settings::read(config, &mut configured, before);
    // The component is read either way, so that its compiled form is kept.
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
        // Not beyond the bound of what is shown, however much cannot be loaded.
        let position = problems.len().min(limits::PROBLEMS.size().saturating_sub(1));
        problems.splice(position..position, held_back(&set, &stays, &blockers));
    }
    Ok(Candidate { set: stays, problems, whole: false, awaited, prepared })
}

/// Returns what stays in force of `in_force` while `configured` is not whole: everything, whatever a policy or a rule is
/// made of. A policy of which no version was ever loaded follows its configuration, which is the way out of its denials,
/// as long as nothing but such policies is broken: what the same change adds may have to take its place.
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

/// Returns the problem that changes wait for what could not be loaded; none where nothing else has changed.
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

/// The subject of the problem that a change waits.
pub(super) const CHANGE: &str = "change";

/// Length of the changes in a message, in bytes.
const CHANGES: usize = 512;

/// The policies of `policies`, then the other components in `policyDirectory`, each named after its file.
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
    /// It is known what becomes of it.
    Known(Loaded),
    /// To be loaded.
    New(Component),
}

/// What became of a component.
struct Loaded {
    policy: Result<Arc<Policy>, LoadError>,
    /// None where the policy is in force already.
    component: Option<Component>,
    /// Whether it was loaded just now.
    new: bool,
}

/// Reads the component of a policy, and looks whether it is known.
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
                new: true,
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

/// Returns the policy that was loaded, and what to keep of it if it is not in force; or why there is none, which is
/// remembered.
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

/// Returns the policy that was loaded from the same before, and whether it is in force.
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
        let same = (loaded.digest(), loaded.settings(), loaded.limits())
            == (component.digest.as_str(), settings, &policy.limits);
        same.then_some((loaded, in_force))
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
        loaded,
    }
}

pub(super) const MALFUNCTIONS: &str = "no good version is known, so it malfunctions by its failurePolicy";
