//! Where evaluations run, by what they are expected to take: quick ones where their request is served, the others on
//! threads of their own in lanes, so that a review waits only behind those of its own pace.
//!
//! An evaluation that turns out slower than expected is broken off, after a few milliseconds where it should have been
//! quick, and begun anew on a lane for slower ones: instances are fresh and policies pure, so nothing of the first attempt
//! is left. What is expected of a policy follows what it took ([`crate::policy::Record`]), and one that was slow once has
//! to prove itself quick again.
//!
//! No decision of a policy in mode audit changes a verdict, so these policies may keep no other review waiting: they are run
//! where that is quick, or a place in their lane is free, and left out otherwise.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::time::Instant;

use crate::config::HostLimits;
use crate::evaluate::turns::{Client, Displaced, Turn, Turns};
use crate::evaluate::{Audit, evaluate_if_by, evaluate_until, expected, is_audited};
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::verdict::Verdict;

/// What may be expected of a review that is evaluated where its request is served: a change of thread and back costs a
/// tenth of it.
const QUICK: Duration = Duration::from_micros(300);
/// What it may really take: so long a thread serves nobody else.
const PATIENCE: Duration = Duration::from_millis(3);
/// From here on a review waits only behind others that are as slow: these are policies on their way to a deadline.
const SLOW: Duration = Duration::from_millis(50);
/// What a steady one may really take, so that a policy that nobody knows yet holds up the others no longer.
const STEADY_PATIENCE: Duration = Duration::from_millis(100);
/// How long a review may hold a place for policies in mode audit: no other that waits for it may run out of time.
const AUDIT_PATIENCE: Duration = Duration::from_secs(1);
/// How much the threads of lanes give way to those that serve (nice(2)).
const NICE: i32 = 5;

/// How fast a review is expected to be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Where its request is served.
    Quick,
    /// On a thread of its own.
    Steady,
    /// On a thread of its own, of those that are kept for slow ones.
    Slow,
}

impl Pace {
    /// The pace of what is expected to take so long.
    pub fn of(expected: Duration) -> Pace {
        match expected {
            quick if quick <= QUICK => Pace::Quick,
            steady if steady <= SLOW => Pace::Steady,
            _ => Pace::Slow,
        }
    }
}

/// More reviews are waiting than the queue holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

/// Runs evaluations.
pub struct Dispatcher {
    steady: ArcSwap<Lane>,
    slow: ArcSwap<Lane>,
}

/// A bounded number at a time, a bounded queue before them, and a refusal when both are full.
struct Lane {
    running: Arc<Turns>,
    /// Reviews that run or wait.
    admitted: AtomicUsize,
    concurrent: usize,
    queue: usize,
    /// Of the generation that brought these bounds.
    number: u64,
}

impl Lane {
    fn new(limits: &HostLimits, number: u64) -> Lane {
        Lane {
            running: Turns::new(limits.concurrent_reviews),
            admitted: AtomicUsize::new(0),
            concurrent: limits.concurrent_reviews,
            queue: limits.queue,
            number,
        }
    }
}

/// A place among the admitted, given back when dropped.
struct Place(Arc<Lane>);

impl Place {
    fn enter(lane: &Arc<Lane>) -> Place {
        lane.admitted.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(lane))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// With the bounds of `set`; reviews of later generations bring their own.
    pub fn new(set: &PolicySet) -> Dispatcher {
        let lane = || ArcSwap::from_pointee(Lane::new(&set.limits, set.number()));
        Dispatcher { steady: lane(), slow: lane() }
    }

    /// Evaluates `review` by `set`, at once or when the turn of its client comes. The budget of the review begins now.
    ///
    /// # Errors
    /// [`Overloaded`]: as many reviews are waiting as the queue holds, and no client has more of them than this one.
    pub async fn evaluate(
        &self,
        set: Arc<PolicySet>,
        review: Arc<Review>,
        client: &Client,
    ) -> Result<Verdict, Overloaded> {
        let now = Instant::now();
        let until = now + set.limits.review_deadline;
        let quickly = |audit| evaluate_if_by(&set, &review, until.min(now + PATIENCE).into(), audit);
        if is_audited(&set, &review) {
            let verdict = match Pace::of(expected(&set, &review, Audit::Asked)) {
                Pace::Quick => unpanicked(&set, || quickly(Audit::Asked)),
                Pace::Steady => in_free_lane(&self.steady, &set, &review, until).await,
                Pace::Slow => in_free_lane(&self.slow, &set, &review, until).await,
            };
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
        }
        let mut pace = Pace::of(expected(&set, &review, Audit::LeftOut));
        if pace == Pace::Quick {
            match unpanicked(&set, || quickly(Audit::LeftOut)) {
                Some(verdict) => return Ok(verdict),
                None => pace = Pace::Steady,
            }
        }
        if pace == Pace::Steady
            && let Some(verdict) =
                in_lane(&self.steady, &set, &review, client, until, Some(STEADY_PATIENCE)).await?
        {
            return Ok(verdict);
        }
        let verdict = in_lane(&self.slow, &set, &review, client, until, None).await?;
        Ok(verdict.unwrap_or_else(|| failed(&set)))
    }

    /// Reviews that run or wait in the steady lane, and in the slow one.
    pub fn admitted(&self) -> (usize, usize) {
        let of = |lane: &ArcSwap<Lane>| lane.load().admitted.load(Ordering::Relaxed);
        (of(&self.steady), of(&self.slow))
    }
}

/// Evaluates in a lane, policies in mode audit too, if nobody else is or waits in the place that this takes; none where that
/// is not so, or it takes longer than such a policy may hold a place.
async fn in_free_lane(
    lane: &ArcSwap<Lane>,
    set: &Arc<PolicySet>,
    review: &Arc<Review>,
    until: Instant,
) -> Option<Verdict> {
    let lane = of_generation(lane, set);
    let permit = lane.running.try_take()?;
    let place = Place::enter(&lane);
    let until = until.min(Instant::now() + AUDIT_PATIENCE);
    on_a_thread(set, review, (permit, place), move |set, review| {
        evaluate_if_by(set, review, until.into(), Audit::Asked)
    })
    .await
}

/// Evaluates in a lane when the review's turn comes there before `until`; none when it is too slow for this lane, which
/// is known by then or found out after `patience`.
async fn in_lane(
    lane: &ArcSwap<Lane>,
    set: &Arc<PolicySet>,
    review: &Arc<Review>,
    client: &Client,
    until: Instant,
    patience: Option<Duration>,
) -> Result<Option<Verdict>, Overloaded> {
    let lane = of_generation(lane, set);
    let place = Place::enter(&lane);
    // The client that has most reviews waiting gives one up.
    let full = lane.admitted.load(Ordering::Relaxed) > lane.concurrent.saturating_add(lane.queue);
    if full && !lane.running.displace(client) {
        return Err(Overloaded);
    }
    let turn = lane.running.take(client);
    let Ok(turn) = tokio::time::timeout_at(until, turn).await else {
        let budget = humantime::format_duration(set.limits.review_deadline);
        let reason = format!(
            "the review waited for its turn longer than its budget of {budget} (limits.reviewDeadline)"
        );
        return Ok(Some(Verdict::refuse(&set.rules, &set.generation(), &reason)));
    };
    let permit: Turn = turn.map_err(|Displaced| Overloaded)?;
    // Others of its kind may have shown meanwhile what it takes.
    if patience.is_some() && Pace::of(expected(set, review, Audit::LeftOut)) == Pace::Slow {
        return Ok(None);
    }
    let limited = patience.map(|patience| Instant::now() + patience).filter(|limited| *limited < until);
    let evaluation = on_a_thread(set, review, (permit, place), move |set, review| match limited {
        Some(limited) => evaluate_if_by(set, review, limited.into(), Audit::LeftOut),
        None => Some(evaluate_until(set, review, until.into(), Audit::LeftOut)),
    });
    Ok(evaluation.await)
}

/// `held` goes along: when the client hangs up the evaluation still runs to its end.
async fn on_a_thread(
    set: &Arc<PolicySet>,
    review: &Arc<Review>,
    held: impl Send + 'static,
    evaluate: impl FnOnce(&PolicySet, &Review) -> Option<Verdict> + Send + 'static,
) -> Option<Verdict> {
    let evaluation = {
        let (set, review) = (Arc::clone(set), Arc::clone(review));
        move || {
            let _held = held;
            give_way();
            unpanicked(&set, || evaluate(&set, &review))
        }
    };
    tokio::task::spawn_blocking(evaluation).await.unwrap_or_else(|_| Some(failed(set)))
}

/// Evaluation does not panic; if it does all the same, that is a denial of this one review.
fn unpanicked(set: &PolicySet, evaluate: impl FnOnce() -> Option<Verdict>) -> Option<Verdict> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(evaluate)).unwrap_or_else(|_| Some(failed(set)))
}

fn failed(set: &PolicySet) -> Verdict {
    tracing::error!("the evaluation of a review panicked: please report this, with the message before it");
    Verdict::refuse(&set.rules, &set.generation(), "the policy host failed on this review; its log says why")
}

/// Lowers the priority of this thread, once.
fn give_way() {
    thread_local!(static GIVEN: Cell<bool> = const { Cell::new(false) });
    if !GIVEN.replace(true) {
        // Without it the thread still evaluates. On Linux this is of the thread, not of the process.
        let _ = rustix::process::nice(NICE);
    }
}

/// The lane in force, replaced when a generation brings other bounds; what the old one admitted runs out. A review
/// that began under an older generation takes the newer lane: it may not bring the old one back, empty.
fn of_generation(lane: &ArcSwap<Lane>, set: &PolicySet) -> Arc<Lane> {
    let PolicySet { limits, .. } = set;
    let fits = |lane: &Lane| {
        lane.number >= set.number()
            || (lane.concurrent, lane.queue) == (limits.concurrent_reviews, limits.queue)
    };
    let current = lane.load();
    if fits(&current) {
        return Arc::clone(&current);
    }
    let new = Arc::new(Lane::new(limits, set.number()));
    lane.rcu(|lane| if fits(lane) { Arc::clone(lane) } else { Arc::clone(&new) });
    lane.load_full()
}
