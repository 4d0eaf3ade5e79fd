//! The reload: after a change of files it reads, loads and checks a candidate, and puts it in force. A file
//! that cannot be loaded never weakens the policies in force.

pub mod gate;
pub mod history;
pub mod watch;
mod before;
mod candidate;
mod command;
mod restore;
mod settings;
mod standing;
mod start;
mod stays;
mod waiting;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

pub use self::before::{Before, Running};
use self::candidate::MALFUNCTIONS;
use self::candidate::{CHANGE, Prepared};
pub use self::candidate::{Candidate, assemble};
pub use self::command::{Asker, Command, Done};
use self::standing::{Looking, because, first};
pub use self::standing::{Problem, Results, Standing, StandingReader};
pub use self::start::{Started, start};
use self::stays::{Stays, read_whole};
use self::waiting::Waiting;
use crate::config::{Config, ConfigError, PolicyConfig, TlsConfig};
use crate::isolate;
use crate::limits;
use crate::policy::manifest::{Cause, Content, Publication};
use crate::policy::{Component, EngineError, PolicySet, PolicyStore, Preparer};
use crate::reload::gate::{Differences, Gate};
use crate::reload::history::{Record, StateDirectory, StateError, Summary, Waits};
use crate::reload::watch::{Wanted, Watcher};
use crate::telemetry::decision_log::DecisionLog;
use crate::text;
use crate::tls::{Material, TlsError, TlsStore};

/// Error that prevents the start of the host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An error in host.yaml.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS material with which the host cannot serve.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A machine that cannot run policies.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A state directory that another host uses.
    #[error(transparent)]
    State(StateError),
    /// A machine that cannot compile policies.
    #[error("policies cannot be compiled on this machine: {0}")]
    Prepare(std::io::Error),
}

/// The reload: its inputs, the generation in force, and the candidate that is pending.
pub struct Reloader {
    preparer: Preparer,
    /// The configuration at the start of the process. Its listen addresses and its state directory stay until
    /// a restart.
    bound: Config,
    config: Config,
    material: Material,
    state: Option<StateDirectory>,
    /// Problems of the machine, not of the configuration: a state directory that is configured but unusable,
    /// no folder for the cache, no pool of instances.
    lasting: Vec<Problem>,
    policies: PolicyStore,
    tls: TlsStore,
    decision_log: DecisionLog,
    gate: Gate,
    /// State of the watched files; None until the files are watched.
    watcher: Option<Watcher>,
    /// Whether the only set that could come into force denies everything. The last good versions still count
    /// then.
    closed: bool,
    /// Whether a rollback is in force: files decide nothing until `host rollback --release`.
    pinned: bool,
    /// Reason why it is unknown whether a candidate was held when the previous process ended.
    doubt: Option<String>,
    waiting: Option<Waiting>,
    /// Whether the last pass could load everything that is configured.
    whole: bool,
    /// Policies that the last pass loaded and that are not in force.
    prepared: Vec<Prepared>,
    history: VecDeque<Summary>,
    /// Problems that the last pass over the files found.
    problems: Vec<Problem>,
    /// The problem that the last pass panicked.
    panicked: Option<Problem>,
    results: Results,
    standing: Arc<ArcSwap<Standing>>,
    /// Progress of the reload, shared with status readers. The reload thread lives while this `Arc` lives;
    /// the content shows since when the current pass has been running.
    looking: Arc<Looking>,
    /// Earlier rejections, so that a file that stays broken is not compiled on every pass.
    refused: candidate::Refused,
    asked: Receiver<command::Asked>,
    asker: Asker,
}

/// A generation that is about to come into force.
struct Next {
    set: PolicySet,
    cause: Cause,
    differences: Option<Differences>,
}

/// Logs the properties of a new set that the operator may not have intended.
fn warn(set: &PolicySet) {
    for warning in set.warnings() {
        tracing::warn!("policies: {warning}");
    }
}

/// Subject of the problem that the generation in force is not recorded.
const UNRECORDED: &str = "state directory";

/// Priority reduction of the reload thread relative to reviews (nice(2)). Slow policies run with the same
/// reduction, so they cannot delay the reload that removes them.
const NICE: i32 = 5;

/// Timeout of a command or a start that waits for compilation.
const PATIENCE: Duration = Duration::from_secs(10);

impl Reloader {
    /// Follows the files and executes commands until the watcher is stopped.
    pub fn run(mut self, watcher: Watcher) {
        isolate::lower_priority(NICE);
        self.preparer.when_ready(watcher.hinter());
        self.asker.wake_by(watcher.hinter());
        self.watcher = Some(watcher);
        loop {
            self.survive(Reloader::look);
            // The retry time counts only while a candidate is pending that the gate rejected.
            let refused =
                self.waiting.as_ref().is_some_and(|waiting| waiting.summary.state == Waits::Refused);
            let until = self.gate.take_retry().filter(|_| refused);
            if !self.watcher.as_mut().is_some_and(|watcher| watcher.wait(until)) {
                return;
            }
        }
    }

    /// Runs one pass: executes the pending commands, then looks at the files.
    fn look(&mut self) {
        while let Ok(asked) = self.asked.try_recv() {
            self.answer(asked);
        }
        self.watch();
        // A change before the watch was set up caused no event.
        self.reload();
        self.watch();
    }

    /// Runs `look` and reports a panic as a problem, so that a defect in one pass does not end the reload.
    /// The generation in force is swapped as a whole, so a panic leaves it intact.
    fn survive(&mut self, look: impl FnOnce(&mut Reloader)) {
        self.panicked = None;
        let looking = Arc::clone(&self.looking);
        looking.begin(self.config.gate.as_ref().map_or(Duration::ZERO, |gate| gate.budget));
        let looked = isolate::run(|| look(self));
        looking.end();
        if looked.is_ok() {
            return;
        }
        self.panicked = Some(Problem {
            subject: "reload".to_owned(),
            message: "looking at the files panicked (the generation in force stays, and the next look comes with the next \
                      change): please report this, with the message in the log"
                .to_owned(),
        });
        self.results.failed += 1;
        self.report();
    }

    fn watch(&mut self) {
        let wanted = self.wanted();
        if let Some(watcher) = &mut self.watcher {
            watcher.watch(&wanted);
        }
    }

    /// Returns the path of the state directory, or None if none is in use.
    pub fn state_directory(&self) -> Option<&Path> {
        self.state.as_ref().map(StateDirectory::path)
    }

    /// Adds a problem of the machine that lasts as long as the process.
    pub fn lacks(&mut self, problem: Problem) {
        self.lasting.push(problem);
        self.report();
    }

    /// Reads the configuration and the files that it names, and puts in force each change that is sound.
    pub fn reload(&mut self) {
        self.reload_for(Cause::FilesChanged);
    }

    fn reload_for(&mut self, cause: Cause) {
        let before = self.policies.current().number();
        let found = std::mem::take(&mut self.problems);
        match self.try_reload(cause, &found) {
            Ok(()) => {}
            Err(Stays::Broken(problem)) => self.problems.push(problem),
            Err(Stays::Unfinished) => self.problems = found,
        }
        self.problems = first(&self.problems, limits::PROBLEMS.size());
        let results = &mut self.results;
        *match (self.policies.current().number() != before, self.problems.is_empty()) {
            (true, _) => &mut results.published,
            (false, false) => &mut results.failed,
            (false, true) if self.waiting.is_some() => &mut results.waiting,
            (false, true) => &mut results.unchanged,
        } += 1;
        self.report();
    }

    /// Runs the reload. `found` holds the problems of the previous pass.
    fn try_reload(&mut self, cause: Cause, found: &[Problem]) -> Result<(), Stays> {
        let config = match self.read_config() {
            Ok((config, tls)) => {
                self.follow_tls(&tls)?;
                config
            }
            Err(stays) => {
                // Certificates expire even while host.yaml is wrong.
                let in_force = self.material.config().clone();
                if let Err(Stays::Broken(problem)) = self.follow_tls(&in_force) {
                    self.problems.push(problem);
                }
                return Err(stays);
            }
        };
        self.problems.extend(self.needs_restart(&config));
        self.restore_missing();
        let current = self.policies.current();
        let before = match self.closed {
            true => Before::Start(self.state.as_ref()),
            false => Before::Running(Running {
                current: &current,
                config: &self.config,
                prepared: &self.prepared,
                state: self.state.as_ref(),
                watcher: self.watcher.as_ref(),
            }),
        };
        let candidate = assemble(&self.preparer, &config, before, &mut self.refused).map_err(|problem| {
            Stays::unless_finished(
                self.watcher.as_ref(),
                config.policy_directory.as_deref().as_slice(),
                || Problem { message: because(&problem.message, "the generation in force stays"), ..problem },
            )
        })?;
        self.decision_log.configure(config.decision_log.as_ref());
        self.config = config;
        self.gate.configure(&self.config);
        let Candidate { set, problems, whole, awaited, prepared } = candidate;
        (self.whole, self.prepared) = (whole, prepared);
        let unfinished = !awaited.is_empty() && problems.is_empty();
        self.problems.extend(problems);
        let awaited: Vec<_> = awaited.iter().map(|name| format!("policy {name}")).collect();
        let stays = |subject: &String| awaited.contains(subject) || unfinished && subject == CHANGE;
        self.problems.extend(found.iter().filter(|problem| stays(&problem.subject)).cloned());
        self.settle(set, unfinished, cause);
        Ok(())
    }

    /// Returns the reason why nothing changes while `files` are wrong.
    fn stays(&self, files: &[&Path], subject: &Path, error: &dyn std::fmt::Display) -> Stays {
        Stays::unless_finished(self.watcher.as_ref(), files, || Problem {
            subject: text::path(subject),
            message: because(error, "the generation in force stays"),
        })
    }

    /// Reads the configuration, and its TLS section.
    fn read_config(&self) -> Result<(Config, TlsConfig), Stays> {
        let path = self.config.path.as_path();
        let wrong = |error: ConfigError| self.stays(&[path], path, &error);
        let config = read_whole(self.watcher.as_ref(), &[path], || Config::read(path))?.map_err(wrong)?;
        let tls = config.require_serving().map_err(wrong)?.tls.clone();
        Ok((config, tls))
    }

    /// Puts changed TLS material in force. TLS material does not wait for policies: an expired certificate
    /// would lock out every client.
    fn follow_tls(&mut self, config: &TlsConfig) -> Result<(), Stays> {
        let files = config.files();
        let wrong = |error: TlsError| self.stays(&files, Path::new("tls"), &error);
        let material =
            read_whole(self.watcher.as_ref(), &files, || Material::read(config))?.map_err(wrong)?;
        if material == self.material {
            return Ok(());
        }
        let server_config = material.server_config().map_err(wrong)?;
        self.tls.publish(server_config);
        self.material = material;
        tracing::info!("new TLS material in force");
        Ok(())
    }

    /// Loads the last good versions of those policies of the generation in force that are not loaded yet.
    fn restore_missing(&mut self) {
        let current = self.policies.current();
        let Some(state) = &self.state else { return };
        let Some(newest) = state.newest() else { return };
        if self.closed || current.policies.iter().all(|entry| entry.loaded.is_ok()) {
            return;
        }
        let until = Instant::now() + PATIENCE;
        let policies = current.policies.iter().map(|entry| {
            let last_good = entry.loaded.is_err().then(|| newest.last_good(&entry.name)).flatten();
            let restored =
                last_good.map(|recorded| restore::restored(&self.preparer, state, recorded, until));
            restored.filter(|restored| restored.loaded.is_ok()).unwrap_or_else(|| entry.clone())
        });
        let set = PolicySet::new(current.rules.clone(), current.limits.clone(), policies.collect());
        if set.digest() != current.digest() {
            self.publish(Next { set, cause: Cause::Start, differences: None });
        }
    }

    /// Puts a generation in force. The generation is recorded first, so that the next start knows every
    /// generation that gave a response.
    fn publish(&mut self, next: Next) {
        let before = self.policies.current();
        // The number of a damaged record is not used again.
        let number = self.state.as_ref().map_or(0, StateDirectory::next_number).max(before.number() + 1);
        if next.cause != Cause::Start {
            self.doubt = None;
        }
        let publication = Publication { number, published: SystemTime::now(), cause: next.cause };
        let set = next.set.published(publication);
        let mut told = format!("generation {} in force ({})", set.generation(), set.publication().cause);
        if let Some(differences) = &next.differences {
            told.push_str(&format!("; differences: {differences}"));
        }
        let record = self.record(&set, Some(&before.content()), next.differences);
        let components = self.take_components(&set);
        self.keep(record, components);
        tracing::info!("{told}");
        warn(&set);
        self.policies.publish(set);
        self.closed = false;
        self.waiting = None;
    }

    /// Removes the policies of `set` from the prepared policies, and returns their components.
    fn take_components(&mut self, set: &PolicySet) -> Vec<Component> {
        let is_of = |prepared: &Prepared| {
            let mut loaded = set.policies.iter().filter_map(|entry| entry.loaded.as_ref().ok());
            loaded.any(|policy| Arc::ptr_eq(policy, &prepared.policy))
        };
        let (taken, left) = std::mem::take(&mut self.prepared).into_iter().partition(is_of);
        self.prepared = left;
        taken.into_iter().map(|prepared: Prepared| prepared.component).collect()
    }

    fn record(&self, set: &PolicySet, before: Option<&Content>, differences: Option<Differences>) -> Record {
        let content = set.content();
        let known = self.state.as_ref().and_then(StateDirectory::newest);
        let missing = content.policies.iter().filter(|policy| policy.loaded.is_err());
        let remembered = missing.filter_map(|policy| known?.last_good(&policy.name).cloned()).collect();
        let problems = first(&self.problems, limits::RECORDED_PROBLEMS.size());
        let summary = Summary {
            publication: set.publication().clone(),
            digest: set.digest().to_owned(),
            pinned: self.pinned,
            whole: content.is_whole(),
            changes: before.map(|before| content.changes_since(before)).unwrap_or_default(),
            differences,
            problems: problems.iter().map(Problem::to_string).collect(),
        };
        // A held candidate is approved neither by a start, nor by a rollback, nor by a change that is only
        // partly loaded.
        let held = match set.publication().cause {
            Cause::Approved => None,
            Cause::FilesChanged | Cause::Released if self.whole => None,
            Cause::Start | Cause::RolledBack { .. } | Cause::FilesChanged | Cause::Released => {
                known.and_then(|newest| newest.held.clone())
            }
        };
        Record { summary, content, remembered, held }
    }

    /// Appends a generation to the history. A record that could not be written is retried at the next reload.
    fn keep(&mut self, record: Record, components: Vec<Component>) {
        self.history.retain(|summary| summary.publication.number != record.summary.publication.number);
        self.history.push_back(record.summary.clone());
        while self.history.len() > limits::GENERATIONS.size() {
            self.history.pop_front();
        }
        if let Some(state) = &mut self.state {
            // `report` shows the error.
            let _ = state.keep(record, components);
        }
    }

    /// Returns a problem for each changed setting that needs a restart: the listen addresses and the state
    /// directory.
    fn needs_restart(&self, new: &Config) -> Vec<Problem> {
        let old = &self.bound;
        let listen = |config: &Config| config.serving.as_ref().map(|serving| serving.listen);
        let changed = [
            ("listen", listen(old) != listen(new)),
            ("admin.listen", old.admin_listen != new.admin_listen),
            ("stateDirectory", old.state_directory != new.state_directory),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        changed
            .map(|(key, _)| Problem {
                subject: text::path(&new.path),
                message: format!("`{key}` has changed, which needs a restart; the rest is in force"),
            })
            .collect()
    }

    /// Publishes the status, and logs the problems that are new.
    fn report(&mut self) {
        let mut problems = self.problems.clone();
        problems.extend(self.waits());
        if self.pinned {
            let missing = restore::problems(&self.policies.current());
            problems.extend(first(&missing, limits::PROBLEMS.size()));
        }
        if let Some(state) = &mut self.state
            && let Err(error) = state.flush()
        {
            problems.push(Problem {
                subject: UNRECORDED.to_owned(),
                message: format!(
                    "the generation in force cannot be recorded in {}, so the next start may not know it: {} (it is tried \
                     again; make room, or let the host write there)",
                    text::path(state.path()),
                    text::without_path(&error.to_string())
                ),
            });
        }
        let lost =
            self.state.as_ref().into_iter().flat_map(|state| [state.trouble(), state.left_out()]).flatten();
        problems.extend(lost.map(|message| Problem { subject: UNRECORDED.to_owned(), message }));
        problems.extend(self.gate.trouble().map(|why| Problem {
            subject: "gate".to_owned(),
            message: because(
                &why,
                "until then no change comes into force, and the generation in force stays",
            ),
        }));
        problems.extend(self.lasting.iter().chain(&self.panicked).cloned());
        let trouble = self.watcher.as_ref().and_then(Watcher::trouble);
        problems.extend(trouble.map(|message| Problem { subject: "watching".to_owned(), message }));
        let cache = self.preparer.cache().trouble();
        problems.extend(cache.map(|message| Problem { subject: "cache".to_owned(), message }));
        let unconfined = self.preparer.unconfined();
        problems.extend(unconfined.map(|message| Problem { subject: "compiling".to_owned(), message }));
        let problems: Vec<_> = problems.iter().map(Problem::bounded).collect();
        let before = self.standing.load();
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        if problems.is_empty() && !before.problems.is_empty() {
            tracing::info!("all that is configured is in force again");
        }
        self.standing.store(Arc::new(Standing {
            problems,
            candidate: self.waiting.as_ref().map(|waiting| waiting.summary.clone()),
            pinned: self.pinned,
            history: self.history.iter().cloned().collect(),
            results: self.results,
        }));
    }

    /// Returns the files of which a generation is made and by which it is judged.
    fn wanted(&self) -> Wanted {
        let config = &self.config;
        let policies = config.policies.iter().flat_map(PolicyConfig::files);
        let files = policies.chain(self.material.config().files()).chain([config.path.as_path()]);
        let folders = config.policy_directory.clone().into_iter().chain(self.gate.folders());
        Wanted { files: files.map(Path::to_owned).collect(), folders: folders.collect() }
    }
}
