//! The steps after a verdict: metrics, log, recent reviews and decision log.

use tracing::Level as Weight;

use super::Host;
use crate::config::Mode;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::verdict::{Disposition, ImageVerdict, Level, Outcome, Said};
use crate::telemetry::answered::AnsweredReview;
use crate::telemetry::log_throttle::Kind;
use crate::text;

impl Host {
    /// Records a review with its verdict, in every place that records reviews. Only the review's own request
    /// waits for this function.
    pub(super) fn observe(&self, set: &PolicySet, reviewed: AnsweredReview) {
        self.metrics.reviewed(set, reviewed.took, &reviewed.verdict);
        self.log(&reviewed);
        self.recent.push(reviewed.id, &reviewed.review);
        if self.sources.decision_log.wants(&reviewed) {
            self.sources.decision_log.log(&reviewed);
        }
    }

    /// Logs a line for each denied image, each malfunction and each denial in mode audit, and the policies'
    /// own lines; an allowed review at level debug only. Text from the request is escaped. Nothing is
    /// formatted for a line that is not written.
    fn log(&self, reviewed: &AnsweredReview) {
        for image in &reviewed.verdict.images {
            let told =
                image.judged.said.iter().filter(|said| {
                    said.mode == Mode::Audit || said.judgement.is_err() || !said.log.is_empty()
                });
            for said in told {
                self.log_said(reviewed, image, said);
            }
        }
        match reviewed.disposition() {
            Disposition::Allowed(by) => tracing::debug!(
                namespace = text::escape_and_truncate(&reviewed.review.namespace, limits::NAMESPACE.size()),
                generation = reviewed.generation(),
                review = %reviewed.id,
                images = reviewed.verdict.images.len(),
                decided_by = %by,
                "allowed"
            ),
            Disposition::Denied(_) => self.log_denial(reviewed, "denied"),
            Disposition::Refused => self.log_denial(reviewed, "denied as a whole"),
            Disposition::WouldDeny(_) => {
                self.log_denial(reviewed, "would deny, but for mode audit of the host")
            }
        }
    }

    fn log_denial(&self, reviewed: &AnsweredReview, what: &str) {
        let line = |image: Option<&ImageVerdict>, policy: Option<String>, reason: &str| {
            tracing::info!(
                image = image.map(|image| text::image(&image.judged.original)),
                policy,
                reason = text::escape_and_truncate(reason, limits::REASON.size()),
                namespace = text::escape_and_truncate(&reviewed.review.namespace, limits::NAMESPACE.size()),
                generation = reviewed.generation(),
                review = %reviewed.id,
                decided_by = %image.map_or(reviewed.disposition().decided_by(), |image| image.decided_by),
                "{what}"
            );
        };
        let denied = reviewed.verdict.images.iter().filter(|image| !image.allowed);
        let mut as_a_whole = true;
        for image in denied {
            as_a_whole = false;
            if self.writes(Weight::INFO, Kind::Denial) {
                line(Some(image), policies(image), &image.reason());
            }
        }
        if as_a_whole && self.writes(Weight::INFO, Kind::Denial) {
            line(None, None, &reviewed.verdict.reason);
        }
    }

    fn log_said(&self, reviewed: &AnsweredReview, image: &ImageVerdict, said: &Said) {
        let policy = &said.policy;
        let shown = || text::image(&image.judged.original);
        for line in &said.log {
            let message = &line.message;
            macro_rules! write {
                ($weight:ident, $write:ident) => {
                    if self.writes(Weight::$weight, Kind::Policy) {
                        tracing::$write!(target: "policy", policy, image = shown(), review = %reviewed.id,
                            "{message}");
                    }
                };
            }
            match line.level {
                Level::Debug => write!(DEBUG, debug),
                Level::Info => write!(INFO, info),
                Level::Warn => write!(WARN, warn),
                Level::Error => write!(ERROR, error),
            }
        }
        match &said.judgement {
            Err(malfunction) => {
                if self.writes(Weight::WARN, Kind::Malfunction) {
                    tracing::warn!(
                        policy,
                        image = shown(),
                        counts_as = %said.outcome(),
                        review = %reviewed.id,
                        "malfunction: {}",
                        text::escape(&malfunction.to_string())
                    );
                }
            }
            Ok(decision) if said.mode == Mode::Audit && decision.outcome == Outcome::Deny => {
                if self.writes(Weight::INFO, Kind::Denial) {
                    tracing::info!(
                        image = shown(),
                        policy,
                        reason = said.reason(),
                        namespace = text::escape_and_truncate(&reviewed.review.namespace,
                            limits::NAMESPACE.size()),
                        generation = reviewed.generation(),
                        review = %reviewed.id,
                        "would deny, but for mode audit of the policy"
                    );
                }
            }
            Ok(_) => {}
        }
    }

    /// Returns whether a line of this weight is enabled and within the rate limit of its kind.
    fn writes(&self, weight: Weight, kind: Kind) -> bool {
        weight <= tracing::level_filters::LevelFilter::current() && self.log_throttle.allows(kind)
    }
}

/// Returns the names of the enforced policies that deny an image. Returns None if no such policy does.
fn policies(image: &ImageVerdict) -> Option<String> {
    let deny = |said: &&Said| said.mode == Mode::Enforce && said.outcome() == Outcome::Deny;
    let names: Vec<_> = image.judged.said.iter().filter(deny).map(|said| said.policy.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
