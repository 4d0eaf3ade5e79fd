//! Measures the coverage of suites: changes each entry of the settings of the policies under test, configures
//! the policy, and judges its cases again until one fails.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::Value;

use super::reporters::Broken;
use super::test::{LOADING, NotLoaded, Run, load};
use crate::config::{Config, PolicyConfig, PolicyName};
use crate::fs;
use crate::isolate;
use crate::limits;
use crate::policy::{Component, LoadError, LoadRequest, Policy, PolicySet};
use crate::problem::{Problem, Subject};
use crate::suite::coverage::{
    Answer, Answers, ConfigCoverage, Coverage, Met, Missing, PolicyCoverage, Setting, changed, changes,
    settings,
};
use crate::suite::{Case, Check, SuiteError};
use crate::text;

/// The reason why coverage cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// A settings file cannot be read again.
    #[error(transparent)]
    Settings(#[from] SuiteError),
    /// A policy cannot be loaded again.
    #[error(transparent)]
    NotLoaded(#[from] NotLoaded),
}

/// Measures the coverage of the cases in `met`, all of which passed, on `jobs` threads.
///
/// # Errors
/// Returns an error if a policy cannot be loaded again with its own settings, or the host fails.
pub fn coverage(run: &Run<'_>, met: &Met, jobs: usize) -> Result<Coverage, CoverageError> {
    let mut files: Vec<(PathBuf, Vec<Trial<'_>>)> = Vec::new();
    for trial in trials(run, met)? {
        let path = &trial.config.path;
        match files.iter_mut().find(|(other, _)| other == path) {
            Some((_, trials)) => trials.push(trial),
            None => files.push((path.clone(), vec![trial])),
        }
    }
    let of_file = |(path, trials): &(PathBuf, Vec<Trial<'_>>)| {
        Measurement { run, met, trials }.coverage(path, jobs).map_err(CoverageError::from)
    };
    files.iter().map(of_file).collect::<Result<_, _>>().map(Coverage::Of)
}

/// Loaded policies, and the cases that they judge.
struct Trial<'a> {
    config: Config,
    set: Arc<PolicySet>,
    cases: Vec<&'a Case>,
    /// The components of the policies in `config`, in their order.
    components: Vec<Component>,
}

/// Returns the policies under test that judged a case, with their settings files added.
fn trials<'a>(run: &Run<'a>, met: &Met) -> Result<Vec<Trial<'a>>, CoverageError> {
    let mut trials = Vec::new();
    for (suite, sets) in run.suites.iter().zip(&run.sets) {
        for (index, (subject, set)) in suite.subjects.iter().zip(sets).enumerate() {
            let is_judged = |case: &&Case| {
                case.subject == index && matches!(case.check, Check::Verdict { .. }) && met.has(&case.id)
            };
            let cases: Vec<_> = suite.cases.iter().filter(is_judged).collect();
            let Some(config) = subject.config.as_ref().filter(|_| !cases.is_empty()) else { continue };
            let config = crate::suite::with_settings_files(config)?;
            let set = match set {
                Some(set) => Arc::clone(set),
                None => Arc::new(load(run.compiler, &config)?),
            };
            let components =
                config.policies.iter().map(|policy| component(&config, policy)).collect::<Result<_, _>>()?;
            trials.push(Trial { config, set, cases, components });
        }
    }
    Ok(trials)
}

/// Reads the component of a policy.
fn component(config: &Config, policy: &PolicyConfig) -> Result<Component, NotLoaded> {
    let bytes = fs::read(policy.module.file(), config.limits.module);
    let bytes = bytes.map_err(|error| {
        not_loaded(policy, &format_args!("{}: {error}{}", policy.module, error.next_step()))
    })?;
    Ok(Component::new(bytes))
}

fn not_loaded(policy: &PolicyConfig, error: &dyn Display) -> NotLoaded {
    let problem = Problem::new(Subject::policy(&policy.name), error);
    NotLoaded(vec![Broken::new(&problem.to_string())])
}

/// The trials with one configuration file: the rows of a matrix, and the suites that name the file.
struct Measurement<'a> {
    run: &'a Run<'a>,
    met: &'a Met,
    trials: &'a [Trial<'a>],
}

/// An entry of settings, which several trials may share.
struct Entry {
    policy: PolicyName,
    /// The place and the name.
    place: String,
    /// The trials, and the entry in the settings of each.
    settings: Vec<(usize, Setting)>,
}

/// The result of the changes of an entry.
#[derive(Default)]
struct Tried {
    is_needed: bool,
    /// The policy's decisions with the changes.
    seen: BTreeSet<Answer>,
}

/// An entry in the settings of a trial, by its pointer.
type Key = (usize, PolicyName, String);

impl Measurement<'_> {
    fn coverage(&self, path: &Path, jobs: usize) -> Result<ConfigCoverage, NotLoaded> {
        let mut policies: Vec<PolicyCoverage> = Vec::new();
        for name in self.trials.iter().flat_map(|trial| &trial.set.policies).map(|entry| entry.name.as_str())
        {
            if !policies.iter().any(|coverage| coverage.policy == name) {
                let cases = self.trials.iter().flat_map(|trial| &trial.cases);
                let answers = cases.filter_map(|case| self.met.of(&case.id, name));
                policies.push(PolicyCoverage::of(name, answers));
            }
        }
        let (entries, untried) = self.entries(&policies);
        for (entry, tried) in entries.iter().zip(self.try_all(&entries, jobs)?) {
            let coverage = policies.iter_mut().find(|coverage| coverage.policy == entry.policy.as_str());
            if let Some((coverage, tried)) = coverage.zip(tried) {
                coverage.add_setting((!tried.is_needed).then(|| entry.missing()), tried.seen);
            }
        }
        let file = if path.as_os_str().is_empty() { String::new() } else { text::path(path) };
        Ok(ConfigCoverage { file, policies, untried })
    }

    /// Returns the entries of the policies that take part in a case, and the number of those over the limit.
    /// An entry that stands at one place of a file is one entry, whatever the number of its trials.
    fn entries(&self, policies: &[PolicyCoverage]) -> (Vec<Entry>, usize) {
        let is_asked = |name: &PolicyName| {
            policies.iter().any(|coverage| coverage.policy == name.as_str() && coverage.cases > 0)
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<(PolicyName, String), usize> = HashMap::new();
        for (index, trial) in self.trials.iter().enumerate() {
            for policy in trial.config.policies.iter().filter(|policy| is_asked(&policy.name)) {
                for setting in settings(&policy.settings) {
                    let place = trial.config.locate_setting(policy, &setting.pointer, None);
                    let next = places.len();
                    let at = *places.entry((policy.name.clone(), place.clone())).or_insert(next);
                    match entries.get_mut(at) {
                        Some(entry) => entry.settings.push((index, setting)),
                        None if at < limits::COVERAGE_SETTINGS.size() => {
                            let settings = vec![(index, setting)];
                            entries.push(Entry { policy: policy.name.clone(), place, settings });
                        }
                        None => {}
                    }
                }
            }
        }
        let untried = places.len() - entries.len();
        (entries, untried)
    }

    /// Tries the changes of all entries. The result is None for an entry within one that no case depends on.
    fn try_all(&self, entries: &[Entry], jobs: usize) -> Result<Vec<Option<Tried>>, NotLoaded> {
        let mut results: Vec<Option<Tried>> = entries.iter().map(|_| None).collect();
        let mut without: HashSet<Key> = HashSet::new();
        let deepest = entries.iter().map(Entry::depth).max().unwrap_or_default();
        for depth in 0..=deepest {
            let level = entries.iter().enumerate().filter(|(_, entry)| entry.depth() == depth);
            let (within, level): (Vec<_>, Vec<_>) =
                level.partition(|(_, entry)| entry.parents().all(|parent| without.contains(&parent)));
            without.extend(within.iter().flat_map(|(_, entry)| entry.keys()));
            let tried = in_parallel(&level, jobs, |(_, entry)| self.try_entry(entry));
            for ((index, entry), tried) in level.iter().zip(tried) {
                let tried = tried?;
                if !tried.is_needed {
                    without.extend(entry.keys());
                }
                if let Some(result) = results.get_mut(*index) {
                    *result = Some(tried);
                }
            }
        }
        Ok(results)
    }

    /// Tries the changes of an entry until a case fails.
    fn try_entry(&self, entry: &Entry) -> Result<Tried, NotLoaded> {
        let mut tried = Tried::default();
        let mut is_accepted = false;
        let all = entry.settings.first().map(|(_, setting)| changes(setting)).unwrap_or_default();
        for change in &all {
            for (index, setting) in &entry.settings {
                let Some(trial) = self.trials.get(*index) else { continue };
                let Some((policy, component)) = trial.policy(&entry.policy) else { continue };
                let settings = changed(&policy.settings, &setting.pointer, change);
                let Some(loaded) = self.configure(policy, component, &settings)? else { continue };
                is_accepted = true;
                if self.fails(trial, &entry.policy, loaded, &mut tried.seen) {
                    tried.is_needed = true;
                    return Ok(tried);
                }
            }
        }
        tried.is_needed = !is_accepted;
        Ok(tried)
    }

    /// Loads a policy with other settings. Returns None if the policy refuses the settings.
    fn configure(
        &self,
        policy: &PolicyConfig,
        component: &Component,
        settings: &Value,
    ) -> Result<Option<Arc<Policy>>, NotLoaded> {
        let (limits, grants) = (&policy.limits, &policy.capabilities);
        let request = LoadRequest { component, settings, limits, grants };
        match self.run.compiler.load_briefly(&request, Instant::now() + LOADING) {
            Ok(policy) => Ok(Some(policy)),
            Err(LoadError::Settings(_) | LoadError::Configure(_)) => Ok(None),
            Err(error) => Err(not_loaded(policy, &error)),
        }
    }

    /// Returns whether a case that the policy takes part in fails with the policy loaded otherwise.
    fn fails(
        &self,
        trial: &Trial<'_>,
        name: &PolicyName,
        policy: Arc<Policy>,
        seen: &mut BTreeSet<Answer>,
    ) -> bool {
        let set = trial.set_with(name, policy);
        let mut cases = trial.cases.iter().filter(|case| self.met.of(&case.id, name.as_str()).is_some());
        cases.any(|case| {
            // A panic of the host fails the case.
            let Ok(report) = isolate::run(|| case.run(&set)) else { return true };
            let answers = report.verdict.as_ref().map(Answers::of).unwrap_or_default();
            seen.extend(answers.into_iter().filter(|(of, _)| of == name.as_str()).flat_map(|(_, of)| of.all));
            !report.passed()
        })
    }
}

impl Trial<'_> {
    fn policy(&self, name: &PolicyName) -> Option<(&PolicyConfig, &Component)> {
        self.config.policies.iter().zip(&self.components).find(|(policy, _)| policy.name == *name)
    }

    /// Returns the set with another version of one policy.
    fn set_with(&self, name: &PolicyName, policy: Arc<Policy>) -> PolicySet {
        let mut entries = self.set.policies.clone();
        entries
            .iter_mut()
            .filter(|entry| entry.name == *name)
            .for_each(|entry| entry.loaded = Ok(Arc::clone(&policy)));
        PolicySet::new(self.set.rules.clone(), self.set.limits.clone(), entries)
    }
}

impl Entry {
    fn depth(&self) -> usize {
        self.settings.first().map_or(0, |(_, setting)| setting.pointer.matches('/').count())
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.settings.iter().map(|(trial, setting)| (*trial, self.policy.clone(), setting.pointer.clone()))
    }

    /// Returns the maps and lists that hold the entry, one for each trial.
    fn parents(&self) -> impl Iterator<Item = Key> {
        self.settings.iter().map(|(trial, setting)| {
            (*trial, self.policy.clone(), setting.parent().unwrap_or_default().to_owned())
        })
    }

    fn missing(&self) -> Missing {
        let value = self.settings.first().map(|(_, setting)| setting.value.clone());
        let value = value.filter(|value| !value.is_object() && !value.is_array());
        Missing::Setting { place: self.place.clone(), value }
    }
}

/// Applies a function to all items on at most `jobs` threads. The results are in the order of the items.
fn in_parallel<T: Sync, R: Send + Sync>(items: &[T], jobs: usize, apply: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        let work = || {
            while let Some((item, result)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                items.get(index).zip(results.get(index))
            } {
                result.get_or_init(|| apply(item));
            }
        };
        for _ in 1..jobs.min(items.len()) {
            // If the system refuses a further thread, the others do its work.
            let _ = std::thread::Builder::new().name("coverage".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}
