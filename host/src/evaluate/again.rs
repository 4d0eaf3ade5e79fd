//! Another evaluation of a review that was kept without its body.

use super::{Facts, Options, evaluate};
use crate::config::HostLimits;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::verdict::Verdict;
use crate::review::{Refusal, Review, image_review};

/// Evaluates a review that was answered before. As the server does, denies a review over a limit before any
/// policy runs.
pub fn evaluate_again(set: &PolicySet, review: &Review, options: &Options) -> Verdict {
    match review.within(&set.limits).and_then(|()| fits(review, &set.limits)) {
        Ok(()) => evaluate(set, review, &Facts::default(), options).verdict,
        Err(refusal) => Verdict::refuse(&set.rules, &set.generation(), &refusal.to_string()),
    }
}

/// Checks the size of a review's body against its limit. The original body is not kept, so its size is
/// computed from the review.
fn fits(review: &Review, limits: &HostLimits) -> Result<(), Refusal> {
    match image_review::body_bytes(review) > limits.body {
        true => Err(Refusal::Body(limits::BODY.says("", limits.body))),
        false => Ok(()),
    }
}
