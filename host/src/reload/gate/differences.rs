//! Differences between the decisions of a candidate and those of the set in force. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Mode, Rules};
use crate::limits;
use crate::review::Review;
use crate::review::verdict::{DecidedBy, Disposition, Malfunction, Verdict};
use crate::text;

/// The reviews that the candidate would have decided differently from the set in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Differences {
    /// Reviews that both sets have judged.
    pub reviews: u64,
    /// Reviews that were skipped because the time budget was used up.
    pub left_out: u64,
    /// Judged reviews that prove nothing: their verdicts differ and a lack of time affected one of them, or
    /// they agree and it affected both.
    pub undecided: u64,
    /// Reviews that the candidate denies and the set in force allows.
    pub newly_denied: Found,
    /// Reviews that the candidate allows and the set in force denies.
    pub newly_allowed: Found,
    /// Reviews that both allow or both deny, with another reason or other audit annotations.
    pub changed_reasons: Found,
}

/// Differences of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Found {
    /// Number of reviews.
    pub reviews: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

/// A review with a different result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// The pod's namespace, escaped.
    pub namespace: String,
    /// The first images, escaped.
    pub images: Vec<String>,
    /// How often the review occurred.
    pub reviews: u64,
    /// The verdict of the set in force.
    pub before: String,
    /// The verdict of the candidate.
    pub after: String,
}

impl Differences {
    /// Returns whether the candidate decides every review as the set in force does.
    pub fn is_empty(&self) -> bool {
        [&self.newly_denied, &self.newly_allowed, &self.changed_reasons]
            .iter()
            .all(|found| found.reviews == 0)
    }

    /// Returns whether there were reviews and none of them could be compared in time.
    pub fn tell_nothing(&self) -> bool {
        self.reviews == self.undecided && self.undecided + self.left_out > 0
    }

    /// Adds a review that occurred `times` times, as judged by the set in force (`before`) and by the
    /// candidate (`after`). If both sets are in mode audit, the denials that they would have given count.
    pub fn add(
        &mut self,
        review: &Review,
        times: u64,
        before: (&Rules, &Verdict),
        after: (&Rules, &Verdict),
    ) {
        self.reviews += times;
        let audit = before.0.mode == Mode::Audit && after.0.mode == Mode::Audit;
        let denies = |verdict: &Verdict| !verdict.allowed() || audit && verdict.would_deny().is_some();
        let (before, after) = (before.1, after.1);
        let kind = match (denies(before), denies(after)) {
            (false, true) => Kind::Denied,
            (true, false) => Kind::Allowed,
            // Two verdicts that both lacked time are equal whatever the policies decide.
            _ if says(before) == says(after) && !(was_late(before) && was_late(after)) => return,
            _ => Kind::Reasons,
        };
        if was_late(before) || was_late(after) {
            self.undecided += times;
            return;
        }
        let found = match kind {
            Kind::Denied => &mut self.newly_denied,
            Kind::Allowed => &mut self.newly_allowed,
            Kind::Reasons => &mut self.changed_reasons,
        };
        found.reviews += times;
        if found.examples.len() < limits::EXAMPLES.size() {
            found.examples.push(Example {
                namespace: text::escape_and_truncate(&review.namespace, 63),
                images: review.images.iter().take(IMAGES).map(|image| text::image(image)).collect(),
                reviews: times,
                before: summary(before, after),
                after: summary(after, before),
            });
        }
    }
}

enum Kind {
    Denied,
    Allowed,
    Reasons,
}

/// Number of images that an example shows.
const IMAGES: usize = 3;

/// Returns all parts of a verdict that are compared, which leaves out its generation.
fn says(verdict: &Verdict) -> (Disposition, String, Vec<(String, String)>) {
    let annotations = verdict.policy_annotations().into_iter();
    let annotations = annotations.map(|(key, value)| (key, without_addresses(&value)));
    (verdict.disposition, without_addresses(&verdict.reason), annotations.collect())
}

/// Removes hexadecimal addresses from `text`. Messages of malfunctions may hold addresses, which differ
/// between instances.
fn without_addresses(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut without = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        without.push_str("0x");
        without.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_hexdigit()));
    }
    without
}

/// Returns whether a lack of time affected a verdict. The load of the machine may be the reason then.
fn was_late(verdict: &Verdict) -> bool {
    verdict.images.iter().any(|image| {
        let late = |malfunction: &Malfunction| {
            matches!(malfunction, Malfunction::Deadline(_) | Malfunction::Budget(_) | Malfunction::LeftOut)
        };
        image.judged.exhausted.is_some()
            || image.judged.said.iter().any(|said| said.judgement.as_ref().is_err_and(late))
    })
}

/// Returns the text of a verdict, with those audit annotations that differ from the other verdict's. An
/// allowing verdict also has its basis if the other's basis differs.
fn summary(verdict: &Verdict, other: &Verdict) -> String {
    let reason = &verdict.reason;
    let mut summary = match verdict.disposition {
        Disposition::Allowed(_) => "allowed".to_owned(),
        Disposition::WouldDeny(_) => format!("allowed in mode audit, would deny: {reason}"),
        Disposition::Denied(_) | Disposition::Refused => format!("denied: {reason}"),
    };
    // The reason of a denial already states its basis.
    if let Disposition::Allowed(by) = verdict.disposition
        && by != DecidedBy::Policies
        && by != other.disposition.decided_by()
    {
        summary.push_str(&format!(" [decided-by: {by}]"));
    }
    let others = other.policy_annotations();
    for (key, value) in verdict.policy_annotations() {
        if others.get(&key) != Some(&value) {
            summary.push_str(&format!(" [{key}: {value}]"));
        }
    }
    text::truncate(&summary, limits::REASON.size())
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Differences { reviews, left_out, undecided, newly_denied, newly_allowed, changed_reasons } = self;
        if *reviews + *left_out == 0 {
            return f.write_str("not known, since there were no reviews to try it on");
        }
        write!(f, "of {reviews} reviews {} newly denied, ", newly_denied.reviews)?;
        write!(
            f,
            "{} newly allowed, {} with another reason",
            newly_allowed.reviews, changed_reasons.reviews
        )?;
        for (count, what) in [(undecided, "undecided for lack of time"), (left_out, "more were left out")] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        let examples = [newly_denied, newly_allowed, changed_reasons];
        if let Some(example) = examples.iter().find_map(|found| found.examples.first()) {
            let Example { namespace, images, before, after, .. } = example;
            write!(
                f,
                "; such as {} in namespace {namespace}: before {before}, now {after}",
                images.join(", ")
            )?;
        }
        Ok(())
    }
}
