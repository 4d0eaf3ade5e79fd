//! Dispatch of reviews to their evaluation: it makes the attempts, quick ones on the thread of the request
//! and the others on threads of their own in a lane.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::evaluate::attempts::{Attempt, Costs, attempts};
use crate::evaluate::lanes::{Lanes, Pace};
use crate::evaluate::turns::{Client, Crowded};
use crate::evaluate::{Audit, Ended, Facts, Instances, Options, evaluate};
use crate::isolate::{self, Panicked};
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::verdict::Verdict;

/// Time limit of audit-mode policies in a lane. No review that waits for the slot may run out of time.
const AUDIT_TIME: Duration = Duration::from_secs(1);
/// Niceness of the lanes' threads, below those that serve (nice(2)).
const NICE: i32 = 5;

/// An error: more reviews are waiting than the queue holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

/// The dispatcher of evaluations: the lanes in force.
pub struct Dispatcher(ArcSwap<Lanes>);

/// A review of a client, and the set that judges it.
struct Task {
    set: Arc<PolicySet>,
    review: Arc<Review>,
    /// The review's deadline.
    until: Instant,
}

impl Dispatcher {
    /// Returns a dispatcher with the limits of `set`. Reviews of later generations bring their own limits.
    pub fn new(set: &PolicySet) -> Dispatcher {
        Dispatcher(ArcSwap::from_pointee(Lanes::new(&set.limits, set.number())))
    }

    /// Evaluates `review` by `set`, at once or when its client's turn comes. The review's deadline counts
    /// from now.
    ///
    /// # Errors
    /// Returns [`Overloaded`] if the queue is full and no client has more reviews in it than this one.
    pub async fn evaluate(
        &self,
        set: Arc<PolicySet>,
        review: Arc<Review>,
        client: &Client,
    ) -> Result<Verdict, Overloaded> {
        let until = Instant::now() + set.limits.review_deadline;
        let attempts = attempts(&Costs::of(&set, &review));
        let task = Arc::new(Task { set, review, until });
        for attempt in attempts {
            let verdict = match attempt.lane {
                Pace::Quick => task.run(&attempt, attempt.audits),
                Pace::Steady | Pace::Slow => self.in_lane(&task, attempt, client).await?,
            };
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
        }
        // The last attempt always gives a verdict.
        Ok(failed(&task.set))
    }

    /// Makes an attempt in a lane, on a thread of its own. Returns None if the next attempt is to follow.
    async fn in_lane(
        &self,
        task: &Arc<Task>,
        attempt: Attempt,
        client: &Client,
    ) -> Result<Option<Verdict>, Overloaded> {
        let lanes = self.lanes(&task.set);
        let (slot, audits) = match lanes.try_enter(attempt.lane) {
            Some(slot) => (slot, attempt.audits),
            None if !attempt.waits => return Ok(None),
            None => {
                let slot = tokio::time::timeout_at(task.until.into(), lanes.enter(attempt.lane, client));
                let Ok(slot) = slot.await else { return Ok(Some(waited_too_long(&task.set))) };
                (slot.map_err(|Crowded| Overloaded)?, false)
            }
        };
        // Meanwhile other reviews may have shown the real duration of these policies.
        if attempt.time_limit.is_some()
            && !audits
            && Pace::of(Costs::of(&task.set, &task.review).enforced) > attempt.lane
        {
            return Ok(None);
        }
        let run = {
            let task = Arc::clone(task);
            move || {
                // The thread keeps the slot: the evaluation runs to its end even if the client hangs up.
                let _slot = slot;
                lower_priority();
                task.run(&attempt, audits)
            }
        };
        Ok(tokio::task::spawn_blocking(run).await.unwrap_or_else(|_| Some(failed(&task.set))))
    }

    /// Returns the lanes in force, and replaces them if a generation brings other limits. Reviews that the
    /// old lanes admitted still finish there.
    fn lanes(&self, set: &PolicySet) -> Arc<Lanes> {
        let (limits, number) = (&set.limits, set.number());
        let current = self.0.load();
        if current.fits(limits, number) {
            return Arc::clone(&current);
        }
        let new = Arc::new(Lanes::new(limits, number));
        self.0.rcu(|lanes| if lanes.fits(limits, number) { Arc::clone(lanes) } else { Arc::clone(&new) });
        self.0.load_full()
    }

    /// Returns the numbers of reviews that run or wait: in the steady lane, and in the slow one.
    pub fn admitted(&self) -> (usize, usize) {
        self.0.load().admitted()
    }
}

impl Task {
    /// Makes an attempt on this thread. Returns None if the policies in mode `enforce` exceed its time limit.
    /// A panic, which should not happen, denies this one review.
    fn run(&self, attempt: &Attempt, audits: bool) -> Option<Verdict> {
        let now = Instant::now();
        let limit = attempt.time_limit.map(|limit| now + limit).filter(|limit| *limit < self.until);
        let options = Options {
            until: limit.unwrap_or(self.until),
            instances: Instances::Shared,
            audit: if audits { Audit::Until(now + AUDIT_TIME) } else { Audit::Skipped },
        };
        let evaluate = || {
            let evaluation = evaluate(&self.set, &self.review, &Facts::default(), &options);
            match &evaluation.ended {
                Ended::OutOfTime if limit.is_some() => {
                    evaluation.record_durations();
                    None
                }
                Ended::Complete | Ended::OutOfTime => Some(evaluation.recorded()),
                Ended::Needs(key, _) => match *key {},
            }
        };
        isolate::run(evaluate).unwrap_or_else(|Panicked| Some(failed(&self.set)))
    }
}

fn waited_too_long(set: &PolicySet) -> Verdict {
    let budget = humantime::format_duration(set.limits.review_deadline);
    let reason =
        format!("the review waited for its turn longer than its budget of {budget} (limits.reviewDeadline)");
    Verdict::refuse(&set.rules, &set.generation(), &reason)
}

fn failed(set: &PolicySet) -> Verdict {
    tracing::error!("the evaluation of a review panicked: please report this, with the message before it");
    Verdict::refuse(&set.rules, &set.generation(), "the policy host failed on this review; its log says why")
}

/// Lowers the priority of this thread, once.
fn lower_priority() {
    thread_local!(static GIVEN: Cell<bool> = const { Cell::new(false) });
    if !GIVEN.replace(true) {
        isolate::lower_priority(NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostLimits, Rules};
    use crate::policy::manifest::Publication;

    fn limits(concurrent_reviews: usize, queue: usize) -> HostLimits {
        HostLimits { concurrent_reviews, queue, ..HostLimits::default() }
    }

    #[test]
    fn lanes_are_those_of_the_latest_generation() {
        let set = |number, concurrent, queue| {
            let set = PolicySet::new(Rules::default(), limits(concurrent, queue), Vec::new());
            set.published(Publication { number, ..Publication::NONE })
        };
        let dispatcher = Dispatcher::new(&set(2, 4, 8));
        let first = dispatcher.lanes(&set(2, 4, 8));
        for (same, set) in [("limits", set(3, 4, 8)), ("older", set(1, 5, 9))] {
            assert!(Arc::ptr_eq(&first, &dispatcher.lanes(&set)), "{same}");
        }
        let concurrent = dispatcher.lanes(&set(3, 5, 8));
        assert!(concurrent.fits(&limits(5, 8), u64::MAX));
        let queue = dispatcher.lanes(&set(4, 5, 9));
        assert!(queue.fits(&limits(5, 9), u64::MAX));
        let _slots = [Pace::Steady, Pace::Slow, Pace::Slow].map(|lane| queue.try_enter(lane));
        assert_eq!(dispatcher.admitted(), (1, 2));
    }
}
