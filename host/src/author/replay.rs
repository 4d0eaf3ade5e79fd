//! Judges the reviews of decision logs again, and finds those that are now decided otherwise.
//!
//! The log is read once and may have any length: memory holds a limited batch of distinct reviews.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::evaluate::{Options, evaluate_again};
use crate::isolate::{self, Panicked};
use crate::limits;
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::differences::{Compared, Differences};
use crate::review::verdict::DecidedBy;
use crate::telemetry::decision_log::{DecisionRecord, LeftOut, LogError, LogLine, LogLines};
use crate::text;

/// Number of reviews whose results are in memory at once.
const CHUNK: usize = 1024;

/// The reason for which a decision log cannot be judged again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A defect of the host.
    #[error("judging a review: {0}")]
    Panicked(#[from] Panicked),
}

/// The result of judging decision logs again.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// The reviews with another result than the log has.
    #[serde(flatten)]
    pub differences: Differences,
    /// The lines without a review to judge.
    pub not_judged: NotJudged,
}

/// Numbers of lines without a review to judge.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotJudged {
    /// Reviews that were denied as a whole before any policy ran.
    pub refused: u64,
    /// Lines that leave out the request to stay within their limit.
    pub without_request: u64,
    /// Reviews without images, which are always allowed.
    pub without_images: u64,
    /// Lines that are no record.
    pub no_record: u64,
    /// The first of these lines, as `FILE:LINE: REASON`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_no_record: Option<String>,
}

/// A run over decision logs.
pub struct Replay<'a> {
    /// The policies at hand.
    pub set: &'a PolicySet,
    /// Number of threads.
    pub jobs: usize,
    /// Number of examples of each kind of difference.
    pub examples: usize,
}

impl Replay<'_> {
    /// Judges each distinct review once. Repeated reviews count as often as they occurred.
    ///
    /// # Errors
    /// Returns an error if a log cannot be read.
    pub fn run(&self, logs: LogLines) -> Result<ReplayReport, ReplayError> {
        let mut report = ReplayReport::default();
        let mut batch = Batch::default();
        for line in logs {
            let Some((review, before)) = report.not_judged.sort(line?) else { continue };
            batch.add(review, before);
            if batch.bytes > limits::REPLAY_BATCH.size() {
                self.judge(&std::mem::take(&mut batch), &mut report.differences)?;
            }
        }
        self.judge(&batch, &mut report.differences)?;
        Ok(report)
    }

    fn judge(&self, batch: &Batch, differences: &mut Differences) -> Result<(), Panicked> {
        for chunk in batch.reviews.chunks(CHUNK) {
            let mut results = self.results(chunk)?;
            results.sort_by_key(|(index, _)| *index);
            for (repeated, (_, after)) in chunk.iter().zip(&results) {
                for (before, times) in &repeated.before {
                    differences.add(&repeated.review, *times, before, after, self.examples);
                }
            }
        }
        Ok(())
    }

    /// Returns the result of each review with its index, in any order.
    fn results(&self, chunk: &[Repeated]) -> Result<Vec<(usize, Compared)>, Panicked> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Compared)>, Panicked> {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(repeated) = chunk.get(index) else { return Ok(results) };
                results.push((index, isolate::run(|| self.result(&repeated.review))?));
            }
        };
        std::thread::scope(|scope| {
            // If the system refuses a further thread, the others do its work.
            let others: Vec<_> = (1..self.jobs.min(chunk.len()))
                .filter_map(|_| {
                    std::thread::Builder::new().name("replay".to_owned()).spawn_scoped(scope, work).ok()
                })
                .collect();
            let mut results = work()?;
            for other in others {
                results.extend(other.join().map_err(|_| Panicked)??);
            }
            Ok(results)
        })
    }

    fn result(&self, review: &Review) -> Compared {
        let verdict = evaluate_again(self.set, review, &Options::of(self.set));
        Compared::of(&self.set.rules, &verdict)
    }
}

impl NotJudged {
    /// Returns the review of a line with its logged result, or counts the line.
    fn sort(&mut self, line: LogLine) -> Option<(Review, Compared)> {
        let LogLine { path, number, record } = line;
        let mut no_record = |why: String| {
            self.no_record += 1;
            let place = format!("{}:{number}", text::path(&path));
            self.first_no_record.get_or_insert_with(|| format!("{place}: {why}"));
        };
        let record = record.map_err(|why| no_record(why.to_string())).ok()?;
        let Some(result) = record.result() else {
            no_record(format!(
                "unknown verdict `{}` by `{}`",
                text::escape_and_truncate(&record.verdict, SHOWN),
                record.decided_by
            ));
            return None;
        };
        let review = record.review();
        if review.is_none() {
            *self.counter(&record) += 1;
        }
        Some((review?, result))
    }

    /// Returns the counter for a record without a review to judge.
    fn counter(&mut self, record: &DecisionRecord<'_>) -> &mut u64 {
        match (record.decided_by, record.left_out) {
            (DecidedBy::Request, _) => &mut self.refused,
            (_, Some(LeftOut::Request)) => &mut self.without_request,
            _ => &mut self.without_images,
        }
    }
}

/// Maximum length of an unknown verdict in a message, in bytes.
const SHOWN: usize = 32;

/// Distinct reviews of a log.
#[derive(Default)]
struct Batch {
    places: HashMap<Arc<Review>, usize>,
    /// In the order of the log.
    reviews: Vec<Repeated>,
    /// Approximate memory use.
    bytes: usize,
}

/// A distinct review.
struct Repeated {
    review: Arc<Review>,
    /// The distinct results in the log, and how often each occurred.
    before: Vec<(Compared, u64)>,
}

impl Batch {
    fn add(&mut self, review: Review, before: Compared) {
        let memory = size_of::<(Compared, u64)>() + before.reason.len();
        let repeated = match self.places.get(&review).and_then(|place| self.reviews.get_mut(*place)) {
            Some(repeated) => repeated,
            None => {
                self.bytes += review.memory();
                let review = Arc::new(review);
                self.places.insert(Arc::clone(&review), self.reviews.len());
                self.reviews.push_mut(Repeated { review, before: Vec::new() })
            }
        };
        let same = |kept: &&mut (Compared, u64)| kept.0.agrees(&before) && kept.0.was_late == before.was_late;
        match repeated.before.iter_mut().find(same) {
            Some((_, times)) => *times += 1,
            None => {
                self.bytes += memory;
                repeated.before.push((before, 1));
            }
        }
    }
}

/// Opens decision logs: files, folders, or `-` for standard input.
///
/// # Errors
/// Returns an error if a log cannot be opened.
pub fn open(paths: &[PathBuf]) -> Result<LogLines, ReplayError> {
    Ok(LogLines::open(paths)?)
}
