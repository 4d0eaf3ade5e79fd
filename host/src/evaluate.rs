//! Every policy on every image of a review. Synchronous and total: whatever a policy does, there is a verdict.

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
    let mut images = distinct_images(review);
    if !set.rules.exempt_namespaces.contains(&review.namespace) {
        let budget = Budget { started: Instant::now(), total: set.limits.review_deadline };
        let context = Context::new(&review.namespace, &review.annotations);
        let applying = |mode| {
            let policies = set.policies.iter().filter(move |entry| entry.mode == mode);
            policies.filter(|entry| entry.scope.applies(&review.namespace))
        };
        // Policies in audit mode come last, since they may not cost the others their time.
        for entry in applying(Mode::Enforce).chain(applying(Mode::Audit)) {
            let asked = images.iter_mut();
            match instances {
                Instances::Reversed => ask(entry, asked.rev(), &context, &budget, instances),
                _ => ask(entry, asked, &context, &budget, instances),
            }
        }
    }
    Verdict::combine(&set.rules, &review.namespace, &set.generation(), images)
}

fn distinct_images(review: &Review) -> Vec<Judged> {
    let mut seen = HashSet::new();
    review
        .images
        .iter()
        .filter(|original| seen.insert(original.as_str()))
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
    let mut running: Option<policy::Instance> = None;
    for judged in images {
        let Ok(image) = &judged.image else { continue };
        let deadline = || budget.left().map(|left| left.min(limit));
        let mut log = Vec::new();
        let judgement = deadline().and_then(|left| {
            let started = match running.take().filter(|_| instances != Instances::Isolated) {
                Some(instance) => Ok(instance),
                None => entry.start(left),
            };
            let mut instance = match started {
                Ok(instance) => instance,
                Err(malfunction) => return Some(Err(malfunction)),
            };
            // Lines of `configure` were written when the policy was loaded.
            instance.take_log();
            let decision = instance.evaluate(image, context, deadline()?);
            log = instance.take_log();
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
}

impl Budget {
    fn left(&self) -> Option<Duration> {
        self.total.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())
    }
}
