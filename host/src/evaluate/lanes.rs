//! Dispatch of evaluations by their expected duration. Quick ones run on the thread of their request, the
//! others on threads of their own in lanes, so that a review waits only behind those of its own pace.
//!
//! An evaluation that turns out slower than expected is aborted (a quick one after a few milliseconds) and
//! repeated in a slower lane. Instances are fresh and policies pure, so nothing of the first attempt remains.
//! The expected duration of a policy follows its earlier ones ([`crate::policy::Record`]); a policy that was
//! slow once has to prove itself quick again.
//!
//! Decisions of audit-mode policies change no verdict, so these policies must not keep another review
//! waiting. They run if they are quick or their lane has a free slot, and are left out otherwise.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::HostLimits;
use crate::evaluate::turns::{Client, Displaced, Turn, Turns};
use crate::evaluate::{Audit, evaluate_if_by, evaluate_until, expected, is_audited};
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::verdict::Verdict;

/// Longest expected duration of an evaluation on the thread of its request. A change of thread and back costs
/// a tenth of it.
const QUICK: Duration = Duration::from_micros(300);
/// Time limit of an evaluation on the thread of its request. During it the thread serves no other request.
const PATIENCE: Duration = Duration::from_millis(3);
/// Longest expected duration in the steady lane. Slower evaluations are about to reach a deadline, and wait
/// only behind each other.
const SLOW: Duration = Duration::from_millis(50);
/// Time limit of a run in the steady lane. A run over it is aborted and repeated in the slow lane, so an
/// unmeasured policy cannot block the lane.
const STEADY_PATIENCE: Duration = Duration::from_millis(100);
/// Time limit of a run that includes audit-mode policies in a lane. No review that waits for the slot may run
/// out of time.
const AUDIT_PATIENCE: Duration = Duration::from_secs(1);
/// Niceness of the lanes' threads, below those that serve (nice(2)).
const NICE: i32 = 5;

/// The expected pace of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Returns the pace of an evaluation with this expected duration.
    pub fn of(expected: Duration) -> Pace {
        match expected {
            quick if quick <= QUICK => Pace::Quick,
            steady if steady <= SLOW => Pace::Steady,
            _ => Pace::Slow,
        }
    }
}

/// An error: more reviews are waiting than the queue holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Overloaded;

/// The dispatcher of evaluations: the two lanes in force.
pub struct Dispatcher {
    steady: ArcSwap<Lane>,
    slow: ArcSwap<Lane>,
}

/// A limited number of concurrent evaluations with a limited queue before them. A review is rejected if both
/// are full.
struct Lane {
    running: Arc<Turns>,
    /// Number of reviews that run or wait.
    admitted: AtomicUsize,
    concurrent: usize,
    queue: usize,
    /// Number of the generation that set these limits.
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

/// A place among the admitted reviews, released when dropped.
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
    /// Returns a dispatcher with the limits of `set`. Reviews of later generations bring their own limits.
    pub fn new(set: &PolicySet) -> Dispatcher {
        let lane = || ArcSwap::from_pointee(Lane::new(&set.limits, set.number()));
        Dispatcher { steady: lane(), slow: lane() }
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

    /// Returns the numbers of reviews that run or wait: in the steady lane, and in the slow one.
    pub fn admitted(&self) -> (usize, usize) {
        let of = |lane: &ArcSwap<Lane>| lane.load().admitted.load(Ordering::Relaxed);
        (of(&self.steady), of(&self.slow))
    }
}

/// Evaluates the review with its audit-mode policies, but only if the lane has a free slot now. Returns None
/// if the lane has none, or if the run exceeds [`AUDIT_PATIENCE`].
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

/// Evaluates the review in a lane when its turn comes; a review whose turn does not come by `until` is
/// denied. Returns None if the review is too slow for this lane: by its expected duration when its turn
/// comes, or because the run exceeds `patience`.
///
/// # Errors
/// Returns [`Overloaded`] if the queue is full and no client has more reviews in it.
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
    // The client with the most waiting reviews gives one up.
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
    // Meanwhile other reviews may have shown the real duration of these policies.
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

/// Evaluates on a blocking thread. The thread keeps `held`: the evaluation runs to its end even if the client
/// hangs up.
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

/// Catches a panic of an evaluation, which should not happen, and turns it into a denial of this one review.
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
        // A failure is harmless: the thread still evaluates. On Linux the value is of the thread, not of the
        // process.
        let _ = rustix::process::nice(NICE);
    }
}

/// Returns the lane in force, and replaces it if a generation brings other limits. Reviews that the old lane
/// admitted still finish there. A review of an older generation takes the newer lane: it must not bring an
/// empty old one back.
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
