//! Evaluation of every policy on every image of a review. Synchronous and total: whatever a policy does,
//! there is a verdict.

mod again;
mod facts;
pub mod dispatch;
pub mod attempts;
pub mod lanes;
pub mod turns;

use std::collections::HashSet;
use std::time::{Duration, Instant};

pub use self::again::evaluate_again;
pub use self::facts::{FactKey, Facts, FactsError};
use crate::config::Mode;
use crate::image::{self, Image};
use crate::limits;
use crate::policy::{Context, Entry, Instance, Policy, PolicySet};
use crate::review::Review;
use crate::review::verdict::{Decision, Judged, LogLine, Malfunction, ReferenceError, Said, Verdict};
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

/// The time of audit-mode policies, which run after all others. A policy that is skipped still counts as one
/// that applies, so the verdict is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Audit-mode policies have the time of all others.
    Full,
    /// Audit-mode policies that do not end by this time are skipped; their results say so.
    Until(Instant),
    /// Audit-mode policies are skipped.
    Skipped,
}

/// The conditions of an evaluation, apart from its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time by which the evaluation ends.
    pub until: Instant,
    /// Sharing of instances.
    pub instances: Instances,
    /// The time of audit-mode policies.
    pub audit: Audit,
}

impl Options {
    /// Returns the options of an evaluation that begins now and has the whole budget of a review.
    pub fn of(set: &PolicySet) -> Options {
        Options {
            until: Instant::now() + set.limits.review_deadline,
            instances: Instances::Shared,
            audit: Audit::Full,
        }
    }

    /// Returns the options of an evaluation that ends by `until`, even if the budget ends later.
    #[must_use]
    pub fn at_latest(self, until: Instant) -> Options {
        Options { until: self.until.min(until), ..self }
    }
}

/// The end of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each policy in mode `enforce` ended on each image.
    Complete,
    /// The time ended before. The verdict denies the images without all decisions.
    OutOfTime,
    /// These facts are missing, at least one. The verdict denies; an evaluation with the facts follows.
    Needs(FactKey, Vec<FactKey>),
}

/// An evaluation that has ended.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// The end.
    pub ended: Ended,
    samples: Vec<Sample<'a>>,
}

/// The run of a policy on an image, for the policy's statistics.
#[derive(Debug)]
struct Sample<'a> {
    policy: &'a Policy,
    took: Duration,
    /// The result of the run, or None if the end of the evaluation's time ended it.
    result: Option<Result<(), Malfunction>>,
}

impl Evaluation<'_> {
    /// Records durations and results in the policies' statistics, and returns the verdict.
    pub fn recorded(self) -> Verdict {
        self.record_durations();
        for sample in &self.samples {
            if let Some(result) = &sample.result {
                sample.policy.stats().record_result(result.as_ref().err());
            }
        }
        self.verdict
    }

    /// Records only durations, for an evaluation that is repeated.
    pub fn record_durations(&self) {
        self.samples.iter().for_each(|sample| sample.policy.stats().record_duration(sample.took));
    }
}

/// Returns the policies that apply in the review's namespace.
fn applying<'a>(set: &'a PolicySet, review: &Review) -> impl Iterator<Item = &'a Entry> + Clone {
    let exempt = set.rules.exempt_namespaces.matches(&review.namespace);
    set.policies.iter().filter(move |entry| !exempt && entry.placement.scope.applies(&review.namespace))
}

/// Evaluates a review. No policy uses facts yet.
pub fn evaluate<'a>(
    set: &'a PolicySet,
    review: &Review,
    _facts: &Facts,
    options: &Options,
) -> Evaluation<'a> {
    let mut images = distinct_images(review);
    let applying = applying(set, review);
    let decisions = applying.clone().count() * images.len();
    let mut run = Run {
        budget: set.limits.review_deadline,
        options,
        // Every decision gets the same share, so that the texts do not depend on the order of images.
        share: (limits::SAID.size() / decisions.max(1)).max(LEAST_SHARE),
        context: Context::new(&review.namespace, &review.annotations),
        is_out_of_time: false,
        samples: Vec::with_capacity(decisions),
    };
    // Audit-mode policies come last: they must not cost the others time.
    for mode in [Mode::Enforce, Mode::Audit] {
        for entry in applying.clone().filter(|entry| entry.placement.mode == mode) {
            match options.instances {
                Instances::Reversed => run.ask(entry, images.iter_mut().rev()),
                Instances::Shared | Instances::Isolated => run.ask(entry, images.iter_mut()),
            }
        }
    }
    let Run { is_out_of_time, samples, .. } = run;
    Evaluation {
        verdict: Verdict::combine(&set.rules, &review.namespace, &set.generation(), images),
        ended: if is_out_of_time { Ended::OutOfTime } else { Ended::Complete },
        samples,
    }
}

/// A running evaluation.
struct Run<'a, 'r> {
    budget: Duration,
    options: &'r Options,
    /// Limit of the texts of one decision, in bytes.
    share: usize,
    context: Context<'r>,
    /// Whether a policy in mode `enforce` did not end on an image.
    is_out_of_time: bool,
    samples: Vec<Sample<'a>>,
}

impl<'a> Run<'a, '_> {
    /// Evaluates one policy on every image.
    fn ask<'b>(&mut self, entry: &'a Entry, images: impl Iterator<Item = &'b mut Judged>) {
        let until = match (entry.placement.mode, self.options.audit) {
            (Mode::Enforce, _) | (Mode::Audit, Audit::Full) => Some(self.options.until),
            (Mode::Audit, Audit::Until(until)) => Some(until.min(self.options.until)),
            (Mode::Audit, Audit::Skipped) => None,
        };
        let mut asked = Asked::new(entry, until, self.options.instances);
        for judged in images {
            let Ok(image) = &judged.image else { continue };
            if !entry.placement.scope.applies_to(image) {
                continue;
            }
            let began = Instant::now();
            let (end, log) = asked.evaluate(image, &self.context);
            if let (Ok(policy), false) = (&entry.loaded, matches!(end, End::NotRun)) {
                self.samples.push(Sample { policy, took: began.elapsed(), result: end.result() });
            }
            let judgement = match (end, entry.placement.mode, self.options.audit) {
                (End::Of(judgement), ..) => judgement,
                (_, Mode::Enforce, _) => {
                    self.is_out_of_time = true;
                    judged.exhausted = Some(self.budget);
                    continue;
                }
                (_, Mode::Audit, Audit::Full) => Err(Malfunction::Budget(self.budget)),
                (_, Mode::Audit, Audit::Until(_) | Audit::Skipped) => Err(Malfunction::LeftOut),
            };
            judged.said.push(Said {
                policy: entry.name.to_string(),
                mode: entry.placement.mode,
                failure_policy: entry.placement.failure_policy,
                message: entry.message.clone(),
                judgement: within(judgement, self.share),
                log,
            });
        }
    }
}

/// The end of a policy's run on an image.
enum End {
    /// The policy decided, or malfunctioned.
    Of(Result<Decision, Malfunction>),
    /// The time of the evaluation ended the run, not the policy's own limit.
    Cut,
    /// No time was left for a run.
    NotRun,
}

impl End {
    /// Returns the result for the policy's statistics, or None if the policy gave none.
    fn result(&self) -> Option<Result<(), Malfunction>> {
        match self {
            End::Of(Ok(_)) => Some(Ok(())),
            End::Of(Err(malfunction)) => Some(Err(malfunction.clone())),
            End::Cut | End::NotRun => None,
        }
    }
}

/// A policy that judges the images of a review.
struct Asked<'a> {
    entry: &'a Entry,
    /// Time by which its runs end, or None if it has no time.
    until: Option<Instant>,
    instances: Instances,
    /// Time limit of a call.
    limit: Duration,
    /// The number of lines that it may still log.
    room: u32,
    running: Option<Instance>,
}

impl<'a> Asked<'a> {
    fn new(entry: &'a Entry, until: Option<Instant>, instances: Instances) -> Asked<'a> {
        let limits = entry.loaded.as_ref().map(|policy| policy.limits());
        Asked {
            entry,
            until,
            instances,
            limit: limits.map_or(Duration::MAX, |limits| limits.deadline),
            room: limits.map_or(0, |limits| limits.log_lines),
            running: None,
        }
    }

    /// Evaluates the policy on one image, and returns the lines that it logged. After a malfunction the next
    /// image gets a fresh instance.
    fn evaluate(&mut self, image: &Image, context: &Context<'_>) -> (End, Vec<LogLine>) {
        let Some(left) = self.left() else { return (End::NotRun, Vec::new()) };
        let running = self.running.take().filter(|_| self.instances != Instances::Isolated);
        let mut instance = match running.map_or_else(|| self.entry.start(left), Ok) {
            Ok(instance) => instance,
            Err(malfunction) => return (self.end(Err(malfunction)), Vec::new()),
        };
        let Some(left) = self.left() else { return (End::NotRun, Vec::new()) };
        instance.begin_log(self.room);
        let decision = instance.evaluate(image, context, left);
        let log = instance.take_log();
        self.room = instance.log_room();
        if decision.is_ok() {
            self.running = Some(instance);
        }
        match self.end(decision) {
            end @ End::Of(_) => (end, log),
            end => (end, Vec::new()),
        }
    }

    /// Returns the time that a call may take, or None if no time is left.
    fn left(&self) -> Option<Duration> {
        let left = self.until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then(|| left.min(self.limit))
    }

    fn end(&self, judgement: Result<Decision, Malfunction>) -> End {
        match judgement {
            Err(Malfunction::Deadline(deadline)) if deadline < self.limit => End::Cut,
            judgement => End::Of(judgement),
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
            *text = text::truncate(text, share);
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
                .map_err(ReferenceError::from),
            said: Vec::new(),
            exhausted: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::verdict::Outcome;

    /// The reason comes first, then annotations, then warnings, as long as they fit.
    #[test]
    fn a_decision_is_cut_to_its_share() {
        let decision = |reason: &str, values: &[&str], warnings: &[&str]| Decision {
            outcome: Outcome::Allow,
            code: "code".to_owned(),
            reason: reason.to_owned(),
            audit_annotations: values.iter().map(|value| ("key".to_owned(), (*value).to_owned())).collect(),
            warnings: warnings.iter().map(|warning| (*warning).to_owned()).collect(),
        };
        let whole = decision("reason", &["v", "value"], &["1234", "5"]);
        let bytes = 4 + 6 + (3 + 1) + (3 + 5) + 4 + 1;
        assert_eq!(within(Ok(whole.clone()), bytes), Ok(whole.clone()));
        assert_eq!(within(Ok(whole.clone()), bytes - 1), Ok(decision("reason", &["v", "value"], &["1234"])));
        assert_eq!(within(Ok(whole.clone()), 14), Ok(decision("reason", &["v"], &[])));
        assert_eq!(within(Ok(whole.clone()), 13), Ok(decision("reason", &[], &[])));
        assert_eq!(within(Ok(whole), 5), Ok(decision("re…", &[], &[])));
        let trap = |why: &str| Err(Malfunction::Trap(why.to_owned()));
        assert_eq!(within(trap("unreachable"), 11), trap("unreachable"));
        assert_eq!(within(trap("unreachable"), 10), trap("unreach…"));
    }

    #[test]
    fn an_evaluation_ends_by_the_earlier_time() {
        let set = PolicySet::new(Default::default(), Default::default(), Vec::new());
        let options = Options::of(&set);
        let earlier = options.until.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(options.at_latest(earlier).until, earlier);
        assert_eq!(options.at_latest(options.until + Duration::from_secs(1)).until, options.until);
        let whole = options.until.saturating_duration_since(Instant::now());
        assert!(whole <= set.limits.review_deadline && whole > set.limits.review_deadline / 2, "{whole:?}");
    }
}
