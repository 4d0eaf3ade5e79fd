//! The lanes of evaluations: the expected duration for each, its time limit, its slots and its queue. The
//! steady lane and the slow one share the slots of `limits.concurrentReviews`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::HostLimits;
use crate::evaluate::turns::{Client, Crowded, Turn, Turns};

/// Longest expected duration of an evaluation on the thread of its request. A change of thread and back costs
/// a tenth of it.
const QUICK_EXPECTED: Duration = Duration::from_micros(300);
/// Longest expected duration in the steady lane. Slower evaluations are about to reach a deadline, and wait
/// only behind each other.
const STEADY_EXPECTED: Duration = Duration::from_millis(50);

/// Time limit of an evaluation on the thread of its request, which serves no other request meanwhile.
const QUICK_LIMIT: Duration = Duration::from_millis(3);
/// Time limit of an evaluation in the steady lane. A run over it is aborted and repeated in the slow lane, so
/// an unmeasured policy cannot block the lane.
const STEADY_LIMIT: Duration = Duration::from_millis(100);

/// The expected pace of an evaluation, and the lane for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Runs on the thread of its request.
    Quick,
    /// Runs in the steady lane, on a thread of its own.
    Steady,
    /// Runs in the slow lane, on a thread of its own.
    Slow,
}

impl Pace {
    /// All lanes, the fastest first.
    pub(super) const ALL: [Pace; 3] = [Pace::Quick, Pace::Steady, Pace::Slow];

    /// Returns the pace of an evaluation with this expected duration.
    pub fn of(expected: Duration) -> Pace {
        match expected {
            quick if quick <= QUICK_EXPECTED => Pace::Quick,
            steady if steady <= STEADY_EXPECTED => Pace::Steady,
            _ => Pace::Slow,
        }
    }

    /// Returns the time limit of an evaluation in this lane, or None if only the review's deadline limits it.
    pub(super) fn time_limit(self) -> Option<Duration> {
        match self {
            Pace::Quick => Some(QUICK_LIMIT),
            Pace::Steady => Some(STEADY_LIMIT),
            Pace::Slow => None,
        }
    }
}

/// The lanes, each with a limited queue. A review is rejected if no slot is free and the queue of its lane is
/// full.
pub(super) struct Lanes {
    slots: Arc<Turns>,
    /// The slots that the slow lane may take: all but one, so that no review of the steady lane waits only
    /// for slow ones. If there is only one slot, both lanes take it.
    slow_slots: Arc<Turns>,
    /// Number of reviews that run or wait in the steady lane.
    steady: AtomicUsize,
    /// Number of reviews that run or wait in the slow lane.
    slow: AtomicUsize,
    concurrent: usize,
    queue: usize,
    /// Number of the generation that set these limits.
    number: u64,
}

impl Lanes {
    /// Returns empty lanes with these limits of the generation `number`.
    pub(super) fn new(limits: &HostLimits, number: u64) -> Lanes {
        Lanes {
            slots: Turns::new(limits.concurrent_reviews),
            slow_slots: Turns::new(limits.concurrent_reviews.saturating_sub(1)),
            steady: AtomicUsize::new(0),
            slow: AtomicUsize::new(0),
            concurrent: limits.concurrent_reviews,
            queue: limits.queue,
            number,
        }
    }

    /// Returns whether reviews with these limits of the generation `number` take these lanes. A review of an
    /// older generation takes the newer lanes: it must not bring empty old ones back.
    pub(super) fn fits(&self, limits: &HostLimits, number: u64) -> bool {
        self.number >= number || (self.concurrent, self.queue) == (limits.concurrent_reviews, limits.queue)
    }

    /// Returns the numbers of reviews that run or wait: in the steady lane, and in the slow one.
    pub(super) fn admitted(&self) -> (usize, usize) {
        (self.steady.load(Ordering::Relaxed), self.slow.load(Ordering::Relaxed))
    }

    /// Returns a slot if one is free.
    pub(super) fn try_enter(self: &Arc<Self>, lane: Pace) -> Option<Slot> {
        let slow = if lane == Pace::Slow { Some(self.slow_slots.try_take()?) } else { None };
        Some(Slot { _turn: self.slots.try_take()?, _slow: slow, _admitted: Admitted::new(self, lane) })
    }

    /// Waits for a slot. Slots rotate among clients, and a full queue has room for a client with fewer
    /// reviews in it than another.
    pub(super) async fn enter(self: &Arc<Self>, lane: Pace, client: &Client) -> Result<Slot, Crowded> {
        let admitted = Admitted::new(self, lane);
        let queue = Some(self.queue);
        let (slow, queue) = match lane {
            // The queue of the slow lane is before its own slots. Only their owners wait for the others, and
            // take no place in the queue of the steady lane.
            Pace::Slow => (Some(self.slow_slots.take(client, queue).await?), None),
            Pace::Quick | Pace::Steady => (None, queue),
        };
        Ok(Slot { _turn: self.slots.take(client, queue).await?, _slow: slow, _admitted: admitted })
    }
}

/// A slot for the evaluation of one review, released when dropped.
pub(super) struct Slot {
    _turn: Turn,
    _slow: Option<Turn>,
    _admitted: Admitted,
}

/// A review that runs or waits in a lane, counted until this is dropped.
struct Admitted(Arc<Lanes>, Pace);

impl Admitted {
    fn new(lanes: &Arc<Lanes>, lane: Pace) -> Admitted {
        let admitted = Admitted(Arc::clone(lanes), lane);
        admitted.count().fetch_add(1, Ordering::Relaxed);
        admitted
    }

    fn count(&self) -> &AtomicUsize {
        if self.1 == Pace::Slow { &self.0.slow } else { &self.0.steady }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits(concurrent_reviews: usize, queue: usize) -> HostLimits {
        HostLimits { concurrent_reviews, queue, ..HostLimits::default() }
    }

    fn counts(lanes: &Lanes) -> (usize, usize) {
        (lanes.steady.load(Ordering::Relaxed), lanes.slow.load(Ordering::Relaxed))
    }

    #[test]
    fn a_pace_includes_its_longest_duration_and_has_time_beyond() {
        let more = Duration::from_nanos(1);
        let paces = [Pace::Quick, Pace::Steady, Pace::Steady, Pace::Slow];
        assert_eq!(
            [QUICK_EXPECTED, QUICK_EXPECTED + more, STEADY_EXPECTED, STEADY_EXPECTED + more].map(Pace::of),
            paces
        );
        assert!(
            Pace::Quick.time_limit() > Some(QUICK_EXPECTED)
                && Pace::Steady.time_limit() > Some(STEADY_EXPECTED)
        );
    }

    #[tokio::test]
    async fn slow_reviews_leave_a_slot_to_the_others() {
        let client = Client::Address(Ipv4Addr::LOCALHOST.into());
        let lanes = Arc::new(Lanes::new(&limits(3, 0), 1));
        let slow: Vec<_> = std::iter::from_fn(|| lanes.try_enter(Pace::Slow)).collect();
        assert_eq!((slow.len(), counts(&lanes)), (2, (0, 2)));
        let steady = lanes.try_enter(Pace::Steady);
        assert!(steady.is_some() && lanes.try_enter(Pace::Steady).is_none());
        assert_eq!(counts(&lanes), (1, 2));
        for lane in [Pace::Steady, Pace::Slow] {
            assert!(lanes.enter(lane, &client).await.is_err(), "the queue has no place");
        }
        drop((slow, steady));
        assert_eq!(counts(&lanes), (0, 0));

        let only = Arc::new(Lanes::new(&limits(1, 0), 1));
        assert!(only.try_enter(Pace::Slow).is_some(), "both lanes take the only slot");
        assert!(only.enter(Pace::Slow, &client).await.is_ok());
    }
}
