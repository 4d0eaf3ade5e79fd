//! From hints that files changed to the next generation: read, load, check, swap; and what cannot be loaded never
//! makes things worse.

mod candidate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

pub(crate) use self::candidate::MALFUNCTIONS;
pub use self::candidate::{Before, Candidate, assemble};
use crate::config::{Config, ConfigError, PolicyName};
use crate::decision_log::DecisionLog;
use crate::policy::{Cache, Engine, EngineError, PolicyReader, PolicySet, PolicyStore, Preparer, Purpose};
use crate::state::StateDirectory;
use crate::text;
use crate::tls::{Material, TlsError, TlsReader, TlsStore};
use crate::watch::Watcher;

/// Something that is not as configured, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The policy or file that it is about.
    pub subject: String,
    /// What is wrong, where, and what is in force instead. One line.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A message about a place in a file begins with the file.
        match self.message.starts_with(&self.subject) {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.subject, self.message),
        }
    }
}

/// The problems that there are now, for whoever shows them.
#[derive(Clone)]
pub struct ProblemsReader(Arc<ArcSwap<Vec<Problem>>>);

impl ProblemsReader {
    /// All of them, empty when everything is as configured.
    pub fn current(&self) -> Arc<Vec<Problem>> {
        self.0.load_full()
    }
}

/// Why the host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// host.yaml is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The TLS material cannot serve.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine cannot run policies.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The machine cannot compile policies.
    #[error("policies cannot be compiled on this machine: {0}")]
    Prepare(std::io::Error),
}

/// Brings generations about.
pub struct Reloader {
    preparer: Preparer,
    /// The configuration that the process started with, and is bound to in part.
    bound: Config,
    config: Config,
    material: Material,
    state: Option<StateDirectory>,
    /// What is wrong with the machine rather than with the configuration: no state directory though one is configured,
    /// no folder for the cache, no pool of instances.
    lasting: Vec<Problem>,
    /// What is in force and could not be recorded yet as the last good version.
    unkept: BTreeMap<PolicyName, candidate::Loaded>,
    policies: PolicyStore,
    tls: TlsStore,
    decision_log: DecisionLog,
    /// No set could be put in force yet but one that denies everything, so the last good versions still count.
    closed: bool,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    /// What has been refused already, so that a file that stays broken is not compiled at every hint.
    refused: candidate::Refused,
}

/// A host that is ready to serve.
pub struct Started {
    /// What brings the next generations.
    pub reloader: Reloader,
    /// The configuration that it started with.
    pub config: Config,
    /// Reads the set in force.
    pub policies: PolicyReader,
    /// Reads the TLS material in force.
    pub tls: TlsReader,
    /// Reads the problems.
    pub problems: ProblemsReader,
    /// Follows the configuration in force.
    pub decision_log: DecisionLog,
}

/// Reads the configuration and loads the first generation. A policy that cannot be loaded does not prevent that: not
/// listening would leave the decision to the apiserver's `defaultAllow`. `program` is the `host` that compiles policies
/// in a process of its own.
///
/// # Errors
/// The configuration or the TLS material is wrong.
pub fn start(path: &Path, program: PathBuf) -> Result<Started, StartError> {
    let config = Config::read(path)?;
    let material = Material::read(&config.require_serving()?.tls)?;
    let server_config = material.server_config()?;
    let engine = Engine::new(Purpose::Serve)?;

    let mut lasting = Vec::new();
    if let Some(why) = engine.no_pool() {
        lasting.push(Problem {
            subject: "instances".to_owned(),
            message: format!(
                "there is too little address space for a pool of them, so each review is slower: {why} (raise `ulimit -v`)"
            ),
        });
    }
    let state = config.state_directory.as_deref().and_then(|path| {
        StateDirectory::open(path)
            .inspect_err(|error| {
                lasting.push(Problem {
                    subject: path.display().to_string(),
                    message: format!(
                        "the state directory cannot be used, so a policy that cannot be loaded at the next start has \
                         no last good version to fall back on: {error} (mend it, and restart)"
                    ),
                });
            })
            .ok()
    });
    let cache = cache(state.as_ref(), config.limits.cache, &mut lasting).map_err(StartError::Prepare)?;
    let preparer = Preparer::new(engine, cache, program, true).map_err(StartError::Prepare)?;
    let mut refused = candidate::Refused::default();
    let first = assemble(&preparer, &config, Before::Start(state.as_ref()), &mut refused);
    let closed = first.is_err();
    let first = first.unwrap_or_else(|problem| Candidate::closed(&config, problem));

    let (store, policies) = PolicyStore::new(first.set);
    let (tls_store, tls) = TlsStore::new(server_config);
    let decision_log = DecisionLog::default();
    decision_log.configure(config.decision_log.as_ref());
    let published = Arc::new(ArcSwap::from_pointee(Vec::new()));
    let mut reloader = Reloader {
        preparer,
        bound: config.clone(),
        config: config.clone(),
        material,
        state,
        lasting,
        unkept: BTreeMap::new(),
        policies: store,
        tls: tls_store,
        decision_log: decision_log.clone(),
        closed,
        problems: Arc::clone(&published),
        refused,
    };
    tracing::info!("generation {} in force: {}", policies.current().generation(), names(&policies));
    let mut problems = first.problems;
    reloader.keep(first.loaded, &mut problems);
    reloader.report(problems);
    Ok(Started { reloader, config, policies, tls, problems: ProblemsReader(published), decision_log })
}

/// The cache in the state directory; without one, a folder that goes with the process.
fn cache(state: Option<&StateDirectory>, bytes: u64, lasting: &mut Vec<Problem>) -> std::io::Result<Cache> {
    if let Some(state) = state {
        let folder = state.cache();
        match Cache::open(&folder, bytes) {
            Ok(cache) => return Ok(cache),
            Err(error) => lasting.push(Problem {
                subject: folder.display().to_string(),
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

/// Whether anything would change with `new`: its verdicts, the host's limits, or what a denial tells of a policy that is
/// not loaded.
fn differ(new: &PolicySet, current: &PolicySet) -> bool {
    let errors = |set: &PolicySet| -> Vec<_> {
        set.policies.iter().map(|entry| entry.loaded.as_ref().err().cloned()).collect()
    };
    new.digest() != current.digest() || new.limits != current.limits || errors(new) != errors(current)
}

fn names(policies: &PolicyReader) -> String {
    let set = policies.current();
    let names: Vec<_> = set.policies.iter().map(|entry| entry.name.as_str()).collect();
    if names.is_empty() { "no policy".to_owned() } else { names.join(", ") }
}

impl Reloader {
    /// Follows the files until the watcher is told to stop.
    pub fn run(mut self, mut watcher: Watcher) {
        self.preparer.when_ready(watcher.hinter());
        loop {
            watcher.watch(self.directories());
            // What changed before the watch was there has given no hint.
            self.reload();
            watcher.watch(self.directories());
            if !watcher.wait() {
                return;
            }
        }
    }

    /// Looks at the configuration and all that it names, and puts in force what has changed and is sound.
    pub fn reload(&mut self) {
        let mut problems = Vec::new();
        match self.try_reload(&mut problems) {
            Ok(()) => {}
            Err(problem) => problems.push(problem),
        }
        self.report(problems);
    }

    fn try_reload(&mut self, problems: &mut Vec<Problem>) -> Result<(), Problem> {
        let stays = |subject: &Path, error: &dyn std::fmt::Display| Problem {
            subject: subject.display().to_string(),
            message: format!("{error} (the generation in force stays)"),
        };
        let path = self.config.path.clone();
        let config = Config::read(&path).map_err(|error| stays(&path, &error))?;
        let serving = config.require_serving().map_err(|error| stays(&path, &error))?;
        let tls = |error: TlsError| stays(Path::new("tls"), &error);
        let material = Material::read(&serving.tls).map_err(tls)?;
        let server_config =
            if material == self.material { None } else { Some(material.server_config().map_err(tls)?) };
        problems.extend(self.needs_restart(&config));

        let current = self.policies.current();
        let before = match self.closed {
            true => Before::Start(self.state.as_ref()),
            false => Before::Running(&current),
        };
        let candidate = assemble(&self.preparer, &config, before, &mut self.refused).map_err(|problem| {
            Problem { message: format!("{} (the generation in force stays)", problem.message), ..problem }
        })?;
        self.closed = false;
        if let Some(server_config) = server_config {
            self.tls.publish(server_config);
            self.material = material;
            tracing::info!("new TLS material in force");
        }
        if differ(&candidate.set, &current) {
            let set = self.policies.publish(candidate.set);
            tracing::info!("generation {} in force", set.generation());
        }
        self.decision_log.configure(config.decision_log.as_ref());
        self.config = config;
        problems.extend(candidate.problems);
        self.keep(candidate.loaded, problems);
        Ok(())
    }

    /// Addresses and the state directory are bound to the process.
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
                subject: new.path.display().to_string(),
                message: format!("`{key}` has changed, which needs a restart; the rest is in force"),
            })
            .collect()
    }

    /// Records what was loaded as the last good version. What is in force no more is forgotten only when all is as
    /// configured: until then it may be wanted again.
    fn keep(&mut self, loaded: Vec<candidate::Loaded>, problems: &mut Vec<Problem>) {
        let Some(state) = self.state.as_ref().filter(|_| !self.closed) else { return };
        let in_force = self.policies.current();
        let names: BTreeSet<_> = in_force.policies.iter().map(|entry| entry.name.clone()).collect();
        self.unkept.extend(loaded.into_iter().map(|loaded| (loaded.name.clone(), loaded)));
        let mut kept = Ok(());
        self.unkept.retain(|_, loaded| {
            if kept.is_ok() {
                kept = state.keep(&loaded.name, &loaded.component.bytes, &loaded.settings);
            }
            kept.is_err()
        });
        let kept = kept.and_then(|()| if problems.is_empty() { state.retain(&names) } else { Ok(()) });
        if let Err(error) = kept {
            problems.push(Problem {
                subject: "state directory".to_owned(),
                message: format!(
                    "the last good versions cannot be kept for the next start: {}",
                    text::without_path(&error.to_string())
                ),
            });
        }
    }

    /// Shows the problems that there are, and logs those that are new.
    fn report(&self, mut problems: Vec<Problem>) {
        problems.extend(self.lasting.iter().cloned());
        let cache = self.preparer.cache().trouble();
        problems.extend(cache.map(|message| Problem { subject: "cache".to_owned(), message }));
        let before = self.problems.load();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::error!("{problem}");
        }
        if problems.is_empty() && !before.is_empty() {
            tracing::info!("all that is configured is in force again");
        }
        self.problems.store(Arc::new(problems));
    }

    /// The directories of all files that a generation is made of.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let config = &self.config;
        let modules = config.policies.iter().map(|policy| policy.module.as_path());
        let files = modules.chain(self.material.files()).chain([config.path.as_path()]);
        let mut directories: BTreeSet<PathBuf> =
            files.filter_map(|file| absolute(file).parent().map(Path::to_owned)).collect();
        directories.extend(config.policy_directory.as_deref().map(absolute));
        directories
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
