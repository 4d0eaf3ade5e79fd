//! A review with its verdict, id, time and duration, as the log, the decision log and the replay use them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::review::Review;
use crate::review::verdict::{Disposition, Said, Verdict};

/// A review with its verdict.
#[derive(Debug)]
pub struct Reviewed {
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

impl Reviewed {
    /// Returns the review with a new id and the current time.
    pub fn new(ids: &Ids, took: Duration, review: Arc<Review>, verdict: Verdict) -> Reviewed {
        let at = SystemTime::now();
        Reviewed { id: ids.next(at), at, took, review, verdict }
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
            annotations.insert("review".to_owned(), self.id.to_string());
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

/// Crockford's base 32 in lower case: digits and letters that are not mistaken for one another, in ASCII
/// order.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Bits of an id below its milliseconds. More reviews than these a millisecond make ids run ahead of the
/// clock.
const WITHIN: u32 = 16;
const PLACE_DIGITS: usize = 13;
const PROCESS_DIGITS: usize = 3;

/// Sixteen letters and digits, in the order of time, and distinct among all hosts for practical purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReviewId {
    /// Milliseconds since 1970, and a number within the millisecond.
    place: u64,
    process: u16,
}

impl ReviewId {
    /// Returns a pseudo-random number that depends on the id alone.
    pub fn lot(self) -> u64 {
        // The finalizer of SplitMix64.
        let mut lot = self.place ^ u64::from(self.process) << 49;
        lot = (lot ^ lot >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot = (lot ^ lot >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        lot ^ lot >> 31
    }

    /// Reads an id as `Display` writes it. Returns None if the text is not an id.
    fn parse(text: &str) -> Option<ReviewId> {
        if text.len() != PLACE_DIGITS + PROCESS_DIGITS {
            return None;
        }
        let number = text.bytes().try_fold(0, |number: u128, byte| {
            let digit = DIGITS.iter().position(|digit| *digit == byte)?;
            Some(number << 5 | digit as u128)
        })?;
        let place = u64::try_from(number >> (5 * PROCESS_DIGITS)).ok()?;
        Some(ReviewId { place, process: (number & 0x7fff) as u16 })
    }
}

impl fmt::Display for ReviewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; PLACE_DIGITS + PROCESS_DIGITS];
        let mut rest = u128::from(self.place) << (5 * PROCESS_DIGITS) | u128::from(self.process);
        for place in text.iter_mut().rev() {
            *place = DIGITS.get((rest & 31) as usize).copied().unwrap_or_default();
            rest >>= 5;
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl Serialize for ReviewId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReviewId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReviewId, D::Error> {
        let text = String::deserialize(deserializer)?;
        ReviewId::parse(&text).ok_or_else(|| serde::de::Error::custom("this is no id of a review"))
    }
}

/// The generator of one process's ids. Each id is greater than those before it, whatever the clock does.
#[derive(Debug)]
pub struct Ids {
    last: AtomicU64,
    process: u16,
}

impl Default for Ids {
    fn default() -> Ids {
        // The standard library's hash tables are seeded by the system.
        let process = RandomState::new().hash_one(0) as u16 & 0x7fff;
        Ids { last: AtomicU64::new(0), process }
    }
}

impl Ids {
    /// Returns the next id, for a review whose response is sent `now`.
    pub fn next(&self, now: SystemTime) -> ReviewId {
        let milliseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let place = milliseconds << WITHIN;
        let next = |last: u64| Some(place.max(last.wrapping_add(1)));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
        ReviewId { place: place.max(last.wrapping_add(1)), process: self.process }
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
        assert!(made.iter().all(|id| id.len() == 16 && id.bytes().all(|byte| DIGITS.contains(&byte))));
    }

    #[test]
    fn processes_are_told_apart_and_time_goes_first() {
        let (one, other) = (Ids { last: 0.into(), process: 0x7fff }, Ids { last: 0.into(), process: 0 });
        let now = SystemTime::now();
        let first = one.next(now);
        assert_ne!(first, other.next(now));
        let later = other.next(now + Duration::from_millis(1));
        assert!(first < later && first.to_string() < later.to_string());
        assert!(first.to_string().ends_with("zzz") && later.to_string().ends_with("000"));
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let read = |text: &str| serde_json::from_value::<ReviewId>(text.into()).ok();
        for (place, process) in [(0, 0), (u64::MAX, 0x7fff), (1 << 63, 1)] {
            let id = ReviewId { place, process };
            assert_eq!(read(&id.to_string()), Some(id));
        }
        assert_eq!(Ids::default().next(SystemTime::now()).to_string().len(), 16);
        for text in ["", "0", "00000000000000000", "000000000000000u", "zzzzzzzzzzzzzzzz", "000000000000000é"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn lots_are_spread() {
        let ids = Ids::default();
        let low = (0..10_000).filter(|_| ids.next(UNIX_EPOCH).lot() < u64::MAX / 10).count();
        assert!((800..1200).contains(&low), "{low} of 10,000 in the lowest tenth");
    }
}
