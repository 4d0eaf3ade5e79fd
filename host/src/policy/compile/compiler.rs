//! The compiler of policies: code comes from the cache if known, else from a child process. The snapshot
//! follows in the background.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::cache::Cache;
use super::confine::Confinement;
use super::function_store::FunctionStore;
use super::jobs::{Configured, Job, Shared, unpanicked};
use super::keys::Keys;
use super::process;
use super::worker::Bounds;
use crate::config::{Grants, HostLimits, PolicyLimits};
use crate::fs::frame;
use crate::isolate;
use crate::policy::load::{LoadError, Origin, Policy, SnapshotError};
use crate::policy::sandbox::engine::Engine;
use crate::policy::sandbox::native::{NativeCode, digest};

/// Number of child processes at a time. Each compiles on one thread.
const CHILDREN: usize = 2;
/// Niceness of the threads that compile for a host that serves, and of each child from its first instruction,
/// so that reviews come first (nice(2)).
const NICE: i32 = 10;

/// Bytes of a component and their digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Bytes as in the file, shared by everything that is made from them.
    pub bytes: Arc<[u8]>,
    /// SHA-256, in hexadecimal.
    pub digest: String,
}

impl Component {
    /// Returns a component of any bytes; nothing is checked.
    pub fn new(bytes: Vec<u8>) -> Component {
        Component { digest: digest(&bytes), bytes: bytes.into() }
    }
}

/// Request to load a policy.
#[derive(Clone, Copy)]
pub struct LoadRequest<'a> {
    /// Component of the policy.
    pub component: &'a Component,
    /// Settings to configure the policy with.
    pub settings: &'a Value,
    /// Limits of its instances.
    pub limits: &'a PolicyLimits,
    /// Capabilities that it may import.
    pub grants: &'a Grants,
}

/// The service that compiles and loads policies.
pub struct Compiler {
    shared: Arc<Shared>,
    snapshots: bool,
    /// Policies of an author that are in use, by the key of their configured form. None for a host that
    /// serves, which knows its policies itself.
    in_use: Option<Mutex<HashMap<String, Weak<Policy>>>>,
    /// Folder of a temporary cache. The threads do not hold it, because they may outlive the compiler.
    _temporary: Option<tempfile::TempDir>,
}

/// Difference between the compilers of a host that serves and of an author.
struct Service {
    /// Compiled functions, for an author who waits.
    functions: Option<FunctionStore>,
    snapshots: bool,
}

/// Jobs of one call, by the digest of their component. They live as long as the call, so all its policies
/// share the result of each job, success or error.
type Batch = HashMap<String, OnceLock<Result<Arc<Job>, LoadError>>>;

impl Compiler {
    /// Starts the threads that compile. Children run `program`, which must be a `host` of the same build.
    /// Without `snapshots` every instance is configured: for work that ends before a snapshot would be taken.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn new(engine: Engine, cache: Cache, program: PathBuf, snapshots: bool) -> std::io::Result<Compiler> {
        let keys = Keys::of(&engine, &program);
        Compiler::of(engine, cache, program, keys, Service { functions: None, snapshots })
    }

    /// Starts the threads that compile for an author, who waits for them. Compilation takes all processors,
    /// and functions that it made before from `functions`. The native code is the same as that of
    /// [`Compiler::new`]. A policy that is in use is not loaded again.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn for_author(
        engine: Engine,
        cache: Cache,
        functions: Cache,
        program: PathBuf,
        snapshots: bool,
    ) -> std::io::Result<Compiler> {
        let keys = Keys::of(&engine, &program).for_author();
        let functions = Some(FunctionStore::new(functions, keys.build()));
        Compiler::of(engine, cache, program, keys, Service { functions, snapshots })
    }

    fn of(
        engine: Engine,
        mut cache: Cache,
        program: PathBuf,
        keys: Keys,
        Service { functions, snapshots }: Service,
    ) -> std::io::Result<Compiler> {
        let temporary = cache.take_temporary();
        let waited_for = functions.is_some();
        let shared = Arc::new(Shared {
            engine,
            cache,
            functions,
            bounds: Mutex::new(bounds(&HostLimits::default())),
            confinement: Mutex::default(),
            program,
            keys,
            work: Mutex::default(),
            changed: Condvar::new(),
        });
        for number in 0..CHILDREN {
            let shared = Arc::clone(&shared);
            // Only one thread takes snapshots, so the other is always free to compile.
            let snapshots = number == 0;
            std::thread::Builder::new().name("compile".to_owned()).spawn(move || {
                if !waited_for {
                    isolate::lower_priority(NICE);
                }
                shared.work(snapshots);
            })?;
        }
        let in_use = waited_for.then(Mutex::default);
        Ok(Compiler { shared, snapshots, in_use, _temporary: temporary })
    }

    /// Returns the path of the program that this process runs.
    pub fn this_program() -> PathBuf {
        process::this_program()
    }

    /// Applies `limits` to children and to the cache from now on.
    pub fn limit(&self, limits: &HostLimits) {
        *self.shared.bounds.lock() = bounds(limits);
        self.shared.cache.limit(limits.cache);
    }

    /// Returns the engine on which its policies run.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Returns the cache of its results.
    pub fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// Describes the missing parts of the confinement of the compiling processes. Returns None if nothing is
    /// missing, and before the first such process.
    pub fn unconfined(&self) -> Option<String> {
        let confinement = self.shared.confinement.lock();
        confinement.as_ref().and_then(Confinement::problem)
    }

    /// Removes queued and unclaimed jobs of components that are not among `wanted`. A job for which a thread
    /// waits stays.
    pub fn retain(&self, wanted: &HashSet<String>) {
        let keys: HashSet<_> = wanted.iter().map(|digest| self.shared.keys.compiled(digest)).collect();
        let mut work = self.shared.lock();
        // The queue holds one reference, and each thread that asked for the job another. Only under the lock
        // can a thread get the first one.
        work.queue.retain(|job| keys.contains(&job.key) || Arc::strong_count(job) > 1);
        work.unclaimed.retain(|key, _| keys.contains(key));
    }

    /// Loads all policies as [`Compiler::load`] does, on at most as many threads as there are processors.
    /// Each component is compiled once. The results are in the order of `wanted`.
    pub fn load_all(
        &self,
        wanted: &[LoadRequest<'_>],
        until: Instant,
    ) -> Vec<Result<Arc<Policy>, LoadError>> {
        let batch: Batch =
            wanted.iter().map(|wanted| (wanted.component.digest.clone(), OnceLock::new())).collect();
        let load = |wanted: &LoadRequest<'_>| self.load_of(&batch, wanted, self.snapshots, until);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
        if threads < 2 {
            return wanted.iter().map(load).collect();
        }
        let next = AtomicUsize::new(0);
        let results: Vec<_> = wanted.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(wanted), Some(result)) = (wanted.get(position), results.get(position)) else {
                        return;
                    };
                    result.get_or_init(|| unpanicked(|| load(wanted)));
                }
            };
            for _ in 1..threads {
                // If the system refuses a further thread, the others do its work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let missing = || Err(LoadError::NotCompiled("it was left out; please report this".to_owned()));
        results.into_iter().map(|result| result.into_inner().unwrap_or_else(missing)).collect()
    }

    /// Waits until a component is compiled, and loads it with its settings and without grants.
    ///
    /// # Errors
    /// Returns [`LoadError`]; [`LoadError::Compiling`] if the component is not compiled by `until`.
    /// Compilation then continues.
    pub fn load(
        &self,
        component: &Component,
        settings: &Value,
        limits: &PolicyLimits,
        until: Instant,
    ) -> Result<Arc<Policy>, LoadError> {
        let grants = &Grants::default();
        let wanted = LoadRequest { component, settings, limits, grants };
        self.load_of(&Batch::new(), &wanted, self.snapshots, until)
    }

    /// Loads a policy as [`Compiler::load`] does, and takes no snapshot. Use it for a policy that judges few
    /// reviews.
    ///
    /// # Errors
    /// Returns the errors of [`Compiler::load`].
    pub fn load_briefly(&self, wanted: &LoadRequest<'_>, until: Instant) -> Result<Arc<Policy>, LoadError> {
        self.load_of(&Batch::new(), wanted, false, until)
    }

    fn load_of(
        &self,
        batch: &Batch,
        wanted: &LoadRequest<'_>,
        snapshots: bool,
        until: Instant,
    ) -> Result<Arc<Policy>, LoadError> {
        let (shared, LoadRequest { component, settings, limits, grants }) = (&self.shared, *wanted);
        let (digest, settings) = (&component.digest, settings.to_string());
        let key = shared.keys.configured(digest, &settings, limits);
        if let Some(policy) = self.in_use(&key, grants) {
            return Ok(policy);
        }
        let origin = || Origin {
            digest: digest.clone(),
            settings: settings.clone(),
            limits: limits.clone(),
            grants: grants.clone(),
        };
        let entry = shared.cache.get(&key);
        let known = entry.as_deref().and_then(frame::split::<Configured>);
        if let Some((Configured { log, impossible: None }, code)) = known.as_ref() {
            let code = NativeCode::trusted(code.to_vec());
            // An entry that cannot be loaded counts as absent.
            if let Ok(policy) = Policy::of_snapshot(&shared.engine, &code, origin(), log.clone()) {
                return Ok(self.used(key, Arc::new(policy)));
            }
        }
        let job = || shared.job(component);
        let job = match batch.get(digest) {
            Some(shared) => shared.get_or_init(job).clone()?,
            None => job()?,
        };
        let compiled = shared.wait(&job, until)?;
        let policy = Policy::configured_each_time(&shared.engine, &compiled, origin())?;
        let policy = Arc::new(policy);
        match known {
            Some((Configured { impossible: Some(why), .. }, _)) => {
                policy.decide_snapshot(Err(SnapshotError::Impossible(why)));
            }
            _ if snapshots => shared.take_later(&policy, component),
            _ => {}
        }
        Ok(self.used(key, policy))
    }

    fn in_use(&self, key: &str, grants: &Grants) -> Option<Arc<Policy>> {
        let policy = self.in_use.as_ref()?.lock().get(key)?.upgrade()?;
        (policy.grants() == grants).then_some(policy)
    }

    /// Records that a policy is in use, if an author uses it.
    fn used(&self, key: String, policy: Arc<Policy>) -> Arc<Policy> {
        if let Some(in_use) = &self.in_use {
            let mut in_use = in_use.lock();
            in_use.retain(|_, policy| policy.strong_count() > 0);
            in_use.insert(key, Arc::downgrade(&policy));
        }
        policy
    }

    /// Takes the snapshot of a policy now, on this thread. The policy adopts it only if instances start
    /// faster.
    pub fn snapshot(&self, policy: &Policy, component: &[u8]) {
        self.shared.snapshot(policy, component);
    }

    /// Registers a callback for the end of every compilation whose waiting threads had given up.
    pub fn when_ready(&self, ready: impl Fn() + Send + Sync + 'static) {
        self.shared.lock().ready = Some(Arc::new(ready));
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

fn bounds(limits: &HostLimits) -> Bounds {
    Bounds { memory: limits.prepare_memory, time: limits.prepare_time }
}
