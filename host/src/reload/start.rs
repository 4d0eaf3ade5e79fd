//! The start of the host: it puts the configured set in force, or the set of the previous process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::event::Events;
use super::in_force::{Basis, InForce, warn};
use super::inputs::Inputs;
use super::pending::Pending;
use super::status::Report;
use super::{
    Candidate, Fallback, PATIENCE, ReloadHandle, Reloader, StartError, StatusReader, assemble, restore,
};
use crate::config::Config;
use crate::limits;
use crate::policy::manifest::{Cause, Publication};
use crate::policy::{Cache, Compiler, Engine, PolicyReader, PolicySet, PolicyStore, Purpose};
use crate::problem::{Instead, Problem, Subject, listed};
use crate::reload::gate::{Recent, Ruling};
use crate::reload::history::{Damaged, History, Record, StateDirectory, StateError, is_number};
use crate::telemetry::decision_log::DecisionLog;
use crate::tls::{Material, TlsReader, TlsStore};

/// A host that is ready to serve.
pub struct Started {
    /// The reload, which brings the next generations.
    pub reloader: Reloader,
    /// The configuration at the start.
    pub config: Config,
    /// Reader of the policy set in force.
    pub policies: PolicyReader,
    /// Reader of the TLS material in force.
    pub tls: TlsReader,
    /// Reader of the reload's status.
    pub status: StatusReader,
    /// Sender of commands to the reload.
    pub handle: ReloadHandle,
    /// The decision log, which follows the configuration in force.
    pub decision_log: DecisionLog,
    /// The recent reviews, on which candidates are tried.
    pub recent: Arc<Recent>,
}

/// Reads the configuration and puts the first generation of the process in force. The first generation is the
/// configured set. The generation of the previous process comes into force instead if a rollback is in force,
/// if there is a gate, or if the configured set as a whole may not come into force. A policy that cannot be
/// loaded does not prevent a start: without a listening host the apiserver's `defaultAllow` would decide.
/// `program` is the `host` binary that compiles policies in a separate process.
///
/// # Errors
/// Returns an error if the configuration or the TLS material is wrong, if the machine cannot run or compile
/// policies, or if another host uses the state directory.
pub fn start(path: &Path, program: PathBuf) -> Result<Started, StartError> {
    let config = Config::read(path)?;
    let material = Material::read(&config.require_serving()?.tls)?;
    let server_config = material.server_config()?;
    let mut lasting = Vec::new();
    let engine = engine(&config, &mut lasting)?;
    let state = state(&config, &mut lasting)?;
    let cache = cache(state.as_ref(), config.limits.cache, &mut lasting).map_err(StartError::Compiler)?;
    let compiler = Compiler::new(engine, cache, program, true).map_err(StartError::Compiler)?;
    let mut inputs = Inputs::new(compiler, config.clone());
    let First { candidate, closed } = First::of(&mut inputs, state.as_ref());

    let history = History::new(state);
    let Candidate { set, problems, whole, prepared, awaited: _ } = candidate;
    let set = published(set, &history);
    match closed {
        false => tracing::info!("generation {} in force: {}", set.generation(), names(&set)),
        true => tracing::error!("generation {} in force, which denies everything", set.generation()),
    }
    warn(&set);

    let (store, policies) = PolicyStore::new(set);
    let (tls_store, tls) = TlsStore::new(server_config);
    let decision_log = DecisionLog::default();
    decision_log.configure(config.decision_log.as_ref());
    let mut in_force = InForce {
        policies: store,
        tls: tls_store,
        material,
        decision_log: decision_log.clone(),
        basis: basis(closed, &history),
        latest_damage: latest_damage(&history),
        history,
    };
    let mut pending = Pending { candidate: None, whole, prepared };
    let report = Report::new(lasting, &problems);
    if !closed {
        record_first(&mut in_force, &mut pending, &report.found);
    }
    let events = Events::new();
    let (status, recent, handle) = (report.reader(), inputs.gate.recent(), ReloadHandle(events.sender()));
    let mut reloader = Reloader { inputs, in_force, pending, report, events };
    reloader.report();
    Ok(Started { reloader, config, policies, tls, status, handle, decision_log, recent })
}

/// Publishes the first set of a process. A set with the content of the newest generation is that generation.
fn published(set: PolicySet, history: &History) -> PolicySet {
    let newest = history.recorded().filter(|newest| newest.content == set.content());
    let publication = newest.map(|newest| newest.summary.publication.clone());
    set.published(publication.unwrap_or_else(|| Publication {
        number: history.number_after(0),
        published: SystemTime::now(),
        cause: Cause::Start,
    }))
}

/// Returns the basis of the first generation. A set that denies everything comes into force only without a
/// recorded generation, so never during a rollback.
fn basis(closed: bool, history: &History) -> Basis {
    match history.recorded() {
        _ if closed => Basis::DenyAll,
        Some(newest) if newest.summary.pinned => Basis::Rollback,
        _ => Basis::Files,
    }
}

/// Returns the reason why it is unknown whether a candidate was held when the previous process ended.
fn latest_damage(history: &History) -> Option<String> {
    let number = history.directory()?.damaged_latest()?;
    Some(format!("the record of generation {number} is damaged, so nobody knows whether this was held"))
}

/// Records the first generation of a process. `found` holds the problems of the start.
fn record_first(in_force: &mut InForce, pending: &mut Pending, found: &[Problem]) {
    let set = in_force.current();
    let record = match in_force.history.recorded() {
        Some(newest) if newest.summary.publication == *set.publication() => newest.clone(),
        newest => {
            let before = newest.map(|newest| newest.content.clone());
            in_force.record(&set, before.as_ref(), None, pending.whole, found)
        }
    };
    in_force.history.append(record, pending.take_components(&set));
}

/// The first candidate of a process.
struct First {
    candidate: Candidate,
    /// Whether the set denies everything, because no set that may judge was available.
    closed: bool,
}

impl First {
    fn of(inputs: &mut Inputs, state: Option<&StateDirectory>) -> First {
        let Inputs { compiler, config, gate, rejected, .. } = inputs;
        let open = |candidate| First { candidate, closed: false };
        let closed = |problem| First { candidate: Candidate::closed(config, problem), closed: true };
        let newest = state.and_then(|state| Some((state, state.newest()?)));
        let before = newest.map(|(state, newest)| {
            || {
                let set = restore::set(compiler, state, newest, Instant::now() + PATIENCE);
                let problems = restore::problems(&set);
                open(Candidate::fixed(set, problems))
            }
        });
        // The first reload then judges the configured set.
        let waits = newest.is_some_and(|(_, newest)| newest.summary.pinned) || gate.asks();
        match before {
            Some(before) if waits => before(),
            before => match (assemble(compiler, config, Fallback::LastGood(state), rejected), before) {
                (Ok(candidate), Some(_)) => open(candidate),
                (Ok(candidate), None) => match gate.judge(&candidate.set, None) {
                    Ruling::Swap(_) => open(candidate),
                    Ruling::Hold(_, why) | Ruling::Reject(why) => {
                        let mut first = closed(Problem::new(Subject::FirstPolicySet, why));
                        first.candidate.problems.extend(candidate.problems);
                        first
                    }
                },
                (Err(problem), Some(before)) => {
                    let mut first = before();
                    first.candidate.problems.push(problem.with_instead(Instead::PreviousGeneration));
                    first
                }
                (Err(problem), None) => closed(problem),
            },
        }
    }
}

fn engine(config: &Config, lasting: &mut Vec<Problem>) -> Result<Engine, StartError> {
    let engine = Engine::new(Purpose::Serve { policies: expected_policies(config) })?;
    if let Some(why) = engine.no_pool() {
        let what =
            format!("there is too little address space for a pool of them, so each review is slower: {why}");
        lasting.push(Problem::new(Subject::Instances, what).with_remedy("raise `ulimit -v`"));
    }
    Ok(engine)
}

/// Returns the number of policies that are named, plus the number of files that may be policies.
fn expected_policies(config: &Config) -> usize {
    let files = config.policy_directory.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
    config.policies.len() + files.map_or(0, |files| files.take(limits::POLICIES.size()).count())
}

fn state(config: &Config, lasting: &mut Vec<Problem>) -> Result<Option<StateDirectory>, StartError> {
    let Some(path) = &config.state_directory else { return Ok(None) };
    let problem = |what: String| Problem::new(Subject::state_directory(path), what);
    match StateDirectory::open(path) {
        Ok(state) => {
            let damaged = state.damaged();
            let (others, told) = damaged.split_at(damaged.len().saturating_sub(TOLD));
            lasting.extend(told.iter().map(|Damaged { number, why }| {
                let remedy = format!("{}; told until the next start", instead(*number, state.newest()));
                problem(why.to_string()).with_remedy(remedy)
            }));
            if !others.is_empty() {
                lasting.push(problem(format!("{} more records are damaged", others.len())));
            }
            Ok(Some(state))
        }
        Err(error @ StateError::InUse(..)) => Err(StartError::State(error)),
        Err(StateError::Unusable(error)) => {
            let what = format!(
                "the state directory cannot be used, so there is no last good version to fall back on and no \
                 way back, and what is configured is in force though a rollback or a held candidate may be \
                 recorded there: {error}"
            );
            lasting.push(problem(what).with_remedy("mend it, restart, and look at `host status`"));
            Ok(None)
        }
    }
}

/// Number of damaged records that are reported one by one: the newest ones.
const TOLD: usize = 8;

/// Describes the replacement of a generation whose record is damaged, and the next step for the operator.
fn instead(damaged: u64, newest: Option<&Record>) -> String {
    const FORGOTTEN: &str = "if it was a rollback, or held a candidate, that is forgotten: see `host \
        status`, and put back what is to be in force with `host rollback --to NUMBER`";
    match newest.map(|newest| newest.summary.publication.number) {
        _ if !is_number(damaged) => "generations are counted on without it".to_owned(),
        Some(newest) if newest > damaged => "there are later ones: remove the file".to_owned(),
        Some(newest) => format!("generation {newest} took its place; {FORGOTTEN}"),
        None => "there is no other, so what is configured is in force, also where it was held or something \
                 older was put back: look at `host status`, and remove the file"
            .to_owned(),
    }
}

/// Opens the cache in the state directory, or else a temporary folder that is removed with the process.
fn cache(state: Option<&StateDirectory>, bytes: u64, lasting: &mut Vec<Problem>) -> std::io::Result<Cache> {
    if let Some(state) = state {
        let folder = state.cache();
        match Cache::open(&folder, bytes) {
            Ok(cache) => return Ok(cache),
            Err(error) => {
                let what = format!(
                    "what is compiled cannot be kept there, so it is compiled again at the next start: \
                        {error}"
                );
                lasting.push(Problem::new(Subject::file(&folder), what));
            }
        }
    }
    let cache = Cache::temporary(bytes)?;
    tracing::info!(
        "compiled policies are kept until the host stops: without a usable `stateDirectory` there is no \
            place for them"
    );
    Ok(cache)
}

fn names(set: &PolicySet) -> String {
    let names: Vec<_> = set.policies.iter().map(|entry| entry.name.as_str()).collect();
    if names.is_empty() { "no policy".to_owned() } else { listed(&names) }
}
