//! Evaluations as a server makes them, with the whole budget of a review and with statistics.

use host::evaluate::{self, Facts, Instances, Options};
use host::policy::PolicySet;
use host::review::Review;
use host::review::verdict::Verdict;

/// Evaluates a review.
pub(crate) fn evaluate(set: &PolicySet, review: &Review) -> Verdict {
    evaluate_with(set, review, Instances::Shared)
}

/// Evaluates a review with this sharing of instances.
pub(crate) fn evaluate_with(set: &PolicySet, review: &Review, instances: Instances) -> Verdict {
    let options = Options { instances, ..Options::of(set) };
    evaluate::evaluate(set, review, &Facts::default(), &options).recorded()
}
