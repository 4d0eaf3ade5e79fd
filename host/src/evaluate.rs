//! Every policy on every image of a review. Synchronous and total: whatever a policy does, there is a verdict.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::config::Mode;
use crate::image::{self, Image};
use crate::policy::{self, Context, Entry, PolicySet};
use crate::review::Review;
use crate::verdict::{Judged, Malfunction, Said, Verdict};

/// How the instances of a policy are shared among the images of a review. The answer may not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// One instance judges all images, in order. What serves.
    Shared,
    /// One instance judges all images, the last one first.
    Reversed,
    /// Each image has an instance of its own.
    Isolated,
}

/// Judges a review by a set, as the server does.
pub fn evaluate(set: &PolicySet, review: &Review) -> Verdict {
    evaluate_with(set, review, Instances::Shared)
}

/// Judges a review by a set, with instances shared otherwise, so that a policy that depends on it is found.
pub fn evaluate_with(set: &PolicySet, review: &Review, instances: Instances) -> Verdict {
    let budget = Budget::of(set.limits.review_deadline);
    judge(set, review, instances, &budget)
}

/// As [`evaluate`], for a caller who cannot wait: none when it would take longer than `patience`.
pub fn evaluate_within(set: &PolicySet, review: &Review, patience: Duration) -> Option<Verdict> {
    let budget = Budget::of(patience.min(set.limits.review_deadline));
    let verdict = judge(set, review, Instances::Shared, &budget);
    (!budget.exhausted.get()).then_some(verdict)
}

/// How long [`evaluate`] is expected to take, by what the policies took before.
pub fn expected(set: &PolicySet, review: &Review) -> Duration {
    if exempt(set, review) {
        return Duration::ZERO;
    }
    let images = u32::try_from(review.images.len()).unwrap_or(u32::MAX);
    let applying = set.policies.iter().filter(|entry| entry.scope.applies(&review.namespace));
    let loaded = applying.filter_map(|entry| entry.loaded.as_ref().ok());
    loaded.map(|policy| policy.record().expected().saturating_mul(images)).sum()
}

fn exempt(set: &PolicySet, review: &Review) -> bool {
    set.rules.exempt_namespaces.contains(&review.namespace)
}

fn judge(set: &PolicySet, review: &Review, instances: Instances, budget: &Budget) -> Verdict {
    let mut images = distinct_images(review);
    if !exempt(set, review) {
        let context = Context::new(&review.namespace, &review.annotations);
        let applying = |mode| {
            let policies = set.policies.iter().filter(move |entry| entry.mode == mode);
            policies.filter(|entry| entry.scope.applies(&review.namespace))
        };
        // Policies in audit mode come last, since they may not cost the others their time.
        for entry in applying(Mode::Enforce).chain(applying(Mode::Audit)) {
            let asked = images.iter_mut();
            match instances {
                Instances::Reversed => ask(entry, asked.rev(), &context, budget, instances),
                _ => ask(entry, asked, &context, budget, instances),
            }
        }
    }
    Verdict::combine(&set.rules, &review.namespace, &set.generation(), images)
}

fn distinct_images(review: &Review) -> Vec<Judged> {
    let mut seen = HashSet::with_capacity(review.images.len());
    review
        .images
        .iter()
        // Most pods have one image, which needs no set.
        .filter(|original| review.images.len() == 1 || seen.insert(original.as_str()))
        .map(|original| Judged {
            original: original.clone(),
            image: image::refuse_image_id(original)
                .and_then(|()| Image::parse(original))
                .map_err(|error| error.to_string()),
            said: Vec::new(),
            exhausted: None,
        })
        .collect()
}

/// Asks one policy about every image. After a malfunction the next image gets a fresh instance.
fn ask<'a>(
    entry: &Entry,
    images: impl Iterator<Item = &'a mut Judged>,
    context: &Context,
    budget: &Budget,
    instances: Instances,
) {
    let limit = entry.loaded.as_ref().map_or(Duration::MAX, |policy| policy.limits().deadline);
    let mut room = entry.loaded.as_ref().map_or(0, |policy| policy.limits().log_lines);
    let mut running: Option<policy::Instance> = None;
    for judged in images {
        let Ok(image) = &judged.image else { continue };
        let deadline = || budget.left().map(|left| left.min(limit));
        let mut log = Vec::new();
        let started_at = Instant::now();
        let judgement = deadline().and_then(|left| {
            let started = match running.take().filter(|_| instances != Instances::Isolated) {
                Some(instance) => Ok(instance),
                None => entry.start(left),
            };
            let mut instance = match started {
                Ok(instance) => instance,
                Err(malfunction) => return Some(Err(malfunction)),
            };
            instance.begin_log(room);
            let decision = instance.evaluate(image, context, deadline()?);
            log = instance.take_log();
            room = instance.log_room();
            if decision.is_ok() {
                running = Some(instance);
            }
            Some(decision)
        });
        let judgement = match judgement {
            // Cut short by the budget rather than by its own limit.
            Some(Err(Malfunction::Deadline(deadline))) if deadline < limit => None,
            other => other,
        };
        if let Ok(policy) = &entry.loaded {
            policy.record().took(started_at.elapsed());
            if let Some(judgement) = &judgement {
                policy.record().ended(judgement.as_ref().err());
            }
        }
        if judgement.is_none() {
            budget.exhausted.set(true);
        }
        let judgement = match (judgement, entry.mode) {
            (Some(judgement), _) => judgement,
            (None, Mode::Audit) => Err(Malfunction::Budget(budget.total)),
            (None, Mode::Enforce) => {
                judged.exhausted = Some(budget.total);
                continue;
            }
        };
        judged.said.push(Said {
            policy: entry.name.to_string(),
            mode: entry.mode,
            failure_policy: entry.failure_policy,
            judgement,
            log,
        });
    }
}

/// The time that a whole review may take.
struct Budget {
    started: Instant,
    total: Duration,
    /// Something was not asked, or not to its end.
    exhausted: Cell<bool>,
}

impl Budget {
    fn of(total: Duration) -> Budget {
        Budget { started: Instant::now(), total, exhausted: Cell::new(false) }
    }

    fn left(&self) -> Option<Duration> {
        self.total.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())
    }
}
