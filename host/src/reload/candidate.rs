//! A candidate for the next generation: every configured policy loaded, or what stands in for it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Problem;
use crate::bounds;
use crate::config::{Config, FailurePolicy, Mode, PolicyConfig, PolicyName, Scope};
use crate::policy::{Component, Entry, LoadError, Policy, PolicySet, Preparer, digest};
use crate::state::StateDirectory;
use crate::text;
use crate::watch::Watcher;

/// What stands in for a policy that cannot be loaded.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// Nothing: the policies are loaded to be tried, not to serve.
    Nothing,
    /// The host starts: the last good version, where one was kept.
    Start(Option<&'a StateDirectory>),
    /// The host runs: what is in force, and what is known of the files.
    Running(&'a PolicySet, Option<&'a Watcher>),
}

impl Before<'_> {
    /// Whether a file is being written.
    fn is_written(self, path: &Path) -> bool {
        matches!(self, Before::Running(_, Some(watcher)) if watcher.is_written(path))
    }

    /// Whether a file may be half of something, so that what is wrong with it is not to be told yet.
    fn is_unfinished(self, path: &Path) -> bool {
        self.is_written(path) || matches!(self, Before::Running(_, Some(watcher)) if watcher.is_fresh(path))
    }
}

/// A set that could be put in force.
pub struct Candidate {
    /// The set.
    pub set: PolicySet,
    /// The policies of it that are not as configured.
    pub problems: Vec<Problem>,
    /// The policies that were loaded for it.
    pub(super) loaded: Vec<Loaded>,
    /// The policies whose files are waited for: until then they are as they were.
    pub(super) awaited: Vec<PolicyName>,
}

/// A policy that was loaded from its file.
pub(super) struct Loaded {
    pub(super) name: PolicyName,
    pub(super) component: Component,
    pub(super) settings: Value,
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
    let configured = configured(config, before, &mut problems)?;
    let mut loaded = Vec::new();
    let mut awaited = Vec::new();
    // Something comes that is not in force yet, and may replace what is configured no more.
    let mut comes = false;
    let mut left_out = Vec::new();
    let mut entries = Vec::with_capacity(configured.len());
    let mut wanted = HashSet::new();
    let until = Instant::now() + patience(before);
    let mut next = configured.first().map(|policy| component(config, policy, before));
    for (policy, following) in configured.iter().zip(1..) {
        let Some(read) = next.take() else { break };
        next = configured.get(following).map(|policy| component(config, policy, before));
        if let (Some(policy), Some(Ok(next))) = (configured.get(following), &next) {
            let settings = policy.settings.to_string();
            let known = unchanged(policy, next, &settings, before).is_some()
                || refused.of(config, policy, next, &settings).is_some();
            if !known {
                preparer.announce(next, &settings, &policy.limits);
            }
        }
        if let Ok(read) = &read {
            wanted.insert(read.digest.clone());
        }
        let entry = match read.and_then(|read| load(preparer, config, policy, read, before, refused, until)) {
            Ok((entry, new)) => {
                refused.0.remove(&policy.name);
                loaded.extend(new);
                entry
            }
            Err(_) if before.is_unfinished(&policy.module) => {
                awaited.push(policy.name.clone());
                let Some(running) = running(before, &policy.name) else {
                    comes = true;
                    continue;
                };
                running.clone()
            }
            Err(error) => {
                let (entry, message) = match instead(preparer, policy, before, &error, until) {
                    Some((entry, instead)) => (entry, format!("{error} ({instead})")),
                    None => (None, error),
                };
                problems.push(Problem { subject: format!("policy {}", policy.name), message });
                match entry {
                    Some(entry) => entry,
                    None => {
                        left_out.push(policy.name.as_str());
                        continue;
                    }
                }
            }
        };
        entries.push(entry);
    }
    preparer.retain(&wanted);
    if let Before::Running(set, _) = before {
        for gone in not_replaced(set, &configured) {
            let file =
                config.policy_directory.as_ref().map(|folder| folder.join(format!("{}.wasm", gone.name)));
            if !left_out.is_empty() {
                let message = format!(
                    "it is configured no more, and stays in force all the same as long as {} cannot be loaded, which may \
                     be what replaces it",
                    left_out.join(", ")
                );
                problems.push(Problem { subject: format!("policy {}", gone.name), message });
            } else if !comes && !file.is_some_and(|file| before.is_unfinished(&file)) {
                continue;
            }
            entries.push(gone.clone());
        }
    }
    let set = PolicySet::new(config.rules.clone(), config.limits.clone(), entries);
    Ok(Candidate { set, problems, loaded, awaited })
}

/// The policies in force that are configured no more. A policy that is renamed by a change, or moved to another file, goes
/// under one name and comes under another: if what comes cannot be loaded, what goes has to stay.
fn not_replaced<'a>(set: &'a PolicySet, configured: &'a [PolicyConfig]) -> impl Iterator<Item = &'a Entry> {
    let good = set.policies.iter().filter(|entry| entry.loaded.is_ok());
    good.filter(|entry| configured.iter().all(|policy| policy.name != entry.name))
}

/// The policies of `policies`, then the other components in `policyDirectory`, each named after its file.
fn configured(
    config: &Config,
    before: Before<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<PolicyConfig>, Problem> {
    let mut policies = config.policies.clone();
    if let Some(directory) = &config.policy_directory {
        match components_in(directory) {
            Ok(files) => policies.extend(bare(config, files, problems)),
            Err(error) => {
                let problem = Problem {
                    subject: format!("policyDirectory {}", directory.display()),
                    message: format!("it cannot be read: {error}"),
                };
                policies.extend(remembered(config, before, problem, problems)?);
            }
        }
    }
    if policies.is_empty() && !config.allow_empty {
        return Err(Problem {
            subject: config.path.display().to_string(),
            message: "no policy is left, and an empty set is put in force only with `allowEmpty: true`"
                .to_owned(),
        });
    }
    if policies.len() > config.limits.policies {
        return Err(Problem {
            subject: config.path.display().to_string(),
            message: bounds::POLICIES.says(policies.len(), config.limits.policies as u64),
        });
    }
    Ok(policies)
}

/// At a start without its policy directory: the policies that were in force from there, by the record of all that were.
fn remembered(
    config: &Config,
    before: Before<'_>,
    problem: Problem,
    problems: &mut Vec<Problem>,
) -> Result<Vec<PolicyConfig>, Problem> {
    let Before::Start(Some(state)) = before else { return Err(problem) };
    let names = state.names().unwrap_or_default();
    // Without any record it is not known what was in force from there.
    if names.is_empty() {
        return Err(problem);
    }
    let remembered: Vec<_> = names
        .into_iter()
        .filter(|name| config.policies.iter().all(|policy| policy.name != *name))
        .map(|name| {
            let module = config.policy_directory.clone().unwrap_or_default().join(format!("{name}.wasm"));
            PolicyConfig::bare(name, module)
        })
        .collect();
    problems.push(problem);
    Ok(remembered)
}

fn components_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
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
        let subject = || file.display().to_string();
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
        Before::Running(..) => Duration::from_secs(10),
    }
}

fn component(config: &Config, policy: &PolicyConfig, before: Before<'_>) -> Result<Component, String> {
    if before.is_written(&policy.module) {
        return Err("it is being written".to_owned());
    }
    let bytes = read(&policy.module, config.limits.module);
    bytes.map(Component::new).map_err(|error| format!("{}: {error}", policy.module.display()))
}

fn load(
    preparer: &Preparer,
    config: &Config,
    policy: &PolicyConfig,
    component: Component,
    before: Before<'_>,
    refused: &mut Refused,
    until: Instant,
) -> Result<(Entry, Option<Loaded>), String> {
    let settings = policy.settings.to_string();
    if let Some(loaded) = unchanged(policy, &component, &settings, before) {
        return Ok((entry(policy, Ok(Arc::clone(loaded))), None));
    }
    let known = refused.of(config, policy, &component, &settings).cloned();
    let result = match known {
        Some(error) => Err(error),
        None => preparer.load(&component, &policy.settings, &policy.limits, until),
    };
    match result {
        Ok(loaded) => {
            for line in loaded.load_log() {
                tracing::info!(target: "policy", policy = %policy.name, "{}", line.message);
            }
            let new = Loaded { name: policy.name.clone(), component, settings: policy.settings.clone() };
            Ok((entry(policy, Ok(loaded)), Some(new)))
        }
        Err(error) => {
            let message = describe(config, policy, &error);
            if !error.may_pass() {
                refused.0.insert(
                    policy.name.clone(),
                    (attempt_digest(config, policy, &component, &settings), error),
                );
            }
            Err(message)
        }
    }
}

/// What is in force under a policy's name.
fn running<'a>(before: Before<'a>, name: &PolicyName) -> Option<&'a Entry> {
    let Before::Running(set, _) = before else { return None };
    set.policies.iter().find(|entry| entry.name == *name)
}

/// What is in force of a policy, if it would be loaded again from the same.
fn unchanged<'a>(
    policy: &PolicyConfig,
    component: &Component,
    settings: &str,
    before: Before<'a>,
) -> Option<&'a Arc<Policy>> {
    let loaded = running(before, &policy.name)?.loaded.as_ref().ok()?;
    let same = (loaded.digest(), loaded.settings(), loaded.limits())
        == (component.digest.as_str(), settings, &policy.limits);
    same.then_some(loaded)
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

/// Errors in the settings point into host.yaml, all others at the file.
fn describe(config: &Config, policy: &PolicyConfig, error: &LoadError) -> String {
    let LoadError::Settings(errors) = error else {
        return format!("{}: {error}", policy.module.display());
    };
    let lines: Vec<_> = errors
        .iter()
        .map(|error| {
            let message = format!("settings{}: {}", error.pointer, error.message);
            // A policy of the command line stands in no file.
            match policy.pointer.as_str() {
                "" => message,
                entry => {
                    format!("{}: {message}", config.locate(&format!("{entry}/settings{}", error.pointer)))
                }
            }
        })
        .collect();
    lines.join("; ")
}

fn entry(policy: &PolicyConfig, loaded: Result<Arc<Policy>, String>) -> Entry {
    Entry {
        name: policy.name.clone(),
        scope: policy.scope.clone(),
        mode: policy.mode,
        failure_policy: policy.failure_policy,
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
    let instead = match before {
        Before::Nothing => return None,
        Before::Running(..) => match running(before, &policy.name) {
            Some(running) if running.loaded.is_ok() => {
                (Some(running.clone()), "its last good version stays in force, as it was configured")
            }
            Some(_) => (Some(entry(policy, Err(error.to_owned()))), MALFUNCTIONS),
            None => (None, "it is not in force"),
        },
        Before::Start(state) => {
            let kept = state.and_then(|state| state.last_good(&policy.name)).and_then(|kept| {
                let component = Component::new(kept.component);
                preparer.load(&component, &kept.settings, &policy.limits, until).ok()
            });
            match kept {
                Some(kept) => (
                    Some(entry(policy, Ok(kept))),
                    "its last good version, from the state directory, is in force",
                ),
                None => (Some(entry(policy, Err(error.to_owned()))), MALFUNCTIONS),
            }
        }
    };
    Some(instead)
}

pub(crate) const MALFUNCTIONS: &str = "no good version is known, so it malfunctions by its failurePolicy";

/// Reads the whole file into memory: a file that others can write may be truncated at any time, which a mapping would
/// not survive.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    // Asked before it is opened: to open a pipe would wait until someone writes to it.
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let size = metadata.len();
    if size > limit {
        return Err(LoadError::TooLarge(size, limit).to_string());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // A growing file may hold more than its size says.
    file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
