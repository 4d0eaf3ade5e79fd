//! Preparation of policies: taken from the cache if known, else compiled in a child process. The snapshot
//! follows in the background.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::Cache;
use super::child::{self, Bounds, Failure, Task};
use super::confine::Confinement;
use crate::config::{HostLimits, PolicyLimits};
use crate::policy::load::{LoadError, Policy, check_front};
use crate::policy::sandbox::engine::Engine;
use crate::policy::sandbox::native::{Compiled, digest};
use crate::review::verdict::LogLine;

/// Number of child processes at a time. Each compiles on one thread.
const CHILDREN: usize = 2;
/// Niceness of the threads that prepare, and of each child from its first instruction, so that reviews come
/// first (nice(2)).
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
pub struct Wanted<'a> {
    /// Component of the policy.
    pub component: &'a Component,
    /// Settings to configure the policy with.
    pub settings: &'a Value,
    /// Limits of its instances.
    pub limits: &'a PolicyLimits,
}

/// Service that compiles and loads policies.
pub struct Preparer {
    shared: Arc<Shared>,
    snapshots: bool,
    /// Folder of a temporary cache. The threads do not hold it, because they may outlive the preparer.
    _temporary: Option<tempfile::TempDir>,
}

struct Shared {
    engine: Engine,
    cache: Cache,
    /// Limits of a child.
    bounds: Mutex<Bounds>,
    /// Confinement of the last child; None before the first.
    confinement: Mutex<Option<Confinement>>,
    /// Path of the `host` program that children run.
    program: PathBuf,
    /// Identity of that program's build and of wasmtime. Code from another build is not used.
    build: String,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    /// Jobs that no thread has begun.
    queue: VecDeque<Arc<Job>>,
    /// Every job that is queued, running or waited for, by its key.
    jobs: HashMap<String, Weak<Job>>,
    /// Finished jobs whose waiting threads had given up, kept until the next request for the same component.
    unclaimed: HashMap<String, Arc<Job>>,
    /// Snapshots to take: each policy, with the bytes of its component.
    snapshots: VecDeque<(Weak<Policy>, Arc<[u8]>)>,
    /// Callback for the end of an unclaimed job.
    ready: Option<Box<dyn Fn() + Send>>,
    closed: bool,
}

/// Compilation of one component, shared by all threads that wait for it.
struct Job {
    key: String,
    component: Arc<[u8]>,
    /// Result, set once, under the lock of `Work`.
    result: OnceLock<Result<Arc<Compiled>, LoadError>>,
    /// Whether a waiting thread gave up; set under the lock of `Work`.
    abandoned: AtomicBool,
}

/// Jobs of one call, by the digest of their component. They live as long as the call, so all its policies
/// share the result of each job, success or error.
type Batch = HashMap<String, OnceLock<Result<Arc<Job>, LoadError>>>;

/// First line of a cache entry for a component with certain settings. The native code of the snapshot
/// follows.
#[derive(Serialize, Deserialize)]
struct Configured {
    log: Vec<LogLine>,
    /// Whether a snapshot exists, or the reason why none does.
    snapshot: Result<(), String>,
}

impl Preparer {
    /// Starts the threads that prepare. Children run `program`, which must be a `host` of the same build.
    /// Without `snapshots` every instance is configured: for work that ends before a snapshot would be taken.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn new(
        engine: Engine,
        mut cache: Cache,
        program: PathBuf,
        snapshots: bool,
    ) -> std::io::Result<Preparer> {
        let temporary = cache.take_temporary();
        let build = build(&engine, &program);
        let shared = Arc::new(Shared {
            engine,
            cache,
            bounds: Mutex::new(bounds(&HostLimits::default())),
            confinement: Mutex::default(),
            program,
            build,
            work: Mutex::default(),
            changed: Condvar::new(),
        });
        for number in 0..CHILDREN {
            let shared = Arc::clone(&shared);
            // Only one thread takes snapshots, so the other is always free to compile.
            let snapshots = number == 0;
            std::thread::Builder::new().name("prepare".to_owned()).spawn(move || {
                // A failure costs reviews some more time, but not much. On Linux niceness belongs to the
                // thread.
                let _ = rustix::process::nice(NICE);
                shared.work(snapshots);
            })?;
        }
        Ok(Preparer { shared, snapshots, _temporary: temporary })
    }

    /// Returns the path of the program that this process runs. An upgrade on disk does not change that
    /// program (proc_pid_exe(5)).
    pub fn this_program() -> PathBuf {
        PathBuf::from("/proc/self/exe")
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

    /// Removes queued and unclaimed jobs of components that are not among `wanted`.
    pub fn retain(&self, wanted: &HashSet<String>) {
        let keys: HashSet<_> = wanted.iter().map(|digest| self.shared.compiled_key(digest)).collect();
        let mut work = self.shared.lock();
        work.queue.retain(|job| keys.contains(&job.key));
        work.unclaimed.retain(|key, _| keys.contains(key));
    }

    /// Loads all policies as [`Preparer::load`] does, on at most as many threads as there are processors.
    /// Each component is compiled once. The results are in the order of `wanted`.
    pub fn load_all(&self, wanted: &[Wanted<'_>], until: Instant) -> Vec<Result<Arc<Policy>, LoadError>> {
        let batch: Batch =
            wanted.iter().map(|wanted| (wanted.component.digest.clone(), OnceLock::new())).collect();
        let load = |wanted: &Wanted<'_>| self.load_of(&batch, wanted, until);
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
        let missing = || Err(LoadError::Unprepared("it was left out; please report this".to_owned()));
        results.into_iter().map(|result| result.into_inner().unwrap_or_else(missing)).collect()
    }

    /// Waits until a component is compiled, and loads it with its settings.
    ///
    /// # Errors
    /// Returns [`LoadError`]; [`LoadError::Preparing`] if the component is not compiled by `until`.
    /// Compilation then continues.
    pub fn load(
        &self,
        component: &Component,
        settings: &Value,
        limits: &PolicyLimits,
        until: Instant,
    ) -> Result<Arc<Policy>, LoadError> {
        self.load_of(&Batch::new(), &Wanted { component, settings, limits }, until)
    }

    fn load_of(&self, batch: &Batch, wanted: &Wanted<'_>, until: Instant) -> Result<Arc<Policy>, LoadError> {
        let (shared, Wanted { component, settings, limits }) = (&self.shared, *wanted);
        let (digest, settings) = (component.digest.clone(), settings.to_string());
        let key = shared.configured_key(&digest, &settings, limits);
        let known = shared.cache.get(&key).and_then(|entry| read_configured(&entry));
        if let Some((Configured { log, snapshot: Ok(()) }, code)) = known.as_ref() {
            let code = Compiled::vouched(code.clone());
            let policy = Policy::of_snapshot(
                &shared.engine,
                &code,
                digest.clone(),
                settings.clone(),
                limits,
                log.clone(),
            );
            // An entry that cannot be loaded counts as absent.
            if let Ok(policy) = policy {
                return Ok(Arc::new(policy));
            }
        }
        let job = || shared.job(component);
        let job = match batch.get(&digest) {
            Some(shared) => shared.get_or_init(job).clone()?,
            None => job()?,
        };
        let compiled = shared.wait(&job, until)?;
        let policy = Policy::configured_each_time(&shared.engine, &compiled, digest, settings, limits)?;
        let policy = Arc::new(policy);
        match known {
            Some((Configured { snapshot: Err(why), .. }, _)) => policy.decide_snapshot(Err(why)),
            _ if self.snapshots => shared.take_later(&policy, component),
            _ => {}
        }
        Ok(policy)
    }

    /// Takes the snapshot of a policy now, on this thread. The policy adopts it only if instances start
    /// faster.
    pub fn snapshot(&self, policy: &Policy, component: &[u8]) {
        self.shared.snapshot(policy, component);
    }

    /// Registers a callback for the end of every compilation whose waiting threads had given up.
    pub fn when_ready(&self, ready: impl Fn() + Send + 'static) {
        self.shared.lock().ready = Some(Box::new(ready));
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Work {
    /// Returns the job with this key, and claims it if it was unclaimed.
    fn existing(&mut self, key: &str) -> Option<Arc<Job>> {
        self.unclaimed.remove(key).or_else(|| self.jobs.get(key)?.upgrade())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }

    fn compiled_key(&self, component: &str) -> String {
        digest(format!("compiled\n{}\n{component}", self.build).as_bytes())
    }

    fn configured_key(&self, component: &str, settings: &str, limits: &PolicyLimits) -> String {
        let limits = serde_json::to_string(limits).unwrap_or_default();
        digest(format!("configured\n{}\n{component}\n{limits}\n{settings}", self.build).as_bytes())
    }

    /// Returns the job that compiles `component`: an existing job, a job finished from the cache, or a new
    /// one.
    fn job(&self, component: &Component) -> Result<Arc<Job>, LoadError> {
        let key = self.compiled_key(&component.digest);
        if let Some(job) = self.lock().existing(&key) {
            return Ok(job);
        }
        let job = Arc::new(Job {
            key,
            component: Arc::clone(&component.bytes),
            result: OnceLock::new(),
            abandoned: AtomicBool::new(false),
        });
        if let Some(code) = self.cache.get(&job.key) {
            job.result.get_or_init(|| Ok(Arc::new(Compiled::vouched(code))));
            return Ok(job);
        }
        check_front(&component.bytes)?;
        let mut work = self.lock();
        // Another thread may have queued the same job meanwhile.
        if let Some(job) = work.existing(&job.key) {
            return Ok(job);
        }
        work.jobs.retain(|_, job| job.strong_count() > 0);
        work.jobs.insert(job.key.clone(), Arc::downgrade(&job));
        work.queue.push_back(Arc::clone(&job));
        self.changed.notify_all();
        Ok(job)
    }

    /// Waits until a job has finished. Returns [`LoadError::Preparing`] after `until`; the job then continues
    /// for the next request.
    fn wait(&self, job: &Job, until: Instant) -> Result<Arc<Compiled>, LoadError> {
        let mut work = self.lock();
        loop {
            if let Some(result) = job.result.get() {
                work.unclaimed.remove(&job.key);
                return result.clone();
            }
            let left = until.checked_duration_since(Instant::now());
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                job.abandoned.store(true, Ordering::Relaxed);
                return Err(LoadError::Preparing);
            };
            self.changed.wait_for(&mut work, left);
        }
    }

    /// Queues the snapshot of a policy. Removes queued snapshots of dropped policies, so their components do
    /// not stay in memory.
    fn take_later(&self, policy: &Arc<Policy>, component: &Component) {
        let mut work = self.lock();
        work.snapshots.retain(|(policy, _)| policy.strong_count() > 0);
        work.snapshots.push_back((Arc::downgrade(policy), Arc::clone(&component.bytes)));
        self.changed.notify_all();
    }

    /// Runs jobs until the preparer is dropped. With `snapshots`, takes snapshots while no job is queued.
    fn work(&self, snapshots: bool) {
        loop {
            let mut work = self.lock();
            let (job, snapshot) = loop {
                if work.closed {
                    return;
                }
                if let Some(job) = work.queue.pop_front() {
                    break (Some(job), None);
                }
                if snapshots && let Some(snapshot) = work.snapshots.pop_front() {
                    break (None, Some(snapshot));
                }
                self.changed.wait(&mut work);
            };
            drop(work);
            if let Some(job) = job {
                self.compile(job);
            }
            if let Some((policy, component)) = snapshot
                && let Some(policy) = policy.upgrade()
            {
                let taking = || self.snapshot(&policy, &component);
                if catch_unwind(AssertUnwindSafe(taking)).is_err() {
                    policy.decide_snapshot(Err("a panic; please report this".to_owned()));
                }
            }
        }
    }

    fn compile(&self, job: Arc<Job>) {
        let result = unpanicked(|| match self.compile_in_child(&job.component) {
            Ok(compiled) => Ok(Arc::new(compiled)),
            Err(Failure::Load(error)) => Err(error),
            Err(Failure::Snapshot(error)) => Err(LoadError::Unprepared(error)),
        });
        if let Ok(compiled) = &result {
            self.cache.put(&job.key, compiled.bytes());
        }
        let mut work = self.lock();
        // No other thread sets the result.
        let _ = job.result.set(result);
        self.changed.notify_all();
        if job.abandoned.load(Ordering::Relaxed) {
            work.unclaimed.insert(job.key.clone(), job);
            if let Some(ready) = &work.ready {
                ready();
            }
        }
    }

    fn snapshot(&self, policy: &Policy, component: &[u8]) {
        let (settings, limits) = (policy.settings().to_owned(), policy.limits().clone());
        let key = self.configured_key(policy.digest(), &settings, &limits);
        let (snapshot, code) = match self.compiled_snapshot(settings, limits, component) {
            Ok(compiled) => {
                // A slow or late snapshot may be neither next time, so this outcome is not cached.
                if let Err(why) = policy.adopt(&compiled) {
                    return policy.decide_snapshot(Err(why));
                }
                (Ok(()), Some(compiled))
            }
            Err(Failure::Snapshot(why)) => (Err(why), None),
            Err(Failure::Load(error)) => return policy.decide_snapshot(Err(error.to_string())),
        };
        policy.decide_snapshot(snapshot.clone());
        let known = Configured { log: policy.load_log().to_vec(), snapshot };
        let Ok(mut entry) = serde_json::to_vec(&known) else { return };
        entry.push(b'\n');
        entry.extend_from_slice(code.as_ref().map_or(&[], Compiled::bytes));
        self.cache.put(&key, &entry);
    }

    /// Returns the native code of a snapshot. One child runs `configure` and returns a component. Another
    /// child compiles that component and runs nothing of it. So no native code comes from a process that has
    /// executed code of a component.
    fn compiled_snapshot(
        &self,
        settings: String,
        limits: PolicyLimits,
        component: &[u8],
    ) -> Result<Compiled, Failure> {
        let snapshot = self.child(Task::Snapshot { settings, limits }, component)?;
        check_front(&snapshot).map_err(|error| Failure::Snapshot(error.to_string()))?;
        self.compile_in_child(&snapshot).map_err(|failure| match failure {
            Failure::Load(LoadError::Invalid(why)) => Failure::Snapshot(why),
            failure => failure,
        })
    }

    fn compile_in_child(&self, component: &[u8]) -> Result<Compiled, Failure> {
        self.child(Task::Compile, component).map(Compiled::vouched)
    }

    fn child(&self, task: Task, component: &[u8]) -> Result<Vec<u8>, Failure> {
        let bounds = *self.bounds.lock();
        child::run(&self.program, task, component, bounds, |confinement| {
            *self.confinement.lock() = Some(confinement);
        })
    }
}

/// Converts a panic into an error, so that every waiting thread gets a result.
fn unpanicked<T>(load: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(load))
        .unwrap_or_else(|_| Err(LoadError::Unprepared("a panic; please report this".to_owned())))
}

fn bounds(limits: &HostLimits) -> Bounds {
    Bounds { memory: limits.prepare_memory, time: limits.prepare_time }
}

fn read_configured(entry: &[u8]) -> Option<(Configured, Vec<u8>)> {
    let end = entry.iter().position(|byte| *byte == b'\n')?;
    let (line, code) = entry.split_at_checked(end)?;
    Some((serde_json::from_slice(line).ok()?, code.get(1..)?.to_vec()))
}

/// Returns an identity of the program's build, from its file and the engine. A build with a fixed compiler
/// thus compiles again everything that a faulty compiler made.
fn build(engine: &Engine, program: &Path) -> String {
    let file = match std::fs::metadata(program) {
        Ok(file) => format!("{} {} {} {}", file.len(), file.mtime(), file.mtime_nsec(), file.ino()),
        // Unique, so that no code of another build is used.
        Err(_) => format!("{:?} {}", SystemTime::now(), std::process::id()),
    };
    format!("{} {:016x} {file}", env!("CARGO_PKG_VERSION"), engine.compatibility())
}
