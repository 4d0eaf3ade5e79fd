//! Counters and histograms, for the metrics and the status. No update waits for another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds `more`.
    pub fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns the current count.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const MICRO: u64 = 1000;
const MILLI: u64 = 1000 * MICRO;
const SECOND: u64 = 1000 * MILLI;

/// Upper ends of the buckets, in nanoseconds: from the duration of the quickest policy to the default
/// deadline of a review. One more bucket follows the last.
const ENDS: [u64; 19] = [
    10 * MICRO,
    25 * MICRO,
    50 * MICRO,
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2500 * MILLI,
    5 * SECOND,
    10 * SECOND,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; ENDS.len() + 1],
    /// Sum of all durations, in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Records one duration.
    pub fn record(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(ENDS.partition_point(|end| *end < nanoseconds)) {
            bucket.add();
        }
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Returns the sum of all durations, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Returns each bucket's upper end in seconds and its count. The last bucket has no end.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let ends = ENDS.iter().map(|end| Duration::from_nanos(*end).as_secs_f64()).chain([f64::INFINITY]);
        ends.zip(self.buckets.iter().map(Counter::now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_at_the_end_of_a_bucket_is_in_it() {
        let histogram = Histogram::default();
        for nanoseconds in [0, 10 * MICRO, 10 * MICRO + 1, 10 * SECOND, 11 * SECOND, u64::MAX / 4] {
            histogram.record(Duration::from_nanos(nanoseconds));
        }
        let found: Vec<_> = histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(1e-5, 2), (2.5e-5, 1), (10.0, 1), (f64::INFINITY, 2)]);
        assert!(histogram.seconds() > 21.0);
    }
}
