//! The reload: after a change of files it reads, loads and checks a candidate, and puts it in force. A file
//! that cannot be loaded never weakens the policies in force.

pub mod gate;
pub mod history;
pub mod watch;
mod candidate;
mod event;
mod fallback;
mod in_force;
mod inputs;
mod pending;
mod restore;
mod command;
mod rollback;
mod start;
mod status;

use std::path::Path;
use std::time::Duration;

pub use self::candidate::{Candidate, Rejected, assemble};
pub use self::command::{Command, CommandError, Done, ReloadHandle};
use self::event::{Event, Events};
pub use self::fallback::{Fallback, Running};
use self::in_force::{Basis, InForce, Next};
use self::inputs::{Inputs, NotNow};
use self::pending::{Pending, Step, settle};
pub use self::start::{Started, start};
use self::status::Report;
pub use self::status::{PassCounts, ReloadStatus, StatusReader};
use crate::config::{Config, ConfigError, TlsConfig};
use crate::isolate;
use crate::limits;
use crate::policy::manifest::Cause;
use crate::policy::{EngineError, PolicySet};
use crate::problem::{Problem, Subject};
use crate::reload::history::{StateDirectory, StateError};
use crate::reload::watch::Watcher;
use crate::tls::TlsError;

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
    Compiler(std::io::Error),
}

/// The reload: its inputs, the generation in force, and the candidate that is pending.
pub struct Reloader {
    inputs: Inputs,
    in_force: InForce,
    pending: Pending,
    report: Report,
    events: Events,
}

/// Priority reduction of the reload thread relative to reviews (nice(2)). Slow policies run with the same
/// reduction, so they cannot delay the reload that removes them.
const NICE: i32 = 5;

/// Timeout of a command or a start that waits for compilation.
const PATIENCE: Duration = Duration::from_secs(10);

impl Reloader {
    /// Follows the files and executes commands until the watcher is stopped.
    pub fn run(mut self, watcher: Watcher) {
        isolate::lower_priority(NICE);
        self.events.wakes(&watcher);
        let sender = self.events.sender();
        self.inputs.compiler.when_ready(move || {
            sender.send(Event::Compiled);
        });
        self.inputs.watcher = Some(watcher);
        // A change before the watch was set up caused no event.
        let mut event = Event::FilesChanged;
        loop {
            self.survive(|reloader| reloader.handle(event));
            // The retry time counts only while a candidate is pending that the gate rejected.
            let gate_due = self.inputs.gate.take_retry().filter(|_| self.pending.is_rejected());
            let Some(watcher) = &mut self.inputs.watcher else { return };
            let Some(next) = self.events.next(watcher, gate_due) else { return };
            event = next;
        }
    }

    /// Handles an event and all that have come meanwhile. Then it makes one pass over the files, because each
    /// event may change the candidate.
    fn handle(&mut self, event: Event) {
        let mut events = Some(event);
        while let Some(event) = events {
            match event {
                Event::Command(request) => self.respond(request),
                Event::FilesChanged | Event::Compiled | Event::GateDue => {}
            }
            events = self.events.pending();
        }
        self.watch();
        self.reload();
        self.watch();
    }

    /// Runs `act` and reports a panic as a problem, so that a defect in one pass does not end the reload. The
    /// generation in force is swapped as a whole, so a panic leaves it intact.
    fn survive(&mut self, act: impl FnOnce(&mut Reloader)) {
        let gate = self.inputs.config.gate.as_ref();
        self.report.begin(gate.map_or(Duration::ZERO, |gate| gate.budget));
        let done = isolate::run(|| act(self));
        self.report.end();
        if done.is_err() {
            self.report.panicked();
            self.report();
        }
    }

    fn watch(&mut self) {
        self.inputs.watch(self.in_force.material.config());
    }

    /// Returns the path of the state directory, or None if none is in use.
    pub fn state_directory(&self) -> Option<&Path> {
        self.in_force.history.directory().map(StateDirectory::path)
    }

    /// Adds a problem of the machine that lasts as long as the process.
    pub fn add_problem(&mut self, problem: Problem) {
        self.report.add_lasting(problem);
        self.report();
    }

    /// Reads the configuration and the files that it names, and puts in force each change that is sound.
    pub fn reload(&mut self) {
        self.reload_for(Cause::FilesChanged);
    }

    fn reload_for(&mut self, cause: Cause) {
        let before = self.in_force.current().number();
        let found = std::mem::take(&mut self.report.found);
        match self.try_reload(cause, &found) {
            Ok(()) => {}
            Err(NotNow::Broken(problem)) => self.report.found.push(problem),
            Err(NotNow::Incomplete) => self.report.found = found,
        }
        self.report.found = Problem::first(&self.report.found, limits::PROBLEMS.size());
        let results = &mut self.report.results;
        *match (self.in_force.current().number() != before, self.report.found.is_empty()) {
            (true, _) => &mut results.published,
            (false, false) => &mut results.failed,
            (false, true) if self.pending.candidate.is_some() => &mut results.waiting,
            (false, true) => &mut results.unchanged,
        } += 1;
        self.report();
    }

    /// Runs the reload. `found` holds the problems of the previous pass.
    fn try_reload(&mut self, cause: Cause, found: &[Problem]) -> Result<(), NotNow> {
        let Reloader { inputs, in_force, pending, report, .. } = self;
        let config = match inputs.read_config() {
            Ok((config, tls)) => {
                follow_tls(&tls, inputs, in_force)?;
                config
            }
            Err(not_now) => {
                // Certificates expire even while host.yaml is wrong.
                let tls = in_force.material.config().clone();
                if let Err(NotNow::Broken(problem)) = follow_tls(&tls, inputs, in_force) {
                    report.found.push(problem);
                }
                return Err(not_now);
            }
        };
        report.found.extend(inputs.needs_restart(&config));
        if let Some(set) = in_force.with_missing(&inputs.compiler) {
            in_force.publish(Next { set, cause: Cause::Start, differences: None }, pending, &report.found);
        }
        let candidate = candidate(&config, inputs, in_force, pending)?;
        in_force.decision_log.configure(config.decision_log.as_ref());
        inputs.config = config;
        inputs.gate.configure(&inputs.config);
        let Candidate { set, problems, whole, awaited, prepared } = candidate;
        (pending.whole, pending.prepared) = (whole, prepared);
        let unfinished = !awaited.is_empty() && problems.is_empty();
        report.found.extend(problems);
        let stays = |subject: &Subject| {
            awaited.iter().any(|name| subject.is_policy(name.as_str()))
                || unfinished && *subject == Subject::Change
        };
        report.found.extend(found.iter().filter(|problem| stays(&problem.subject)).cloned());
        self.settle(set, unfinished, cause);
        Ok(())
    }

    /// Puts a candidate in force, or keeps it pending. While a file is `unfinished`, the files do not yet
    /// decide about the candidate that is pending.
    fn settle(&mut self, set: PolicySet, unfinished: bool, cause: Cause) {
        let Reloader { inputs, in_force, pending, report, .. } = self;
        let before = pending.candidate.take();
        pending.candidate = match settle(set, cause, before.as_ref(), in_force, &mut inputs.gate) {
            Step::Publish(next) => return in_force.publish(next, pending, &report.found),
            Step::Wait(candidate) => Some(candidate),
            Step::Nothing => {
                in_force.confirm();
                before.filter(|_| unfinished)
            }
        };
        in_force.record_hold(pending);
    }

    /// Publishes the status, and logs the problems that are new.
    fn report(&mut self) {
        let Reloader { inputs, in_force, pending, report, .. } = self;
        let mut problems = report.found.clone();
        problems.extend(pending.problem(in_force.basis));
        problems.extend(in_force.missing());
        problems.extend(in_force.history.problems());
        problems.extend(inputs.gate_problem());
        problems.extend(report.lasting());
        problems.extend(inputs.problems());
        report.publish(ReloadStatus {
            problems: problems.iter().map(Problem::bounded).collect(),
            candidate: pending.summary().cloned(),
            pinned: in_force.basis == Basis::Rollback,
            history: in_force.history.summaries().to_vec(),
            results: report.results,
        });
    }
}

/// Returns the candidate of a configuration.
fn candidate(
    config: &Config,
    inputs: &mut Inputs,
    in_force: &InForce,
    pending: &Pending,
) -> Result<Candidate, NotNow> {
    let (current, state) = (in_force.current(), in_force.history.directory());
    let watcher = inputs.watcher.as_ref();
    let fallback = match in_force.basis {
        Basis::DenyAll => Fallback::LastGood(state),
        Basis::Files | Basis::Rollback => Fallback::InForce(Running {
            current: &current,
            config: &inputs.config,
            prepared: &pending.prepared,
            state,
            watcher,
        }),
    };
    let candidate = assemble(&inputs.compiler, config, fallback, &mut inputs.rejected);
    candidate
        .map_err(|problem| NotNow::because(watcher, config.policy_directory.as_deref().as_slice(), problem))
}

/// Puts changed TLS material in force. TLS material does not wait for policies: an expired certificate would
/// lock out every client.
fn follow_tls(config: &TlsConfig, inputs: &Inputs, in_force: &mut InForce) -> Result<(), NotNow> {
    let material = inputs.read_tls(config)?;
    if material == in_force.material {
        return Ok(());
    }
    let server_config = material.server_config().map_err(|error| inputs.wrong_tls(config, &error))?;
    in_force.tls.publish(server_config);
    in_force.material = material;
    tracing::info!("new TLS material in force");
    Ok(())
}
