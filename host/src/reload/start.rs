//! The start of the host: it puts the configured set in force, or the set of the previous process.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use super::candidate::Refused;
use super::standing::{first as first_of, listed};
use super::{
    Asker, Before, Candidate, Looking, PATIENCE, Problem, Reloader, Results, Standing, StandingReader,
    StartError, assemble, restore,
};
use crate::config::Config;
use crate::limits;
use crate::policy::manifest::{Cause, Publication};
use crate::policy::{Cache, Engine, PolicyReader, PolicySet, PolicyStore, Preparer, Purpose};
use crate::reload::gate::{Gate, Recent, Ruling};
use crate::reload::history::{Damaged, Record, StateDirectory, StateError, is_number};
use crate::telemetry::decision_log::DecisionLog;
use crate::text;
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
    pub standing: StandingReader,
    /// Sender of commands to the reload.
    pub asker: Asker,
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
    let engine = Engine::new(Purpose::Serve { policies: expected_policies(&config) })?;

    let mut lasting = Vec::new();
    if let Some(why) = engine.no_pool() {
        lasting.push(Problem {
            subject: "instances".to_owned(),
            message: format!(
                "there is too little address space for a pool of them, so each review is slower: {why} (raise `ulimit -v`)"
            ),
        });
    }
    let state = state(&config, &mut lasting)?;
    let cache = cache(state.as_ref(), config.limits.cache, &mut lasting).map_err(StartError::Prepare)?;
    let preparer = Preparer::new(engine, cache, program, true).map_err(StartError::Prepare)?;
    let mut gate = Gate::default();
    gate.configure(&config);
    let mut refused = Refused::default();
    let first = First::of(&preparer, &config, state.as_ref(), &mut gate, &mut refused);

    let newest = state.as_ref().and_then(StateDirectory::newest);
    let publication = match newest {
        Some(newest) if newest.content == first.candidate.set.content() => newest.summary.publication.clone(),
        _ => Publication {
            number: state.as_ref().map_or(1, StateDirectory::next_number),
            published: SystemTime::now(),
            cause: Cause::Start,
        },
    };
    let doubt = state.as_ref().and_then(StateDirectory::lost).map(|number| {
        format!("the record of generation {number} is damaged, so nobody knows whether this was held")
    });
    let pinned = newest.is_some_and(|newest| newest.summary.pinned);
    let before = newest.filter(|newest| newest.summary.publication != publication);
    let before = before.map(|newest| newest.content.clone());
    let recorded = newest.filter(|newest| newest.summary.publication == publication).cloned();
    let Candidate { set, problems, whole, prepared, awaited: _ } = first.candidate;
    let set = set.published(publication);
    let history = state.as_ref().map(|state| VecDeque::from(state.history().to_vec())).unwrap_or_default();
    match first.closed {
        false => tracing::info!("generation {} in force: {}", set.generation(), names(&set)),
        true => tracing::error!("generation {} in force, which denies everything", set.generation()),
    }
    super::warn(&set);

    let (store, policies) = PolicyStore::new(set);
    let (tls_store, tls) = TlsStore::new(server_config);
    let decision_log = DecisionLog::default();
    decision_log.configure(config.decision_log.as_ref());
    let standing = Arc::new(ArcSwap::from_pointee(Standing::default()));
    let looking = Arc::<Looking>::default();
    let (asker, asked) = Asker::new();
    let recent = gate.recent();
    let mut reloader = Reloader {
        preparer,
        bound: config.clone(),
        config: config.clone(),
        material,
        state,
        lasting,
        policies: store,
        tls: tls_store,
        decision_log: decision_log.clone(),
        gate,
        watcher: None,
        closed: first.closed,
        pinned,
        doubt,
        waiting: None,
        whole,
        prepared,
        history,
        problems: first_of(&problems, limits::PROBLEMS.size()),
        panicked: None,
        results: Results::default(),
        standing: Arc::clone(&standing),
        looking: Arc::clone(&looking),
        refused,
        asked,
        asker: asker.clone(),
    };
    if !first.closed {
        let set = policies.current();
        let components = reloader.take_components(&set);
        let record = recorded.unwrap_or_else(|| reloader.record(&set, before.as_ref(), None));
        reloader.keep(record, components);
    }
    reloader.report();
    let standing = StandingReader { standing, looking: Arc::downgrade(&looking) };
    Ok(Started { reloader, config, policies, tls, standing, asker, decision_log, recent })
}

/// The first candidate of a process.
struct First {
    candidate: Candidate,
    /// Whether the set denies everything, because no set that may judge was available.
    closed: bool,
}

impl First {
    fn of(
        preparer: &Preparer,
        config: &Config,
        state: Option<&StateDirectory>,
        gate: &mut Gate,
        refused: &mut Refused,
    ) -> First {
        let open = |candidate| First { candidate, closed: false };
        let closed = |problem| First { candidate: Candidate::closed(config, problem), closed: true };
        let newest = state.and_then(|state| Some((state, state.newest()?)));
        let before = newest.map(|(state, newest)| {
            move || {
                let set = restore::set(preparer, state, newest, Instant::now() + PATIENCE);
                open(Candidate {
                    problems: restore::problems(&set),
                    set,
                    whole: true,
                    awaited: Vec::new(),
                    prepared: Vec::new(),
                })
            }
        });
        // The first reload then judges the configured set.
        let waits = newest.is_some_and(|(_, newest)| newest.summary.pinned) || gate.asks();
        match before {
            Some(before) if waits => before(),
            before => match (assemble(preparer, config, Before::Start(state), refused), before) {
                (Ok(candidate), Some(_)) => open(candidate),
                (Ok(candidate), None) => match gate.judge(&candidate.set, None) {
                    Ruling::Swap(_) => open(candidate),
                    Ruling::Hold(_, message) | Ruling::Refuse(message) => {
                        let mut first =
                            closed(Problem { subject: "the first policy set".to_owned(), message });
                        first.candidate.problems.extend(candidate.problems);
                        first
                    }
                },
                (Err(problem), Some(before)) => {
                    let mut first = before();
                    let message =
                        format!("{} (the generation that was in force before is so again)", problem.message);
                    first.candidate.problems.push(Problem { message, ..problem });
                    first
                }
                (Err(problem), None) => closed(problem),
            },
        }
    }
}

/// Returns the number of policies that are named, plus the number of files that may be policies.
fn expected_policies(config: &Config) -> usize {
    let files = config.policy_directory.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
    config.policies.len() + files.map_or(0, |files| files.take(limits::POLICIES.size()).count())
}

fn state(config: &Config, lasting: &mut Vec<Problem>) -> Result<Option<StateDirectory>, StartError> {
    let Some(path) = &config.state_directory else { return Ok(None) };
    let subject = text::path(path);
    match StateDirectory::open(path) {
        Ok(state) => {
            let damaged = state.damaged();
            let (others, told) = damaged.split_at(damaged.len().saturating_sub(TOLD));
            lasting.extend(told.iter().map(|Damaged { number, why }| Problem {
                subject: subject.clone(),
                message: format!("{why} ({}; told until the next start)", instead(*number, state.newest())),
            }));
            if !others.is_empty() {
                let message = format!("{} more records are damaged", others.len());
                lasting.push(Problem { subject: subject.clone(), message });
            }
            Ok(Some(state))
        }
        Err(error @ StateError::InUse(..)) => Err(StartError::State(error)),
        Err(StateError::Unusable(error)) => {
            lasting.push(Problem {
                subject,
                message: format!(
                    "the state directory cannot be used, so there is no last good version to fall back on and no way \
                     back, and what is configured is in force though a rollback or a held candidate may be recorded \
                     there: {error} (mend it, restart, and look at `host status`)"
                ),
            });
            Ok(None)
        }
    }
}

/// Number of damaged records that are reported one by one: the newest ones.
const TOLD: usize = 8;

/// Describes the replacement of a generation whose record is damaged, and the next step for the operator.
fn instead(damaged: u64, newest: Option<&Record>) -> String {
    const FORGOTTEN: &str = "if it was a rollback, or held a candidate, that is forgotten: see `host status`, and put back what is to be in \
                             force with `host rollback --to NUMBER`";
    match newest.map(|newest| newest.summary.publication.number) {
        _ if !is_number(damaged) => "generations are counted on without it".to_owned(),
        Some(newest) if newest > damaged => "there are later ones: remove the file".to_owned(),
        Some(newest) => format!("generation {newest} took its place; {FORGOTTEN}"),
        None => "there is no other, so what is configured is in force, also where it was held or something older was \
                 put back: look at `host status`, and remove the file"
            .to_owned(),
    }
}

/// Opens the cache in the state directory, or else a temporary folder that is removed with the process.
fn cache(state: Option<&StateDirectory>, bytes: u64, lasting: &mut Vec<Problem>) -> std::io::Result<Cache> {
    if let Some(state) = state {
        let folder = state.cache();
        match Cache::open(&folder, bytes) {
            Ok(cache) => return Ok(cache),
            Err(error) => lasting.push(Problem {
                subject: text::path(&folder),
                message: format!(
                    "what is compiled cannot be kept there, so it is compiled again at the next start: {error}"
                ),
            }),
        }
    }
    let cache = Cache::temporary(bytes)?;
    tracing::info!(
        "compiled policies are kept until the host stops: without a usable `stateDirectory` there is no place for them"
    );
    Ok(cache)
}

fn names(set: &PolicySet) -> String {
    let names: Vec<_> = set.policies.iter().map(|entry| entry.name.as_str()).collect();
    if names.is_empty() { "no policy".to_owned() } else { listed(&names) }
}
