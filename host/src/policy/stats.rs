//! Statistics of a policy since loading: the time that an image takes, and malfunctions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::review::verdict::{Malfunction, MalfunctionKind};
use crate::telemetry::counters::Histogram;
use parking_lot::Mutex;

/// Weight of one evaluation in the expected time: an eighth. A single slow evaluation shows at once, and is
/// forgotten after some fifty quick ones.
const WEIGHT: i64 = 8;
/// Expected time of a policy that has evaluated no image yet.
const UNKNOWN: Duration = Duration::from_millis(2);

/// Counters that are updated while a policy runs and may be read at any time. No count waits for another.
#[derive(Default)]
pub struct PolicyStats {
    /// Moving average of the time of an image, in nanoseconds; 0 before the first.
    expected: AtomicU64,
    durations: Histogram,
    evaluations: AtomicU64,
    malfunctions: [AtomicU64; MalfunctionKind::ALL.len()],
    in_a_row: AtomicU64,
    last: Mutex<Option<(SystemTime, String)>>,
}

/// Values of a [`PolicyStats`] at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Expected time of an image.
    pub expected: Duration,
    /// Number of evaluations, each of one image.
    pub evaluations: u64,
    /// Failed evaluations by kind, without the kinds that did not occur.
    pub malfunctions: Vec<(MalfunctionKind, u64)>,
    /// Failed evaluations since the last success.
    pub in_a_row: u64,
    /// Time and message of the last failure.
    pub last: Option<(SystemTime, String)>,
}

impl PolicyStats {
    /// Returns the expected time of an image, a fresh instance included.
    pub(crate) fn expected(&self) -> Duration {
        match self.expected.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    /// Records the time of an evaluation.
    pub(crate) fn record_duration(&self, time: Duration) {
        let sample = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).max(1);
        let before = i64::try_from(self.expected.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let after = if before == 0 { sample } else { before + (sample - before) / WEIGHT };
        // Of two concurrent updates one may be lost, which an expectation tolerates.
        self.expected.store(u64::try_from(after).unwrap_or(1).max(1), Ordering::Relaxed);
        self.durations.record(time);
    }

    /// Returns the times of evaluations, each with the start of an instance if one was needed.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// Records the result of an evaluation.
    pub(crate) fn record_result(&self, malfunction: Option<&Malfunction>) {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let Some(malfunction) = malfunction else {
            // A store by every thread at every evaluation would cost noticeable time.
            if self.in_a_row.load(Ordering::Relaxed) != 0 {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            return;
        };
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.malfunctions.get(malfunction.kind() as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let last = Some((SystemTime::now(), malfunction.to_string()));
        *self.last.lock() = last;
    }

    /// Returns the current values.
    pub fn snapshot(&self) -> StatsSnapshot {
        let counts = MalfunctionKind::ALL.into_iter().zip(&self.malfunctions);
        StatsSnapshot {
            expected: self.expected(),
            evaluations: self.evaluations.load(Ordering::Relaxed),
            malfunctions: counts
                .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            in_a_row: self.in_a_row.load(Ordering::Relaxed),
            last: self.last.lock().clone(),
        }
    }
}
