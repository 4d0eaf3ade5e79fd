//! The decision log: a line of JSON for every review, in rotated files. `host/docs/decision-log.md` describes
//! the form.
//!
//! No review waits for a disk. The webhook makes the line and puts it into a queue that is limited in lines
//! and in bytes; a separate thread writes it. A line that finds the queue full, or cannot be written, is lost
//! and counted, and changes no verdict.

mod record;
mod encode;
mod files;
mod lines;
mod read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::files::Files;
pub use self::lines::{LogError, LogLine, LogLines, NoRecord};
pub use self::read::{ReadLimits, Records};
pub use self::record::{DecisionRecord, ImageRecord, LeftOut, PolicyRecord};
use crate::config::DecisionLogConfig;
use crate::limits;
use crate::review::verdict::Disposition;
use crate::telemetry::answered::{AnsweredReview, ReviewId};
use crate::telemetry::counters::Counter;
use crate::text;

/// Time between the first waiting line and the write, so that many lines are written together.
const GATHERING: Duration = Duration::from_millis(20);

/// The handle through which reviews are logged and the state is read. Clones share one log.
#[derive(Clone, Default)]
pub struct DecisionLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    config: ArcSwapOption<DecisionLogConfig>,
    queue: Mutex<Queue>,
    /// Notified when the queue has a line, or the thread has another task.
    wanted: Condvar,
    /// Notified when the thread has ended.
    ended: Condvar,
    counts: Counts,
    trouble: ArcSwapOption<String>,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// Size of all lines in the queue, and of those that are being written.
    bytes: usize,
    /// Whether the configuration has changed.
    changed: bool,
    /// Whether the thread writes the remaining lines and ends.
    closing: bool,
    /// Whether the thread exists.
    running: bool,
}

/// The line of a review.
struct Line {
    id: ReviewId,
    bytes: Box<[u8]>,
}

#[derive(Default)]
struct Counts {
    written: Counter,
    dropped: Counter,
    failed: Counter,
}

/// The state of the decision log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Number of lines in the files.
    pub written: u64,
    /// Number of reviews that found the queue full.
    pub dropped: u64,
    /// Number of lines that could not be written.
    pub failed: u64,
    /// Number of reviews in the queue.
    pub waiting: usize,
    /// The reason for which lines cannot be written now.
    pub trouble: Option<Arc<String>>,
}

impl DecisionLog {
    /// Follows this configuration from now on. With None nothing is logged.
    pub fn configure(&self, config: Option<&DecisionLogConfig>) {
        let Shared { config: current, wanted, .. } = &*self.0;
        if current.load().as_deref() == config {
            return;
        }
        current.store(config.cloned().map(Arc::new));
        let mut queue = self.0.queue();
        queue.changed = true;
        if !queue.running && !queue.closing {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("decision-log".to_owned());
            match thread.spawn(move || Writer::new(shared).run()) {
                Ok(_) => queue.running = true,
                Err(error) => self.0.trouble(Some(format!("there is no thread to write it: {error}"))),
            }
        }
        drop(queue);
        wanted.notify_all();
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> Option<Arc<DecisionLogConfig>> {
        self.0.config.load_full()
    }

    /// Returns whether this review is logged. Besides the sample, all reviews that are denied or would be,
    /// and all in which a policy failed, are logged.
    pub fn wants(&self, reviewed: &AnsweredReview) -> bool {
        let config = self.0.config.load();
        let Some(config) = config.as_ref() else { return false };
        config.sample >= 1.0
            || (reviewed.id.sample_hash() as f64) < config.sample * u64::MAX as f64
            || !matches!(reviewed.disposition(), Disposition::Allowed(_))
            || reviewed.said().any(|said| said.judgement.is_err())
    }

    /// Queues the line of a review, or counts the review as dropped if the queue is full.
    pub fn log(&self, reviewed: &AnsweredReview) {
        let Some(most) = self.0.config.load().as_ref().map(|config| config.queue) else { return };
        let is_full = |queue: &Queue, bytes: usize| {
            queue.closing
                || queue.lines.len() >= most
                || queue.bytes.saturating_add(bytes) > limits::DECISION_LOG_MEMORY.size()
        };
        // If the queue is already full, the line is not made at all.
        if is_full(&self.0.queue(), 0) {
            self.0.counts.dropped.add();
            return;
        }
        let line = Line { id: reviewed.id, bytes: encode::line(reviewed).into_boxed_slice() };
        let bytes = size_of::<Line>() + line.bytes.len();
        let mut queue = self.0.queue();
        if is_full(&queue, bytes) {
            drop(queue);
            self.0.counts.dropped.add();
            return;
        }
        queue.bytes += bytes;
        queue.lines.push_back(line);
        let first = queue.lines.len() == 1;
        drop(queue);
        // A thread with further lines is awake already, and a notification costs a system call.
        if first {
            self.0.wanted.notify_all();
        }
    }

    /// Returns the state of the log.
    pub fn state(&self) -> State {
        let Shared { counts, trouble, .. } = &*self.0;
        State {
            written: counts.written.now(),
            dropped: counts.dropped.now(),
            failed: counts.failed.now(),
            waiting: self.0.queue().lines.len(),
            trouble: trouble.load_full(),
        }
    }

    /// Writes the remaining lines and takes no more. Returns whether that was done within `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        let mut queue = self.0.queue();
        queue.closing = true;
        self.0.wanted.notify_all();
        !self.0.ended.wait_while_for(&mut queue, |queue| queue.running, patience).timed_out()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Records the reason for which lines cannot be written, or that they can again, and logs each change
    /// once.
    fn trouble(&self, trouble: Option<String>) {
        let before = self.trouble.swap(trouble.clone().map(Arc::new));
        match (before.as_deref(), trouble) {
            (None, Some(trouble)) => {
                tracing::error!("decision log: {trouble} (reviews are answered, and their lines are lost)")
            }
            (Some(before), Some(trouble)) if *before != trouble => {
                tracing::error!("decision log: {trouble} (reviews are answered, and their lines are lost)")
            }
            (Some(_), None) => tracing::info!(
                "decision log: lines are written again; {} were lost",
                self.counts.failed.now() + self.counts.dropped.now()
            ),
            _ => {}
        }
    }
}

/// The state of the thread that writes.
struct Writer {
    shared: Arc<Shared>,
    files: Option<Files>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue().running = false;
        self.shared.ended.notify_all();
    }
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Writer {
        Writer { shared, files: None }
    }

    fn run(mut self) {
        loop {
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.changed && !queue.closing;
            let mut queue = self.shared.queue();
            self.shared.wanted.wait_while(&mut queue, idle);
            let gathering = |queue: &mut Queue| !queue.changed && !queue.closing;
            self.shared.wanted.wait_while_for(&mut queue, gathering, GATHERING);
            queue.changed = false;
            let bytes = queue.bytes;
            let (lines, closing) = (std::mem::take(&mut queue.lines), queue.closing);
            drop(queue);
            self.write(&lines);
            drop(lines);
            self.shared.queue().bytes -= bytes;
            if closing {
                return;
            }
        }
    }

    /// Writes these lines, or counts those that cannot be written.
    fn write(&mut self, lines: &VecDeque<Line>) {
        let Some(config) = self.shared.config.load_full() else {
            self.files = None;
            self.shared.trouble(None);
            return;
        };
        let shared = Arc::clone(&self.shared);
        let written = self.files(&config).and_then(|files| {
            for Line { id, bytes } in lines {
                files.add(&config, *id, bytes)?;
            }
            files.flush()
        });
        let done = self.files.as_mut().map_or(0, Files::take_written);
        shared.counts.written.add_many(done);
        shared.counts.failed.add_many((lines.len() as u64).saturating_sub(done));
        if written.is_err() {
            // Whatever the error was: the next lines show whether it persists.
            self.files = None;
        }
        let trouble = |error| format!("{} cannot be written: {error}", text::path(&config.directory));
        shared.trouble(written.err().map(trouble));
    }

    fn files(&mut self, config: &DecisionLogConfig) -> std::io::Result<&mut Files> {
        if let Some(mut files) = self.files.take()
            && files.stands_in(&config.directory)?
        {
            return Ok(self.files.insert(files));
        }
        Ok(self.files.insert(Files::open(config)?))
    }
}
