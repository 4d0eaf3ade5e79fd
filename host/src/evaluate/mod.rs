//! Evaluation of every policy on every image of a review. Synchronous and total: whatever a policy does,
//! there is a verdict.

pub mod lanes;
pub mod turns;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::config::Mode;
use crate::image::{self, Image, ImageError};
use crate::limits;
use crate::policy::{Context, Entry, Instance, Policy, PolicySet};
use crate::review::Review;
use crate::review::verdict::{Decision, Judged, LogLine, Malfunction, Said, Verdict};
use crate::text;

/// Sharing of a policy's instances among the images of a review. The verdict must not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// One instance judges all images, in order. The server uses this.
    Shared,
    /// One instance judges all images, the last one first.
    Reversed,
    /// Each image has an instance of its own.
    Isolated,
}

/// Whether audit-mode policies run. Their decisions change no verdict, so no review waits for them. A policy
/// that is left out still counts as one that applies, so the verdict is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Audit-mode policies run after all others.
    Asked,
    /// Audit-mode policies do not run; their results say so.
    LeftOut,
}

/// Evaluates a review as the server does.
pub fn evaluate(set: &PolicySet, review: &Review) -> Verdict {
    evaluate_with(set, review, Instances::Shared)
}

/// Evaluates a review with another sharing of instances, to find policies that depend on it.
pub fn evaluate_with(set: &PolicySet, review: &Review, instances: Instances) -> Verdict {
    Evaluation::new(set, Instant::now() + set.limits.review_deadline).finish(review, instances, Audit::Asked)
}

/// Evaluates like [`evaluate`], with the remaining time of the review.
pub fn evaluate_until(set: &PolicySet, review: &Review, until: Instant, audit: Audit) -> Verdict {
    Evaluation::new(set, until).finish(review, Instances::Shared, audit)
}

/// Evaluates like [`evaluate_until`], for a caller that must not wait. Returns None if an evaluation was not
/// finished by `until`. The policies' results are not counted then; their durations are recorded.
pub fn evaluate_if_by(set: &PolicySet, review: &Review, until: Instant, audit: Audit) -> Option<Verdict> {
    let mut attempt = Evaluation::new(set, until);
    let verdict = attempt.judge(review, Instances::Shared, audit);
    if attempt.exhausted {
        return None;
    }
    attempt.count();
    Some(verdict)
}

/// Evaluates like [`evaluate_until`], outside of serving: neither the results nor the durations are recorded.
pub fn evaluate_aside(set: &PolicySet, review: &Review, instances: Instances, until: Instant) -> Verdict {
    let until = until.min(Instant::now() + set.limits.review_deadline);
    let mut evaluation = Evaluation { counted: false, ..Evaluation::new(set, until) };
    evaluation.judge(review, instances, Audit::Asked)
}

/// Returns the expected duration of [`evaluate`], from the policies' earlier durations. Audit-mode policies
/// count only with [`Audit::Asked`].
pub fn expected(set: &PolicySet, review: &Review, audit: Audit) -> Duration {
    if exempt(set, review) {
        return Duration::ZERO;
    }
    let mut images = Images::of(review);
    let asked = applying(set, review).filter(|entry| entry.mode == Mode::Enforce || audit == Audit::Asked);
    let loaded = asked.filter_map(|entry| Some((entry, entry.loaded.as_ref().ok()?)));
    loaded.map(|(entry, policy)| policy.record().expected().saturating_mul(images.judged_by(entry))).sum()
}

/// Returns whether an audit-mode policy applies to an image of a review.
pub fn is_audited(set: &PolicySet, review: &Review) -> bool {
    let mut images = Images::of(review);
    let audits = |entry: &Entry| entry.mode == Mode::Audit && images.judged_by(entry) > 0;
    !exempt(set, review) && applying(set, review).any(audits)
}

/// The images of a review, parsed only if a policy is limited to some images.
struct Images<'a> {
    review: &'a Review,
    parsed: Option<Vec<Image>>,
}

impl<'a> Images<'a> {
    fn of(review: &'a Review) -> Images<'a> {
        Images { review, parsed: None }
    }

    /// Returns the maximum number of images that a policy judges.
    fn judged_by(&mut self, entry: &Entry) -> u32 {
        let count = if entry.scope.images.is_all() {
            self.review.images.len()
        } else {
            let parse = || self.review.images.iter().filter_map(|image| Image::parse(image).ok()).collect();
            let parsed = self.parsed.get_or_insert_with(parse);
            parsed.iter().filter(|image| entry.scope.applies_to(image)).count()
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn exempt(set: &PolicySet, review: &Review) -> bool {
    set.rules.exempt_namespaces.matches(&review.namespace)
}

fn applying<'a>(set: &'a PolicySet, review: &'a Review) -> impl Iterator<Item = &'a Entry> {
    set.policies.iter().filter(|entry| entry.scope.applies(&review.namespace))
}

/// A running evaluation.
struct Evaluation<'a> {
    set: &'a PolicySet,
    until: Instant,
    /// Whether results and durations are recorded in the policies' records.
    counted: bool,
    /// Whether an evaluation was skipped or cut short for lack of time.
    exhausted: bool,
    /// Limit of the texts of one decision, in bytes.
    share: usize,
    /// The result of each policy's evaluations, counted once they are final.
    ended: Vec<(&'a Policy, Option<Malfunction>)>,
}

impl<'a> Evaluation<'a> {
    fn new(set: &'a PolicySet, until: Instant) -> Evaluation<'a> {
        Evaluation {
            set,
            until,
            counted: true,
            exhausted: false,
            share: limits::SAID.size(),
            ended: Vec::new(),
        }
    }

    fn finish(mut self, review: &Review, instances: Instances, audit: Audit) -> Verdict {
        let verdict = self.judge(review, instances, audit);
        self.count();
        verdict
    }

    fn count(&self) {
        for (policy, malfunction) in &self.ended {
            policy.record().ended(malfunction.as_ref());
        }
    }

    fn judge(&mut self, review: &Review, instances: Instances, audit: Audit) -> Verdict {
        let set = self.set;
        let mut images = distinct_images(review);
        if !exempt(set, review) {
            let asked = applying(set, review).count() * images.len();
            // Every decision gets the same share, so that the texts do not depend on the order of images.
            self.share = (limits::SAID.size() / asked.max(1)).max(LEAST_SHARE);
            let context = Context::new(&review.namespace, &review.annotations);
            let of = |mode| set.policies.iter().filter(move |entry| entry.mode == mode);
            // Audit-mode policies come last: they must not cost the others time.
            let entries = of(Mode::Enforce).chain(of(Mode::Audit));
            for entry in entries.filter(|entry| entry.scope.applies(&review.namespace)) {
                if entry.mode == Mode::Audit && audit == Audit::LeftOut {
                    images.iter_mut().for_each(|judged| leave_out(entry, judged));
                    continue;
                }
                let asked = images.iter_mut();
                match instances {
                    Instances::Reversed => self.ask(entry, asked.rev(), &context, instances),
                    _ => self.ask(entry, asked, &context, instances),
                }
            }
        }
        Verdict::combine(&set.rules, &review.namespace, &set.generation(), images)
    }

    fn left(&self) -> Option<Duration> {
        self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Evaluates one policy on every image. After a malfunction the next image gets a fresh instance.
    fn ask<'b>(
        &mut self,
        entry: &'a Entry,
        images: impl Iterator<Item = &'b mut Judged>,
        context: &Context<'_>,
        instances: Instances,
    ) {
        let loaded = entry.loaded.as_ref();
        let limit = loaded.map_or(Duration::MAX, |policy| policy.limits().deadline);
        let mut room = loaded.map_or(0, |policy| policy.limits().log_lines);
        let mut running: Option<Instance> = None;
        for judged in images {
            let Ok(image) = &judged.image else { continue };
            if !entry.scope.applies_to(image) {
                continue;
            }
            let began = Instant::now();
            let mut log = Vec::new();
            let judgement = self.left().and_then(|left| {
                let started = match running.take().filter(|_| instances != Instances::Isolated) {
                    Some(instance) => Ok(instance),
                    None => entry.start(left.min(limit)),
                };
                let mut instance = match started {
                    Ok(instance) => instance,
                    Err(malfunction) => return Some(Err(malfunction)),
                };
                instance.begin_log(room);
                let decision = instance.evaluate(image, context, self.left()?.min(limit));
                log = instance.take_log();
                room = instance.log_room();
                if decision.is_ok() {
                    running = Some(instance);
                }
                Some(decision)
            });
            if let (true, Ok(policy), Some(judgement)) = (self.counted, loaded, &judgement) {
                policy.record().took(began.elapsed());
                self.ended.push((policy, judgement.as_ref().err().cloned()));
            }
            let judgement = match judgement {
                // The review's deadline ended this evaluation, not the policy's own limit.
                Some(Err(Malfunction::Deadline(deadline))) if deadline < limit => {
                    self.ended.pop();
                    None
                }
                other => other,
            };
            let budget = self.set.limits.review_deadline;
            self.exhausted |= judgement.is_none();
            let judgement = match (judgement, entry.mode) {
                (Some(judgement), _) => judgement,
                (None, Mode::Audit) => Err(Malfunction::Budget(budget)),
                (None, Mode::Enforce) => {
                    judged.exhausted = Some(budget);
                    continue;
                }
            };
            judged.said.push(said(entry, within(judgement, self.share), log));
        }
    }
}

/// Minimum share of one decision, in bytes, however many decisions there are.
const LEAST_SHARE: usize = 256;

/// Limits a result to `share` bytes: truncates its reason, and drops the audit annotations and warnings that
/// no longer fit.
fn within(mut judgement: Result<Decision, Malfunction>, share: usize) -> Result<Decision, Malfunction> {
    let cut = |text: &mut String| {
        if text.len() > share {
            *text = text::cut(text, share);
        }
    };
    match &mut judgement {
        Ok(decision) => {
            let Decision { code, reason, audit_annotations, warnings, .. } = decision;
            cut(reason);
            let mut left = share.checked_sub(code.len() + reason.len());
            let mut fits = |bytes: usize| {
                left = left.and_then(|left| left.checked_sub(bytes));
                left.is_some()
            };
            audit_annotations.retain(|(key, value)| fits(key.len() + value.len()));
            warnings.retain(|warning| fits(warning.len()));
        }
        Err(
            Malfunction::NotLoaded(why)
            | Malfunction::Trap(why)
            | Malfunction::Reported(why)
            | Malfunction::Contract(why),
        ) => cut(why),
        Err(_) => {}
    }
    judgement
}

fn leave_out(entry: &Entry, judged: &mut Judged) {
    if judged.image.as_ref().is_ok_and(|image| entry.scope.applies_to(image)) {
        judged.said.push(said(entry, Err(Malfunction::LeftOut), Vec::new()));
    }
}

fn said(entry: &Entry, judgement: Result<Decision, Malfunction>, log: Vec<LogLine>) -> Said {
    Said {
        policy: entry.name.to_string(),
        mode: entry.mode,
        failure_policy: entry.failure_policy,
        message: entry.message.clone(),
        judgement,
        log,
    }
}

/// Returns the message about a reference that does not parse. Its maximum length is a limit of this host.
fn refusal(error: &ImageError) -> String {
    match error {
        ImageError::TooLong(bytes) => limits::REFERENCE.says(bytes, limits::REFERENCE.default),
        error => error.to_string(),
    }
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
                .map_err(|error| refusal(&error)),
            said: Vec::new(),
            exhausted: None,
        })
        .collect()
}
