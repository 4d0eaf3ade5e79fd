//! Runs suites: loads the policies under test, judges the cases on several threads, and reports the results
//! in the order of the plan.

mod last_run;
mod select;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub use self::last_run::LastRun;
pub use self::select::{Filter, FilterError, Seed, Selection};
use super::reporters::Broken;
use crate::config::{Config, PolicyName};
use crate::fs;
use crate::isolate;
use crate::policy::{Compiler, Component, LoadError, LoadRequest, PolicySet};
use crate::problem::Problem;
use crate::reload::{Fallback, assemble};
use crate::suite::{Case, CaseReport, Check, ExpectError, ExpectRefused, Failed, Subject, Suite};

/// Number of reports that may wait for the report of an earlier case.
const WINDOW: usize = 1024;
/// Time limit of a load. Compiling has its own limit, which is shorter.
pub(super) const LOADING: Duration = Duration::from_secs(3600);

/// A policy under test that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Broken::line).collect::<Vec<_>>().join("\n"))]
pub struct NotLoaded(pub(super) Vec<Broken>);

impl NotLoaded {
    /// Returns the problems, with their places.
    pub fn problems(&self) -> &[Broken] {
        &self.0
    }
}

/// The suites of a run, with the policies under test.
pub struct Run<'a> {
    pub(super) compiler: &'a Compiler,
    pub(super) suites: &'a [Suite],
    /// The loaded policies of each suite, by subject. None: no selected case needs them before it runs.
    pub(super) sets: Vec<Vec<Option<Arc<PolicySet>>>>,
}

/// A case of a plan: the indices of its suite and of the case in it.
pub type Position = (usize, usize);

impl<'a> Run<'a> {
    /// Loads the policies that the cases of a plan need.
    ///
    /// # Errors
    /// Returns the problems of the first suite whose policies cannot be loaded.
    pub fn new(compiler: &'a Compiler, suites: &'a [Suite], plan: &[Position]) -> Result<Run<'a>, NotLoaded> {
        let mut sets: Vec<Vec<Option<Arc<PolicySet>>>> =
            suites.iter().map(|suite| vec![None; suite.subjects.len()]).collect();
        for (suite, case) in plan {
            let Some((suite, sets)) = suites.get(*suite).zip(sets.get_mut(*suite)) else { continue };
            let Some(case) = suite.cases.get(*case) else { continue };
            let Some((subject, set)) = suite.subjects.get(case.subject).zip(sets.get_mut(case.subject))
            else {
                continue;
            };
            if let (None, false, Check::Verdict { .. }, Some(config)) =
                (&set, subject.is_of_case, &case.check, &subject.config)
            {
                *set = Some(Arc::new(load(compiler, config)?));
            }
        }
        Ok(Run { compiler, suites, sets })
    }

    /// Returns the loaded sets.
    pub fn sets(&self) -> impl Iterator<Item = &PolicySet> {
        self.sets.iter().flatten().flatten().map(Arc::as_ref)
    }

    /// Judges the cases of a plan on `jobs` threads. `report` gets the reports in the order of the plan, and
    /// may end the run.
    pub fn run(
        &self,
        plan: &[Position],
        jobs: usize,
        mut report: impl FnMut(&'a Suite, CaseReport) -> ControlFlow<()>,
    ) {
        let next = AtomicUsize::new(0);
        let is_over = AtomicBool::new(false);
        let window = Window::default();
        let (send, receive) = mpsc::channel::<(usize, CaseReport)>();
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, plan.len().max(1)) {
                let (send, next, is_over, window) = (send.clone(), &next, &is_over, &window);
                let work = move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some((suite, case)) = plan.get(index).and_then(|position| self.at(*position))
                        else {
                            return;
                        };
                        window.wait(index, is_over);
                        if is_over.load(Ordering::Relaxed)
                            || send.send((index, self.case(suite, case))).is_err()
                        {
                            return;
                        }
                    }
                };
                // If the system refuses a further thread, the others do its work.
                let _ = std::thread::Builder::new().name("case".to_owned()).spawn_scoped(scope, work);
            }
            drop(send);
            let mut waiting = BTreeMap::new();
            let mut reported = 0;
            for (index, result) in receive {
                waiting.insert(index, result);
                while let Some(result) = waiting.remove(&reported) {
                    let suite = plan.get(reported).and_then(|(suite, _)| self.suites.get(*suite));
                    reported += 1;
                    window.report(reported);
                    let Some(suite) = suite else { continue };
                    if report(suite, result).is_break() {
                        is_over.store(true, Ordering::Relaxed);
                        window.report(usize::MAX);
                        return;
                    }
                }
            }
        });
    }

    fn at(&self, (suite, case): Position) -> Option<(usize, &'a Case)> {
        Some((suite, self.suites.get(suite)?.cases.get(case)?))
    }

    /// Judges a case. A panic of the host fails the case.
    fn case(&self, suite: usize, case: &Case) -> CaseReport {
        let began = Instant::now();
        isolate::run(|| self.judge(suite, case)).unwrap_or_else(|panicked| {
            case.report(vec![Failed::NotRun(panicked.to_string())], None, began.elapsed())
        })
    }

    fn judge(&self, suite: usize, case: &Case) -> CaseReport {
        let began = Instant::now();
        let not_run = |why: String| case.report(vec![Failed::NotRun(why)], None, began.elapsed());
        let subject = self.suites.get(suite).and_then(|suite| suite.subjects.get(case.subject));
        let Some(config) = subject.and_then(|subject| subject.config.as_ref()) else {
            return not_run("no policies are under test".to_owned());
        };
        if let Check::Refused(refused) = &case.check {
            return case.report(self.refused(config, refused), None, began.elapsed());
        }
        let loaded = self.sets.get(suite).and_then(|sets| sets.get(case.subject)).cloned().flatten();
        let set = match loaded.map_or_else(|| load(self.compiler, config).map(Arc::new), Ok) {
            Ok(set) => set,
            Err(problems) => return not_run(problems.to_string()),
        };
        case.run(&set)
    }

    /// Returns the differences between the expected errors of settings and those that policies report.
    fn refused(&self, config: &Config, expected: &ExpectRefused) -> Vec<Failed> {
        let of_policy = |(name, expected): &(PolicyName, Vec<ExpectError>)| {
            let result = self.configure(config, name);
            let unmet =
                expected.iter().filter(|expected| !expected.is_met(result.as_ref().err())).map(|expected| {
                    Failed::Refusal {
                        policy: name.to_string(),
                        expected: expected.to_string(),
                        found: match &result {
                            Ok(()) => "accepted settings".to_owned(),
                            Err(error) => error.to_string(),
                        },
                    }
                });
            unmet.collect::<Vec<_>>()
        };
        expected.policies.iter().flat_map(of_policy).collect()
    }

    /// Loads one policy with its settings.
    fn configure(&self, config: &Config, name: &PolicyName) -> Result<(), LoadError> {
        let Some(policy) = config.policies.iter().find(|policy| policy.name == *name) else {
            return Err(LoadError::NotCompiled(format!("{name} has no entry in `policies`")));
        };
        let file = policy.module.file();
        let bytes = fs::read(file, config.limits.module)
            .map_err(|error| format!("{}: {error}{}", policy.module, error.next_step()))
            .map_err(LoadError::NotCompiled)?;
        let request = LoadRequest {
            component: &Component::new(bytes),
            settings: &policy.settings,
            limits: &policy.limits,
            grants: &policy.capabilities,
        };
        let mut results = self.compiler.load_all(&[request], Instant::now() + LOADING).into_iter();
        results.next().unwrap_or(Err(LoadError::Compiling)).map(|_| ())
    }
}

/// Loads the policies of a configuration.
pub(super) fn load(compiler: &Compiler, config: &Config) -> Result<PolicySet, NotLoaded> {
    let candidate = assemble(compiler, config, Fallback::None, &mut Default::default());
    let not_loaded = |problems: &[Problem]| {
        NotLoaded(problems.iter().map(|problem| Broken::of_load(problem, config)).collect())
    };
    let candidate = candidate.map_err(|problem| not_loaded(&[problem]))?;
    if candidate.problems.is_empty() { Ok(candidate.set) } else { Err(not_loaded(&candidate.problems)) }
}

/// The number of reports that were given to the caller. Threads wait so that few reports are held back by an
/// earlier one.
#[derive(Default)]
struct Window {
    reported: Mutex<usize>,
    changed: Condvar,
}

impl Window {
    /// Waits until the case at an index is within the window.
    fn wait(&self, index: usize, is_over: &AtomicBool) {
        let mut reported = self.reported.lock();
        while index >= reported.saturating_add(WINDOW) && !is_over.load(Ordering::Relaxed) {
            self.changed.wait(&mut reported);
        }
    }

    fn report(&self, reported: usize) {
        *self.reported.lock() = reported;
        self.changed.notify_all();
    }
}

/// Returns the number of policies under test that run at once, for the pool of instances.
pub fn subjects(suites: &[Suite]) -> usize {
    let policies = |subject: &Subject| subject.config.as_ref().map_or(0, |config| config.policies.len());
    suites.iter().flat_map(|suite| &suite.subjects).map(policies).max().unwrap_or_default()
}
