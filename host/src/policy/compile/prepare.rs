//! Policies, made ready: from the cache where they are known, else compiled in a child, with the snapshot following
//! when it is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Instant, SystemTime};

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

/// Children at a time. Each has one thread.
const CHILDREN: usize = 2;
/// How much all of it gives way to reviews (nice(2)): the threads, and from its first instruction each child.
const NICE: i32 = 10;

/// The bytes of a component, and their digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// As they stand in the file; shared by all that are made of them.
    pub bytes: Arc<[u8]>,
    /// SHA-256 in hexadecimal.
    pub digest: String,
}

impl Component {
    /// Takes the bytes, whatever they are.
    pub fn new(bytes: Vec<u8>) -> Component {
        Component { digest: digest(&bytes), bytes: bytes.into() }
    }
}

/// A policy to be loaded.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Its component.
    pub component: &'a Component,
    /// What it is configured with.
    pub settings: &'a Value,
    /// The bounds of its instances.
    pub limits: &'a PolicyLimits,
}

/// Makes policies ready.
pub struct Preparer {
    shared: Arc<Shared>,
    snapshots: bool,
    /// Here and not with the threads, which may outlive it.
    _temporary: Option<tempfile::TempDir>,
}

struct Shared {
    engine: Engine,
    cache: Cache,
    /// Of a child.
    bounds: Mutex<Bounds>,
    /// The confinement of the last child; None before the first.
    confinement: Mutex<Option<Confinement>>,
    /// The `host` that children run.
    program: PathBuf,
    /// Of that program and of wasmtime: what another one compiled is of no use.
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
    /// Finished jobs that nobody waited for any more, until the next request for the same component.
    unclaimed: HashMap<String, Arc<Job>>,
    /// Snapshots to take, each of a policy that was loaded from these bytes.
    snapshots: VecDeque<(Weak<Policy>, Arc<[u8]>)>,
    /// Called when an unclaimed job has finished.
    ready: Option<Box<dyn Fn() + Send>>,
    closed: bool,
}

/// The compilation of one component, shared by all who wait for it.
struct Job {
    key: String,
    component: Arc<[u8]>,
    /// Set once, under the lock of `Work`.
    result: OnceLock<Result<Arc<Compiled>, LoadError>>,
    /// Someone gave up waiting, under the lock of `Work`.
    abandoned: AtomicBool,
}

/// The jobs of one call, by the digest of their component: they live as long as it, so that all its policies share the
/// result of each, whatever it is.
type Batch = HashMap<String, OnceLock<Result<Arc<Job>, LoadError>>>;

/// What is known of a component with certain settings: the first line of an entry; the snapshot's code follows.
#[derive(Serialize, Deserialize)]
struct Configured {
    log: Vec<LogLine>,
    /// Whether there is a snapshot, and why not.
    snapshot: Result<(), String>,
}

impl Preparer {
    /// Children run `program`, which is a `host` of the same build. Without `snapshots` every instance is configured:
    /// for work that is over before a snapshot would be taken.
    ///
    /// # Errors
    /// The system refuses a thread.
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
            // The other thread is always free to compile.
            let snapshots = number == 0;
            std::thread::Builder::new().name("prepare".to_owned()).spawn(move || {
                // Without it it takes more from reviews, and still not much. On Linux this is of the thread.
                let _ = rustix::process::nice(NICE);
                shared.work(snapshots);
            })?;
        }
        Ok(Preparer { shared, snapshots, _temporary: temporary })
    }

    /// The program that this process runs, which an upgrade on disk does not change (proc_pid_exe(5)).
    pub fn this_program() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }

    /// Takes the bounds of children, and of what is kept, from `limits` from now on.
    pub fn limit(&self, limits: &HostLimits) {
        *self.shared.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds(limits);
        self.shared.cache.limit(limits.cache);
    }

    /// The engine that its policies run on.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Where it keeps what it has prepared.
    pub fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// Says what is missing in the confinement of the processes that compile. Returns None if nothing is, and before the
    /// first of them.
    pub fn unconfined(&self) -> Option<String> {
        let confinement = self.shared.confinement.lock().unwrap_or_else(PoisonError::into_inner);
        confinement.as_ref().and_then(Confinement::problem)
    }

    /// Forgets queued and unclaimed jobs of components that are not among `wanted`.
    pub fn retain(&self, wanted: &HashSet<String>) {
        let keys: HashSet<_> = wanted.iter().map(|digest| self.shared.compiled_key(digest)).collect();
        let mut work = self.shared.lock();
        work.queue.retain(|job| keys.contains(&job.key));
        work.unclaimed.retain(|key, _| keys.contains(key));
    }

    /// Loads all of these as [`Preparer::load`] does, on as many threads as there are processors, and compiles each
    /// component once; the results are in order.
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
                // Where there is no further thread, the others do its part.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let missing = || Err(LoadError::Unprepared("it was left out; please report this".to_owned()));
        results.into_iter().map(|result| result.into_inner().unwrap_or_else(missing)).collect()
    }

    /// Loads a component with its settings, once it is compiled.
    ///
    /// # Errors
    /// [`LoadError`]; [`LoadError::Preparing`] when it is not compiled by `until`, in which case that goes on.
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
            // An entry that cannot be loaded is one that is not there.
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

    /// Takes the snapshot of a policy now, whether it is faster or not.
    pub fn snapshot(&self, policy: &Policy, component: &[u8]) {
        self.shared.snapshot(policy, component);
    }

    /// Calls `ready` whenever something is ready that nobody waited for.
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
    /// Returns the job with this key, and takes it where it was unclaimed.
    fn existing(&mut self, key: &str) -> Option<Arc<Job>> {
        self.unclaimed.remove(key).or_else(|| self.jobs.get(key)?.upgrade())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compiled_key(&self, component: &str) -> String {
        digest(format!("compiled\n{}\n{component}", self.build).as_bytes())
    }

    fn configured_key(&self, component: &str, settings: &str, limits: &PolicyLimits) -> String {
        let limits = serde_json::to_string(limits).unwrap_or_default();
        digest(format!("configured\n{}\n{component}\n{limits}\n{settings}", self.build).as_bytes())
    }

    /// Returns the job that compiles `component`: one that exists, one finished by the cache, or a new one.
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
        // Another thread may have come first.
        if let Some(job) = work.existing(&job.key) {
            return Ok(job);
        }
        work.jobs.retain(|_, job| job.strong_count() > 0);
        work.jobs.insert(job.key.clone(), Arc::downgrade(&job));
        work.queue.push_back(Arc::clone(&job));
        self.changed.notify_all();
        Ok(job)
    }

    /// Waits until a job has finished. After `until` it goes on for the next request.
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
            work = self.changed.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Queues the snapshot of a policy. Snapshots of policies that are gone leave the queue, so their components do not
    /// stay in memory.
    fn take_later(&self, policy: &Arc<Policy>, component: &Component) {
        let mut work = self.lock();
        work.snapshots.retain(|(policy, _)| policy.strong_count() > 0);
        work.snapshots.push_back((Arc::downgrade(policy), Arc::clone(&component.bytes)));
        self.changed.notify_all();
    }

    /// Runs jobs, and snapshots when there is no job, until the preparer is dropped.
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
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
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
        // Nothing else sets it.
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
                // What is slow or late now may be neither next time: that is not kept.
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

    /// Returns the native code of a snapshot. One child runs `configure` and answers with a component; another compiles
    /// that and runs nothing of it. So no native code comes from a process that has executed code of a component.
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
        let bounds = *self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        child::run(&self.program, task, component, bounds, |confinement| {
            *self.confinement.lock().unwrap_or_else(PoisonError::into_inner) = Some(confinement);
        })
    }
}

/// Whoever waits for a result has to get one.
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

/// Tells one build of the program from another by its file: a fixed compiler compiles anew what a faulty one compiled.
fn build(engine: &Engine, program: &Path) -> String {
    let file = match std::fs::metadata(program) {
        Ok(file) => format!("{} {} {} {}", file.len(), file.mtime(), file.mtime_nsec(), file.ino()),
        // Like no other, so that nothing of another is taken.
        Err(_) => format!("{:?} {}", SystemTime::now(), std::process::id()),
    };
    format!("{} {:016x} {file}", env!("CARGO_PKG_VERSION"), engine.compatibility())
}
