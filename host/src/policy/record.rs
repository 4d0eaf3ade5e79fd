//! What a policy has done since it was loaded: how long an image takes it, and how often it failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::review::verdict::{Malfunction, MalfunctionKind};
use crate::telemetry::counters::Times;

/// What one evaluation weighs in the expectation: an eighth, so that a single slow one shows at once and is forgotten
/// after some fifty quick ones.
const WEIGHT: i64 = 8;
/// What is expected of a policy that has not been asked yet.
const UNKNOWN: Duration = Duration::from_millis(2);

/// Counted while policies run, read by whoever wants to know. No count waits for another.
#[derive(Default)]
pub struct Record {
    /// Nanoseconds of an image, a moving average; 0 before the first.
    expected: AtomicU64,
    times: Times,
    evaluations: AtomicU64,
    malfunctions: [AtomicU64; MalfunctionKind::ALL.len()],
    in_a_row: AtomicU64,
    last: Mutex<Option<(SystemTime, String)>>,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How long an image is expected to take.
    pub expected: Duration,
    /// Images that it was asked about.
    pub evaluations: u64,
    /// Evaluations that failed, by kind; only those that there were.
    pub malfunctions: Vec<(MalfunctionKind, u64)>,
    /// Evaluations that failed since one that did not.
    pub in_a_row: u64,
    /// When it failed last, and how.
    pub last: Option<(SystemTime, String)>,
}

impl Record {
    /// How long an image is expected to take, a fresh instance included.
    pub(crate) fn expected(&self) -> Duration {
        match self.expected.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    /// An evaluation took so long.
    pub(crate) fn took(&self, time: Duration) {
        let sample = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).max(1);
        let before = i64::try_from(self.expected.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let after = if before == 0 { sample } else { before + (sample - before) / WEIGHT };
        // Of two at once one may be lost: it is an expectation.
        self.expected.store(u64::try_from(after).unwrap_or(1).max(1), Ordering::Relaxed);
        self.times.took(time);
    }

    /// How long images took, each with a fresh instance where it needed one.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// An evaluation came to this end.
    pub(crate) fn ended(&self, malfunction: Option<&Malfunction>) {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let Some(malfunction) = malfunction else {
            // A store by every thread at every evaluation would be felt.
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
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// All of it, as it is now.
    pub fn seen(&self) -> Seen {
        let counts = MalfunctionKind::ALL.into_iter().zip(&self.malfunctions);
        Seen {
            expected: self.expected(),
            evaluations: self.evaluations.load(Ordering::Relaxed),
            malfunctions: counts
                .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            in_a_row: self.in_a_row.load(Ordering::Relaxed),
            last: self.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
