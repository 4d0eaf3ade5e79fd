//! A review with its verdict, id, time and duration, as the log, the decision log and the replay use them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::{ContextV7, Timestamp, Uuid};

use crate::review::Review;
use crate::review::verdict::annotations::REVIEW;
use crate::review::verdict::{Disposition, Said, Verdict};

/// A review that was answered, with its verdict.
#[derive(Debug)]
pub struct AnsweredReview {
    /// The id of the review in the log, the decision log and a denial's audit annotations.
    pub id: ReviewId,
    /// The time of the response.
    pub at: SystemTime,
    /// The time from the request's first byte to the verdict.
    pub took: Duration,
    /// The request; empty if it could not be read.
    pub review: Arc<Review>,
    /// The verdict.
    pub verdict: Verdict,
}

impl AnsweredReview {
    /// Returns the review with a new id and the current time.
    pub fn new(ids: &Ids, took: Duration, review: Arc<Review>, verdict: Verdict) -> AnsweredReview {
        let at = SystemTime::now();
        AnsweredReview { id: ids.next(at), at, took, review, verdict }
    }

    /// Returns the result, with its basis.
    pub fn disposition(&self) -> Disposition {
        self.verdict.disposition
    }

    /// Returns the audit annotations of the response. A denial, and a review that would be denied in mode
    /// `enforce`, has the id as `review`.
    pub fn audit_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.verdict.audit_annotations();
        if !matches!(self.disposition(), Disposition::Allowed(_)) {
            annotations.insert(REVIEW.to_owned(), self.id.to_string());
        }
        annotations
    }

    /// Returns the result of every policy on every image.
    pub fn said(&self) -> impl Iterator<Item = &Said> {
        self.verdict.images.iter().flat_map(|image| &image.judged.said)
    }

    /// Returns the generation that judged the review.
    pub fn generation(&self) -> &str {
        &self.verdict.generation
    }
}

/// A UUID of version 7 (RFC 9562): distinct among all hosts, and in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReviewId(Uuid);

impl ReviewId {
    /// Returns a pseudo-random number that depends on the id alone.
    pub fn sample_hash(self) -> u64 {
        let (time, random) = self.0.as_u64_pair();
        // The finalizer of SplitMix64.
        let mut hash = time ^ random;
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    }
}

impl fmt::Display for ReviewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The generator of one process's ids. Each id is greater than those before it, whatever the clock does.
#[derive(Debug, Default)]
pub struct Ids(Mutex<ContextV7>);

impl Ids {
    /// Returns the next id, for a review whose response is sent `now`.
    pub fn next(&self, now: SystemTime) -> ReviewId {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = Timestamp::from_unix(&*self.0.lock(), now.as_secs(), now.subsec_nanos());
        ReviewId(Uuid::new_v7(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_order_and_distinct_whatever_the_clock_does() {
        let ids = Ids::default();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let mut made: Vec<String> = Vec::new();
        for at in [now, now, now - hour, now - hour, now + hour, now, UNIX_EPOCH - hour] {
            made.extend((0..70_000).map(|_| ids.next(at).to_string()));
        }
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(made.iter().all(|id| id.len() == 36));
    }

    #[test]
    fn processes_are_told_apart_and_time_goes_first() {
        let (one, other) = (Ids::default(), Ids::default());
        let now = SystemTime::now();
        let first = one.next(now);
        assert_ne!(first, other.next(now));
        let later = other.next(now + Duration::from_millis(1));
        assert!(first < later && first.to_string() < later.to_string());
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = Ids::default().next(SystemTime::now());
        let written = serde_json::to_value(id).unwrap();
        assert_eq!(written, id.to_string());
        assert_eq!(serde_json::from_value::<ReviewId>(written).unwrap(), id);
        for text in ["", "0", "06fq3v2k9hr400kp", "019ad5a0-0000-7000-8000-00000000000g"] {
            assert!(serde_json::from_value::<ReviewId>(text.into()).is_err(), "{text}");
        }
    }

    #[test]
    fn sample_hashes_are_spread() {
        let ids = Ids::default();
        let low = (0..10_000).filter(|_| ids.next(UNIX_EPOCH).sample_hash() < u64::MAX / 10).count();
        assert!((800..1200).contains(&low), "{low} of 10,000 in the lowest tenth");
    }
}
