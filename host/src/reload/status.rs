//! The status of the reload, for `host status`, metrics and health checks.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::limits;
use crate::problem::{Instead, Problem, Subject};
use crate::reload::history::{CandidateSummary, Summary};

/// The status of the reload: deviations from the configuration, the pending candidate, and the history.
#[derive(Clone, Debug, Default)]
pub struct ReloadStatus {
    /// Empty when everything is as configured.
    pub problems: Vec<Problem>,
    /// The candidate that is pending.
    pub candidate: Option<CandidateSummary>,
    /// Whether the generation in force stays, whatever files change.
    pub pinned: bool,
    /// The last generations, oldest first; the last one is in force.
    pub history: Vec<Summary>,
    /// Number of passes by result.
    pub results: PassCounts,
}

/// Number of passes over the files by result, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassCounts {
    /// Passes that put a new generation in force.
    pub published: u64,
    /// Passes that changed nothing.
    pub unchanged: u64,
    /// Passes without a problem after which a candidate is pending.
    pub waiting: u64,
    /// Passes with a problem that put nothing new in force.
    pub failed: u64,
}

/// The findings of the passes, of which the status is made.
pub(super) struct Report {
    /// Problems of the machine, not of the configuration: a state directory that is configured but unusable,
    /// no folder for the cache, no pool of instances.
    lasting: Vec<Problem>,
    /// Problems that the last pass over the files found.
    pub(super) found: Vec<Problem>,
    /// The problem that the last pass panicked.
    panicked: Option<Problem>,
    pub(super) results: PassCounts,
    status: Arc<ArcSwap<ReloadStatus>>,
    heartbeat: Arc<Heartbeat>,
}

impl Report {
    /// Returns the report of the first pass.
    pub(super) fn new(lasting: Vec<Problem>, found: &[Problem]) -> Report {
        Report {
            lasting,
            found: Problem::first(found, limits::PROBLEMS.size()),
            panicked: None,
            results: PassCounts::default(),
            status: Arc::default(),
            heartbeat: Arc::default(),
        }
    }

    /// Returns a reader of the status.
    pub(super) fn reader(&self) -> StatusReader {
        StatusReader { status: Arc::clone(&self.status), heartbeat: Arc::downgrade(&self.heartbeat) }
    }

    /// Adds a problem of the machine that lasts as long as the process.
    pub(super) fn add_lasting(&mut self, problem: Problem) {
        self.lasting.push(problem);
    }

    /// Records that a pass begins, in which the gate may take the duration `gate`.
    pub(super) fn begin(&mut self, gate: Duration) {
        self.panicked = None;
        self.heartbeat.begin(gate);
    }

    /// Records that the pass has ended.
    pub(super) fn end(&self) {
        self.heartbeat.end();
    }

    /// Records that the pass panicked.
    pub(super) fn panicked(&mut self) {
        let panicked = Problem::new(Subject::Reload, "looking at the files panicked");
        self.panicked = Some(panicked.with_instead(Instead::Generation).with_remedy(
            "the next look comes with the next change; please report this, with the message in the log",
        ));
        self.results.failed += 1;
    }

    /// Returns the problems of the machine and of the last pass.
    pub(super) fn lasting(&self) -> impl Iterator<Item = Problem> {
        self.lasting.iter().chain(&self.panicked).cloned()
    }

    /// Publishes the status, and logs the problems that are new.
    pub(super) fn publish(&self, status: ReloadStatus) {
        let before = self.status.load();
        for problem in status.problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        if status.problems.is_empty() && !before.problems.is_empty() {
            tracing::info!("all that is configured is in force again");
        }
        self.status.store(Arc::new(status));
    }

    /// Returns the problems that the status shows about a part of the host.
    pub(super) fn shown(&self, subject: &Subject) -> Option<Problem> {
        self.status.load().problems.iter().find(|problem| problem.subject == *subject).cloned()
    }
}

/// A reader of the reload's status.
#[derive(Clone)]
pub struct StatusReader {
    status: Arc<ArcSwap<ReloadStatus>>,
    heartbeat: Weak<Heartbeat>,
}

/// Progress of the reload, as far as other threads need it. The reload thread lives while the `Arc` of this
/// lives; the content shows since when the current pass has been running.
#[derive(Default)]
struct Heartbeat(Mutex<Option<Look>>);

/// A pass over the files that is running.
#[derive(Clone, Copy)]
struct Look {
    began: Instant,
    usual: Duration,
}

/// Maximum duration of a pass, without the gate's budget, unless a file system hangs.
const USUAL: Duration = Duration::from_secs(60);

impl Heartbeat {
    /// Records that a pass begins, in which the gate may take the duration `gate`.
    fn begin(&self, gate: Duration) {
        self.set(Some(Look { began: Instant::now(), usual: USUAL + gate }));
    }

    /// Records that the pass has ended.
    fn end(&self) {
        self.set(None);
    }

    fn set(&self, look: Option<Look>) {
        *self.0.lock() = look;
    }

    /// Returns the running pass if it takes longer than any pass should.
    fn stuck(&self) -> Option<Look> {
        let look = *self.0.lock();
        look.filter(|look| look.began.elapsed() > look.usual)
    }
}

impl StatusReader {
    /// Returns the current status.
    pub fn current(&self) -> Arc<ReloadStatus> {
        self.status.load_full()
    }

    /// Returns all current problems, including a reload that hangs or has ended.
    pub fn problems(&self) -> Vec<Problem> {
        let stopped = |what: &str, remedy: &str| {
            Problem::new(Subject::Reload, what).with_instead(Instead::Generation).with_remedy(remedy)
        };
        let own = match self.heartbeat.upgrade().map(|heartbeat| heartbeat.stuck()) {
            Some(None) => None,
            Some(Some(Look { began, .. })) => Some(stopped(
                &format!(
                    "a look at the files has not ended for {} s, so nothing that changes comes into force",
                    began.elapsed().as_secs()
                ),
                "most likely a file system hangs: mend it, or restart the host",
            )),
            None => Some(stopped(
                "it has ended by a defect, so files are followed no more, and nothing can be put back",
                "restart the host",
            )),
        };
        self.current().problems.iter().cloned().chain(own).collect()
    }

    /// Returns whether the reload is running, so that later generations can come.
    pub fn reload_lives(&self) -> bool {
        self.heartbeat.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_does_not_end_is_told_and_one_that_takes_its_time_is_not() {
        let heartbeat = Arc::<Heartbeat>::default();
        let reader = StatusReader { status: Arc::default(), heartbeat: Arc::downgrade(&heartbeat) };
        let told = |ago: Duration, gate: Duration| {
            heartbeat.set(Some(Look { began: Instant::now() - ago, usual: USUAL + gate }));
            let problems = reader.problems();
            assert!(
                problems.iter().all(|problem| problem.what.contains("has not ended for")),
                "{problems:?}"
            );
            problems.len()
        };
        let minute = Duration::from_secs(60);
        assert_eq!([told(minute / 2, Duration::ZERO), told(2 * minute, 2 * minute)], [0, 0]);
        assert_eq!(told(2 * minute, Duration::ZERO), 1);
        heartbeat.end();
        assert_eq!(reader.problems(), []);
        drop(heartbeat);
        assert!(reader.problems()[0].what.contains("has ended by a defect"));
    }
}
