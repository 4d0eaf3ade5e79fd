//! Where evaluations run: a bounded number at a time, a bounded queue before them, and a refusal when both are full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::config::HostLimits;
use crate::evaluate::evaluate;
use crate::policy::PolicySet;
use crate::review::Review;
use crate::verdict::Verdict;

/// More reviews are waiting than the queue holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

/// Runs evaluations off the threads that serve connections.
pub struct Dispatcher {
    gate: ArcSwap<Gate>,
}

struct Gate {
    running: Arc<Semaphore>,
    /// Reviews that run or wait.
    admitted: AtomicUsize,
    concurrent: usize,
    queue: usize,
    /// Of the generation that brought these bounds.
    number: u64,
}

impl Gate {
    fn new(limits: &HostLimits, number: u64) -> Gate {
        Gate {
            running: Arc::new(Semaphore::new(limits.concurrent_reviews)),
            admitted: AtomicUsize::new(0),
            concurrent: limits.concurrent_reviews,
            queue: limits.queue,
            number,
        }
    }
}

/// A place among the admitted, given back when dropped.
struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// With the bounds of `set`; reviews of later generations bring their own.
    pub fn new(set: &PolicySet) -> Dispatcher {
        Dispatcher { gate: ArcSwap::from_pointee(Gate::new(&set.limits, set.number())) }
    }

    /// Evaluates `review` by `set` when its turn comes.
    ///
    /// # Errors
    /// [`Overloaded`]: as many reviews are waiting as the queue holds.
    pub async fn evaluate(&self, set: Arc<PolicySet>, review: Review) -> Result<Verdict, Overloaded> {
        let gate = self.gate(&set);
        let place = Place(Arc::clone(&gate));
        if gate.admitted.fetch_add(1, Ordering::Relaxed) >= gate.concurrent.saturating_add(gate.queue) {
            return Err(Overloaded);
        }
        let turn = Arc::clone(&gate.running).acquire_owned();
        let Ok(turn) = tokio::time::timeout(set.limits.review_deadline, turn).await else {
            let budget = humantime::format_duration(set.limits.review_deadline);
            let reason = format!(
                "the review waited for its turn longer than its budget of {budget} (limits.reviewDeadline)"
            );
            return Ok(Verdict::refuse(&set.rules, &set.generation(), &reason));
        };
        // The semaphore is never closed.
        let Ok(permit) = turn else { return Err(Overloaded) };
        let evaluation = {
            let set = Arc::clone(&set);
            // The permit goes along: when the client hangs up the evaluation still runs to its end.
            move || {
                let _held = (permit, place);
                evaluate(&set, &review)
            }
        };
        let verdict = tokio::task::spawn_blocking(evaluation).await;
        Ok(verdict.unwrap_or_else(|error| {
            tracing::error!(%error, "the evaluation of a review panicked: please report this");
            Verdict::refuse(
                &set.rules,
                &set.generation(),
                "the policy host failed on this review; its log says why",
            )
        }))
    }

    /// The gate in force, replaced when a generation brings other bounds; what the old one admitted runs out. A review
    /// that began under an older generation takes the newer gate: it may not bring the old one back, empty.
    fn gate(&self, set: &PolicySet) -> Arc<Gate> {
        let PolicySet { limits, .. } = set;
        let fits = |gate: &Gate| {
            gate.number >= set.number()
                || (gate.concurrent, gate.queue) == (limits.concurrent_reviews, limits.queue)
        };
        let gate = self.gate.load();
        if fits(&gate) {
            return Arc::clone(&gate);
        }
        let new = Arc::new(Gate::new(limits, set.number()));
        self.gate.rcu(|gate| if fits(gate) { Arc::clone(gate) } else { Arc::clone(&new) });
        self.gate.load_full()
    }
}
