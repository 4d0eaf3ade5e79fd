//! The attempts at an evaluation: in which lanes, and whether with audit-mode policies. Pure.
//!
//! The expected duration of a policy follows its earlier ones ([`crate::policy::PolicyStats`]). An attempt
//! that takes longer is aborted and repeated in a slower lane, where it delays only evaluations of its own
//! pace. Instances are fresh and policies pure, so nothing of an aborted attempt remains.
//!
//! Decisions of audit-mode policies change no verdict, so these policies delay no review. They run after all
//! others, if they are quick or their lane has a free slot, and as long as the attempt has time. Otherwise
//! they are skipped.

use std::time::Duration;

use crate::config::Mode;
use crate::evaluate::applying;
use crate::evaluate::lanes::Pace;
use crate::image::Image;
use crate::policy::{Entry, PolicySet};
use crate::review::Review;

/// The expected duration of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Duration of the policies in mode `enforce`.
    pub enforced: Duration,
    /// Duration of all policies, or None if no audit-mode policy applies to an image.
    pub audited: Option<Duration>,
}

impl Costs {
    /// Returns the expected duration, from the policies' earlier durations.
    pub fn of(set: &PolicySet, review: &Review) -> Costs {
        let mut images = Images { review, parsed: None };
        let (mut enforced, mut audits, mut is_audited) = (Duration::ZERO, Duration::ZERO, false);
        for entry in applying(set, review) {
            let count = images.judged_by(entry);
            let each = entry.loaded.as_ref().map_or(Duration::ZERO, |policy| policy.stats().expected());
            match entry.placement.mode {
                Mode::Enforce => enforced += each.saturating_mul(count),
                Mode::Audit => {
                    audits += each.saturating_mul(count);
                    is_audited |= count > 0;
                }
            }
        }
        Costs { enforced, audited: is_audited.then_some(enforced + audits) }
    }
}

/// The images of a review, parsed only if a policy is limited to some images.
struct Images<'a> {
    review: &'a Review,
    parsed: Option<Vec<Image>>,
}

impl Images<'_> {
    /// Returns the number of images of this review that a policy may judge. Equal images count each time.
    fn judged_by(&mut self, entry: &Entry) -> u32 {
        let count = if entry.placement.scope.images.is_all() {
            self.review.images.len()
        } else {
            let parse = || self.review.images.iter().filter_map(|image| Image::parse(image).ok()).collect();
            let parsed = self.parsed.get_or_insert_with(parse);
            parsed.iter().filter(|image| entry.placement.scope.applies_to(image)).count()
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// One attempt at an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The lane of the attempt.
    pub lane: Pace,
    /// Whether the review waits for a slot of the lane. Otherwise the attempt is skipped if no slot is free.
    pub waits: bool,
    /// Whether audit-mode policies run too. In a lane with slots they also need one that is free at once.
    pub audits: bool,
    /// Time limit of the policies in mode `enforce`. If they exceed it, the next attempt follows. The last
    /// attempt has no limit but the review's deadline.
    pub time_limit: Option<Duration>,
}

/// Returns the attempts at an evaluation, in order. The first attempt that ends gives the verdict.
pub fn attempts(costs: &Costs) -> Vec<Attempt> {
    let attempt = |lane: Pace, waits, audits| Attempt { lane, waits, audits, time_limit: lane.time_limit() };
    let pace = Pace::of(costs.enforced);
    let audited = costs.audited.map(Pace::of);
    // Audit-mode policies are the slower ones: the review goes to their lane only if that costs no wait.
    let beside = audited.filter(|audited| *audited > pace).map(|lane| attempt(lane, false, true));
    let lanes = Pace::ALL.into_iter().filter(|lane| *lane >= pace);
    let waiting = lanes.map(|lane| attempt(lane, true, audited.is_some_and(|audited| audited <= lane)));
    beside.into_iter().chain(waiting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: the expected milliseconds of enforced policies and of all policies, and the attempts: the
    /// lane, `?` if the review does not wait for it, and `+` if audit-mode policies run.
    #[test]
    fn attempts_by_expected_durations() {
        for (enforced, audited, expected) in [
            (0.1, None, "quick steady slow"),
            (2.0, None, "steady slow"),
            (60.0, None, "slow"),
            (0.1, Some(0.2), "quick+ steady+ slow+"),
            (0.1, Some(2.0), "steady?+ quick steady+ slow+"),
            (0.1, Some(60.0), "slow?+ quick steady slow+"),
            (2.0, Some(4.0), "steady+ slow+"),
            (2.0, Some(60.0), "slow?+ steady slow+"),
            (60.0, Some(90.0), "slow+"),
        ] {
            let time = |milliseconds: f64| Duration::from_secs_f64(milliseconds / 1000.0);
            let costs = Costs { enforced: time(enforced), audited: audited.map(time) };
            let attempts = attempts(&costs);
            let shown: Vec<_> = attempts
                .iter()
                .map(|Attempt { lane, waits, audits, .. }| {
                    let lane = format!("{lane:?}").to_lowercase();
                    lane + if *waits { "" } else { "?" } + if *audits { "+" } else { "" }
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "{costs:?}");
            let last = attempts.last().unwrap();
            assert!(last.waits && last.time_limit.is_none(), "{last:?}");
            for Attempt { lane, time_limit, .. } in &attempts {
                assert_eq!(time_limit.is_none(), *lane == Pace::Slow, "only the deadline limits {lane:?}");
            }
        }
    }
}
