//! `host test --watch`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{Arguments, Judged, Task, chance, judge, nothing, suites};
use crate::author::reporters::Totals;
use crate::author::sources::{Builds, Watched};
use crate::author::test::{LastRun, Selection};
use crate::author::watch::{Changed, Follower, Saved, watched};
use crate::cli::{Exit, Failure, compiler, say, tell};
use crate::policy::{Cache, Compiler, Policy};
use crate::suite::{self, Suite};
use crate::text;

/// State that one pass leaves for the next.
struct Session<'a> {
    arguments: &'a Arguments,
    compiler: Compiler,
    builds: Builds,
    /// Policies of the last pass. A policy that is in use is not loaded again.
    policies: Vec<Arc<Policy>>,
    /// Changes since the last pass that came to its end. None before the first.
    changed: Option<Changed>,
    /// Files and folders on which the cases depend.
    watched: Watched,
}

/// Runs the cases, and after each change those that the change concerns, until a signal ends the process.
pub(super) fn watch(arguments: &Arguments) -> Result<Exit, Failure> {
    let (mut follower, _stop) = Follower::new();
    let mut session = Session {
        arguments,
        compiler: compiler(Exit::NotLoaded)?,
        builds: Builds::default(),
        policies: Vec::new(),
        changed: None,
        watched: Watched::default(),
    };
    let mut saved = None;
    loop {
        let began = SystemTime::now();
        if let Err(failure) = session.pass(saved.as_ref()) {
            tell(&failure.message);
        }
        if let Some(saved) = &saved {
            say(verdict_after(saved))?;
        }
        follower.follow(session.to_follow(), began);
        let Some(new) = follower.changed() else { return Ok(Exit::Yes) };
        session.change(&new);
        saved = Some(new);
    }
}

impl Session<'_> {
    fn change(&mut self, saved: &Saved) {
        let components = self.builds.change(&saved.paths);
        if let Some(changed) = &mut self.changed {
            changed.add(saved.paths.iter().cloned().chain(components));
        }
    }

    /// Judges the cases that the changes concern, or all cases in the first pass.
    fn pass(&mut self, saved: Option<&Saved>) -> Result<(), Failure> {
        let started = Instant::now();
        let suites = suites(self.arguments, &mut self.builds)?;
        self.watched = watched(&suites);
        let cache = Cache::user_folder();
        let last = cache.as_deref().map(|folder| LastRun::read(folder, &suites)).unwrap_or_default();
        let seed = self.arguments.shuffle.map(|seed| seed.unwrap_or_else(chance));
        let failed = self.arguments.failed.then(|| last.clone());
        let selection = Selection { filters: self.arguments.filters.clone(), failed, shuffle: seed };
        let mut plan = selection.plan(&suites);
        if plan.is_empty() {
            return Err(Failure::new(Exit::Nothing, nothing(self.arguments, &suites)));
        }
        if let (Some(_), Some(changed)) = (saved, &self.changed) {
            plan = changed.concerned(&suites, &plan);
        }
        let all: usize = suites.iter().map(|suite: &Suite| suite.cases.len()).sum();
        let totals =
            Totals { filtered: all - plan.len(), seed: seed.map(|seed| seed.0), ..Totals::default() };
        if !plan.is_empty() {
            let task = Task {
                arguments: self.arguments,
                compiler: &self.compiler,
                suites: &suites,
                plan: &plan,
                last,
                totals,
                started,
            };
            let Judged { last, policies, .. } = judge(task)?;
            // Policies of cases that the change does not concern stay in use.
            self.policies.retain(|known| !policies.iter().any(|new| Arc::ptr_eq(known, new)));
            self.policies.extend(policies);
            self.policies.drain(..self.policies.len().saturating_sub(KEPT));
            if let Some(folder) = &cache {
                // A cache that cannot be written costs `--failed` alone.
                let _ = last.write(folder);
            }
        }
        self.changed = Some(Changed::default());
        Ok(())
    }

    /// Returns the files and folders to follow, by absolute paths.
    fn to_follow(&self) -> Watched {
        let mut all = self.builds.watched();
        // A component of sources changes with the sources.
        let built: BTreeSet<_> = self.builds.components().collect();
        all.files.extend(self.watched.files.iter().filter(|file| !built.contains(*file)).cloned());
        all.folders.extend(self.watched.folders.iter().cloned());
        let of_suites = suite::folders(&self.arguments.paths).into_iter().filter(|path| path.is_dir());
        all.folders.extend(of_suites.map(|path| absolute(&path)));
        let given = [&self.arguments.config, &self.arguments.policy.policy, &self.arguments.policy.settings];
        let given = given.into_iter().flatten().chain(&self.arguments.paths).filter(|path| !path.is_dir());
        all.files.extend(given.map(|path| absolute(path)));
        all
    }
}

/// Maximum number of policies that stay loaded.
const KEPT: usize = 256;

/// Returns the line that names the changed files, and the time from the last change to the verdict.
fn verdict_after(Saved { paths, at }: &Saved) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let name = |path: &PathBuf| text::path(path.strip_prefix(&here).unwrap_or(path));
    let what = match paths.as_slice() {
        [] => "a file".to_owned(),
        [only] => name(only),
        [first, rest @ ..] => format!("{} and {} more", name(first), rest.len()),
    };
    let took = SystemTime::now().duration_since(*at).unwrap_or_default();
    format!("{what} changed: verdict after {} ms", took.as_millis())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
