//! Policies, made ready: from the cache where they are known, else compiled in a child, with the snapshot following
//! when it is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::Cache;
use super::child::{self, Bounds, Failure, Task};
use super::engine::Engine;
use super::load::{LoadError, Policy, check_front};
use super::native::{Compiled, digest};
use crate::config::{HostLimits, PolicyLimits};
use crate::verdict::LogLine;

/// Children at a time. Each has one thread.
const CHILDREN: usize = 2;
/// How much all of it gives way to reviews (nice(2)): the threads, and from its first instruction each child.
const NICE: i32 = 10;

/// The bytes of a component, and their digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// As they stand in the file.
    pub bytes: Vec<u8>,
    /// SHA-256 in hexadecimal.
    pub digest: String,
}

impl Component {
    /// Takes the bytes, whatever they are.
    pub fn new(bytes: Vec<u8>) -> Component {
        Component { digest: digest(&bytes), bytes }
    }
}

/// A policy that is to be loaded.
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
    /// The `host` that children run.
    program: PathBuf,
    /// Of that program and of wasmtime: what another one compiled is of no use.
    build: String,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    compiling: VecDeque<(String, Arc<[u8]>)>,
    snapshots: VecDeque<(Weak<Policy>, Arc<[u8]>)>,
    /// What is being compiled.
    running: HashSet<String>,
    /// What is compiled now, or was and has not been asked for since.
    results: HashMap<String, Progress>,
    /// Who wants to know when something is ready that nobody waited for.
    ready: Option<Box<dyn Fn() + Send>>,
    closed: bool,
}

enum Progress {
    /// It waits or runs; whoever wanted it may have given up waiting.
    Running {
        abandoned: bool,
    },
    Done(Result<Arc<Compiled>, LoadError>),
}

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
            program,
            build,
            work: Mutex::default(),
            changed: Condvar::new(),
        });
        for number in 0..CHILDREN {
            let shared = Arc::clone(&shared);
            // One of them is always there for what somebody waits for.
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

    /// Forgets what waits to be compiled, and what was compiled, of components that are not among `wanted` any more.
    pub fn retain(&self, wanted: &HashSet<String>) {
        let keys: HashSet<_> = wanted.iter().map(|digest| self.shared.compiled_key(digest)).collect();
        let mut work = self.shared.lock();
        work.compiling.retain(|(key, _)| keys.contains(key));
        let waiting: HashSet<_> = work.compiling.iter().map(|(key, _)| key.clone()).collect();
        let running = work.running.clone();
        work.results.retain(|key, progress| match progress {
            Progress::Done(_) => keys.contains(key),
            Progress::Running { .. } => waiting.contains(key) || running.contains(key),
        });
    }

    /// Loads all of these as [`Preparer::load`] does, on as many threads as there are processors; the results in order.
    pub fn load_all(&self, wanted: &[Wanted<'_>], until: Instant) -> Vec<Result<Arc<Policy>, LoadError>> {
        let load = |Wanted { component, settings, limits }: &Wanted<'_>| {
            self.load(component, settings, limits, until)
        };
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
                // Without it the others do its part.
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
        let shared = &self.shared;
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
        let compiled = shared.compiled(component, until)?;
        let policy = Policy::configured_each_time(&shared.engine, &compiled, digest, settings, limits)?;
        let policy = Arc::new(policy);
        match known {
            Some((Configured { snapshot: Err(why), .. }, _)) => policy.decide_snapshot(Err(why)),
            _ if self.snapshots => {
                let job = (Arc::downgrade(&policy), component.bytes.as_slice().into());
                shared.lock().snapshots.push_back(job);
                shared.changed.notify_all();
            }
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

    fn enqueue(&self, work: &mut Work, key: String, component: &[u8]) {
        if !work.results.contains_key(&key) {
            let started = Progress::Running { abandoned: false };
            work.results.insert(key.clone(), started);
            work.compiling.push_back((key, component.into()));
            self.changed.notify_all();
        }
    }

    fn compiled(&self, component: &Component, until: Instant) -> Result<Arc<Compiled>, LoadError> {
        let key = self.compiled_key(&component.digest);
        let mut work = self.lock();
        if !work.results.contains_key(&key) {
            drop(work);
            if let Some(code) = self.cache.get(&key) {
                return Ok(Arc::new(Compiled::vouched(code)));
            }
            check_front(&component.bytes)?;
            work = self.lock();
        }
        loop {
            match work.results.get_mut(&key) {
                None => self.enqueue(&mut work, key.clone(), &component.bytes),
                Some(Progress::Done(_)) => {
                    if let Some(Progress::Done(result)) = work.results.remove(&key) {
                        return result;
                    }
                }
                Some(Progress::Running { abandoned }) => {
                    let left = until.checked_duration_since(Instant::now());
                    let Some(left) = left.filter(|left| !left.is_zero()) else {
                        *abandoned = true;
                        return Err(LoadError::Preparing);
                    };
                    work = self.changed.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// What a thread does: what someone waits for first, then snapshots.
    fn work(&self, snapshots: bool) {
        loop {
            let mut work = self.lock();
            let (compile, snapshot) = loop {
                if work.closed {
                    return;
                }
                if let Some(job) = work.compiling.pop_front() {
                    work.running.insert(job.0.clone());
                    break (Some(job), None);
                }
                if snapshots && let Some(job) = work.snapshots.pop_front() {
                    break (None, Some(job));
                }
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
            };
            drop(work);
            if let Some((key, component)) = compile {
                let result = unpanicked(|| match self.child(Task::Compile, &component) {
                    Ok(compiled) => Ok(Arc::new(compiled)),
                    Err(Failure::Load(error)) => Err(error),
                    Err(Failure::Snapshot(error)) => Err(LoadError::Unprepared(error)),
                });
                if let Ok(compiled) = &result {
                    self.cache.put(&key, compiled.bytes());
                }
                let mut work = self.lock();
                work.running.remove(&key);
                let before = work.results.insert(key, Progress::Done(result));
                self.changed.notify_all();
                if let Some(Progress::Running { abandoned: true }) = before
                    && let Some(ready) = &work.ready
                {
                    ready();
                }
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

    fn snapshot(&self, policy: &Policy, component: &[u8]) {
        let (settings, limits) = (policy.settings().to_owned(), policy.limits().clone());
        let key = self.configured_key(policy.digest(), &settings, &limits);
        let (snapshot, code) = match self.child(Task::Snapshot { settings, limits }, component) {
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

    fn child(&self, task: Task, component: &[u8]) -> Result<Compiled, Failure> {
        let bounds = *self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        child::run(&self.program, task, component, bounds)
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
