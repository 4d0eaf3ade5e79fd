//! Threads that compile components and take snapshots, and the jobs that callers wait for.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::compiler::Component;
use super::confine::Confinement;
use super::function_store::FunctionStore;
use super::keys::Keys;
use super::worker::{self, Bounds, Failure, Made, Task};
use crate::config::PolicyLimits;
use crate::fs::frame;
use crate::isolate;
use crate::policy::load::{LoadError, Policy, SnapshotError, check_front};
use crate::policy::sandbox::engine::Engine;
use crate::policy::sandbox::native::NativeCode;
use crate::review::verdict::LogLine;

/// State that a compiler shares with its threads.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) cache: Cache,
    /// Functions that were compiled before, for an author who waits.
    pub(super) functions: Option<FunctionStore>,
    /// Limits of a child.
    pub(super) bounds: Mutex<Bounds>,
    /// Confinement of the last child; None before the first.
    pub(super) confinement: Mutex<Option<Confinement>>,
    /// Path of the `host` program that children run.
    pub(super) program: PathBuf,
    /// Keys of what that program compiles.
    pub(super) keys: Keys,
    pub(super) work: Mutex<Work>,
    pub(super) changed: Condvar,
}

/// Jobs and snapshots of all callers.
#[derive(Default)]
pub(super) struct Work {
    /// Jobs that no thread has begun.
    pub(super) queue: VecDeque<Arc<Job>>,
    /// Every job that is queued, running or waited for, by its key.
    jobs: HashMap<String, Weak<Job>>,
    /// Finished jobs whose waiting threads had given up, kept until the next request for the same component.
    pub(super) unclaimed: HashMap<String, Arc<Job>>,
    /// Snapshots to take: each policy, with the bytes of its component.
    snapshots: VecDeque<(Weak<Policy>, Arc<[u8]>)>,
    /// Callback for the end of an unclaimed job.
    pub(super) ready: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(super) closed: bool,
}

/// Compilation of one component, shared by all threads that wait for it.
pub(super) struct Job {
    pub(super) key: String,
    component: Arc<[u8]>,
    /// Result, set once, under the lock of `Work`.
    result: OnceLock<Result<Arc<NativeCode>, LoadError>>,
    /// Whether a waiting thread gave up; set under the lock of `Work`.
    abandoned: AtomicBool,
}

/// First line of a cache entry for a component with certain settings. The native code of the snapshot
/// follows.
#[derive(Serialize, Deserialize)]
pub(super) struct Configured {
    pub(super) log: Vec<LogLine>,
    /// Reason why no snapshot can be taken; None if the snapshot follows.
    pub(super) impossible: Option<String>,
}

impl Work {
    /// Returns the job with this key, and claims it if it was unclaimed.
    fn existing(&mut self, key: &str) -> Option<Arc<Job>> {
        self.unclaimed.remove(key).or_else(|| self.jobs.get(key)?.upgrade())
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }

    /// Returns the job that compiles `component`: an existing job, a job finished from the cache, or a new
    /// one.
    pub(super) fn job(&self, component: &Component) -> Result<Arc<Job>, LoadError> {
        let key = self.keys.compiled(&component.digest);
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
            job.result.get_or_init(|| Ok(Arc::new(NativeCode::trusted(code))));
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

    /// Waits until a job has finished. Returns [`LoadError::Compiling`] after `until`; the job then continues
    /// for the next request.
    pub(super) fn wait(&self, job: &Job, until: Instant) -> Result<Arc<NativeCode>, LoadError> {
        let mut work = self.lock();
        loop {
            if let Some(result) = job.result.get() {
                work.unclaimed.remove(&job.key);
                return result.clone();
            }
            let left = until.checked_duration_since(Instant::now());
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                job.abandoned.store(true, Ordering::Relaxed);
                return Err(LoadError::Compiling);
            };
            self.changed.wait_for(&mut work, left);
        }
    }

    /// Queues the snapshot of a policy. Removes queued snapshots of dropped policies, so their components do
    /// not stay in memory.
    pub(super) fn take_later(&self, policy: &Arc<Policy>, component: &Component) {
        let mut work = self.lock();
        work.snapshots.retain(|(policy, _)| policy.strong_count() > 0);
        work.snapshots.push_back((Arc::downgrade(policy), Arc::clone(&component.bytes)));
        self.changed.notify_all();
    }

    /// Runs jobs until the compiler is dropped. With `snapshots`, takes snapshots while no job is queued.
    pub(super) fn work(&self, snapshots: bool) {
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
                && let Err(panicked) = isolate::run(|| self.snapshot(&policy, &component))
            {
                policy.decide_snapshot(Err(panicked.into()));
            }
        }
    }

    fn compile(&self, job: Arc<Job>) {
        let result = unpanicked(|| match self.compile_in_child(&job.component) {
            Ok(compiled) => Ok(Arc::new(compiled)),
            Err(Failure::Load(error)) => Err(error),
            Err(Failure::Snapshot(error)) => Err(LoadError::NotCompiled(error)),
        });
        if let Ok(compiled) = &result {
            // An entry that cannot be written is compiled again some time; a panic must not end this thread.
            let _ = isolate::run(|| self.cache.put(&job.key, compiled.bytes()));
        }
        let mut work = self.lock();
        // No other thread sets the result.
        let _ = job.result.set(result);
        self.changed.notify_all();
        if !job.abandoned.load(Ordering::Relaxed) {
            return;
        }
        work.unclaimed.insert(job.key.clone(), job);
        let ready = work.ready.clone();
        drop(work);
        if let Some(ready) = ready {
            let _ = isolate::run(|| ready());
        }
    }

    pub(super) fn snapshot(&self, policy: &Policy, component: &[u8]) {
        let (settings, limits) = (policy.settings().to_owned(), policy.limits().clone());
        let key = self.keys.configured(policy.digest(), &settings, &limits);
        let (decision, code) = match self.compiled_snapshot(settings, limits, component) {
            Ok(compiled) => {
                // A slow or late snapshot may be neither next time, so this outcome is not cached.
                if let Err(why) = policy.adopt(&compiled) {
                    return policy.decide_snapshot(Err(why));
                }
                (Ok(()), Some(compiled))
            }
            Err(Failure::Snapshot(why)) => (Err(why), None),
            Err(Failure::Load(error)) => return policy.decide_snapshot(Err(error.into())),
        };
        let known = Configured { log: policy.load_log().to_vec(), impossible: decision.clone().err() };
        policy.decide_snapshot(decision.map_err(SnapshotError::Impossible));
        let Ok(mut entry) = frame::line(&known) else { return };
        entry.extend_from_slice(code.as_ref().map_or(&[], NativeCode::bytes));
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
    ) -> Result<NativeCode, Failure> {
        let snapshot = self.child(Task::Snapshot { settings, limits }, component, None)?.bytes;
        check_front(&snapshot).map_err(|error| Failure::Snapshot(error.to_string()))?;
        self.compile_in_child(&snapshot).map_err(|failure| match failure {
            Failure::Load(LoadError::Invalid(why)) => Failure::Snapshot(why),
            failure => failure,
        })
    }

    fn compile_in_child(&self, component: &[u8]) -> Result<NativeCode, Failure> {
        let Some(store) = &self.functions else {
            return self.child(Task::Compile, component, None).map(|made| NativeCode::trusted(made.bytes));
        };
        let pack = store.nearest(component);
        let made = self.child(Task::Compile, component, Some(&pack.bytes))?;
        store.keep(&pack, &made.functions);
        Ok(NativeCode::trusted(made.bytes))
    }

    fn child(&self, task: Task, component: &[u8], functions: Option<&[u8]>) -> Result<Made, Failure> {
        let bounds = *self.bounds.lock();
        worker::run(&self.program, worker::Work { task, component, bounds, functions }, |confinement| {
            *self.confinement.lock() = Some(confinement);
        })
    }
}

/// Converts a panic into an error, so that every waiting thread gets a result.
pub(super) fn unpanicked<T>(load: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    isolate::run(load).unwrap_or_else(|panicked| Err(LoadError::NotCompiled(panicked.to_string())))
}
