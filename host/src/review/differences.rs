//! Differences between two results of the same reviews: of the set in force and of a candidate, or of the
//! decision log and of the policies at hand.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Review;
use super::verdict::{DecidedBy, Disposition, Malfunction, Verdict};
use crate::config::{Mode, Rules};
use crate::limits;
use crate::text;

/// The parts of a result that are compared with another result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The result, with its basis (`decided-by`).
    pub disposition: Disposition,
    /// The mode of the host. None: a line of the decision log that allows does not show the mode.
    pub mode: Option<Mode>,
    /// The reason of the verdict.
    pub reason: String,
    /// The audit annotations of policies, which are compared where both results have them. None: the decision
    /// log does not record them.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Whether a lack of time affected the result. The load of the machine may be the reason then.
    pub was_late: bool,
}

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
    /// candidate (`after`). If both are in mode audit, the denials that they would have given count. Keeps at
    /// most `examples` of each kind.
    pub fn add(&mut self, review: &Review, times: u64, before: &Compared, after: &Compared, examples: usize) {
        self.reviews += times;
        let audit = before.mode != Some(Mode::Enforce) && after.mode != Some(Mode::Enforce);
        let denies = |result: &Compared| {
            !result.disposition.allows() || audit && matches!(result.disposition, Disposition::WouldDeny(_))
        };
        let kind = match (denies(before), denies(after)) {
            (false, true) => Kind::Denied,
            (true, false) => Kind::Allowed,
            // Two results that both lacked time are equal whatever the policies decide.
            _ if before.agrees(after) && !(before.was_late && after.was_late) => return,
            _ => Kind::Reasons,
        };
        if before.was_late || after.was_late {
            self.undecided += times;
            return;
        }
        let found = match kind {
            Kind::Denied => &mut self.newly_denied,
            Kind::Allowed => &mut self.newly_allowed,
            Kind::Reasons => &mut self.changed_reasons,
        };
        found.add(Example::new(review, times, before, after), examples);
    }

    /// Returns the counts, in words.
    pub fn counts(&self) -> String {
        let Differences { reviews, left_out, undecided, newly_denied, newly_allowed, changed_reasons } = self;
        let mut counts = format!(
            "of {reviews} reviews {} newly denied, {} newly allowed, {} with another reason",
            newly_denied.reviews, newly_allowed.reviews, changed_reasons.reviews
        );
        for (count, what) in [(undecided, "undecided for lack of time"), (left_out, "more were left out")] {
            if *count > 0 {
                counts.push_str(&format!(", {count} {what}"));
            }
        }
        counts
    }

    /// Returns the differences by kind, with the name of each kind.
    pub fn kinds(&self) -> [(&'static str, &Found); 3] {
        [
            ("newly denied", &self.newly_denied),
            ("newly allowed", &self.newly_allowed),
            ("with another reason", &self.changed_reasons),
        ]
    }
}

impl Found {
    /// Counts an example, and keeps it while there are less than `most`. Reviews that look the same are one
    /// example.
    fn add(&mut self, example: Example, most: usize) {
        self.reviews += example.reviews;
        if let Some(kept) = self.examples.iter_mut().find(|kept| kept.is_like(&example)) {
            kept.reviews += example.reviews;
        } else if self.examples.len() < most {
            self.examples.push(example);
        }
    }
}

impl Example {
    fn new(review: &Review, times: u64, before: &Compared, after: &Compared) -> Example {
        Example {
            namespace: text::escape_and_truncate(&review.namespace, 63),
            images: review.images.iter().take(IMAGES).map(|image| text::image(image)).collect(),
            reviews: times,
            before: before.summary(after),
            after: after.summary(before),
        }
    }

    fn is_like(&self, other: &Example) -> bool {
        let Example { namespace, images, reviews: _, before, after } = self;
        (namespace, images, before, after) == (&other.namespace, &other.images, &other.before, &other.after)
    }
}

enum Kind {
    Denied,
    Allowed,
    Reasons,
}

/// Number of images that an example shows.
const IMAGES: usize = 3;

impl Compared {
    /// Returns the compared parts of a verdict under `rules`.
    pub fn of(rules: &Rules, verdict: &Verdict) -> Compared {
        Compared {
            disposition: verdict.disposition,
            mode: Some(rules.mode),
            reason: verdict.reason.clone(),
            annotations: Some(verdict.policy_annotations()),
            was_late: was_late(verdict),
        }
    }

    /// Returns whether two results are the same.
    pub fn agrees(&self, other: &Compared) -> bool {
        let annotations = |result: &Compared| -> Option<Vec<(String, String)>> {
            let annotations = result.annotations.as_ref()?.iter();
            Some(annotations.map(|(key, value)| (key.clone(), without_addresses(value))).collect())
        };
        self.disposition == other.disposition
            && without_addresses(&self.reason) == without_addresses(&other.reason)
            && annotations(self).zip(annotations(other)).is_none_or(|(one, other)| one == other)
    }

    /// Returns the text of a result, with those audit annotations that differ from the other result's. An
    /// allowing result also has its basis if the other's basis differs.
    fn summary(&self, other: &Compared) -> String {
        let reason = &self.reason;
        let mut summary = match self.disposition {
            Disposition::Allowed(_) => "allowed".to_owned(),
            Disposition::WouldDeny(_) => format!("allowed in mode audit, would deny: {reason}"),
            Disposition::Denied(_) | Disposition::Refused => format!("denied: {reason}"),
        };
        // The reason of a denial already states its basis.
        if let Disposition::Allowed(by) = self.disposition
            && by != DecidedBy::Policies
            && by != other.disposition.decided_by()
        {
            summary.push_str(&format!(" [decided-by: {by}]"));
        }
        if let (Some(annotations), Some(others)) = (&self.annotations, &other.annotations) {
            for (key, value) in annotations.iter().filter(|(key, value)| others.get(*key) != Some(value)) {
                summary.push_str(&format!(" [{key}: {value}]"));
            }
        }
        text::truncate(&summary, limits::REASON.size())
    }
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

fn was_late(verdict: &Verdict) -> bool {
    verdict.images.iter().any(|image| {
        let late = |malfunction: &Malfunction| malfunction.kind().is_lack_of_time();
        image.judged.exhausted.is_some()
            || image.judged.said.iter().any(|said| said.judgement.as_ref().is_err_and(late))
    })
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reviews + self.left_out == 0 {
            return f.write_str("not known, since there were no reviews to try it on");
        }
        f.write_str(&self.counts())?;
        if let Some(example) = self.kinds().iter().find_map(|(_, found)| found.examples.first()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_known_where_there_was_a_review() {
        let shown =
            |reviews, left_out| Differences { reviews, left_out, ..Differences::default() }.to_string();
        assert_eq!(shown(0, 0), "not known, since there were no reviews to try it on");
        let none = "0 newly denied, 0 newly allowed, 0 with another reason";
        assert_eq!(shown(3, 0), format!("of 3 reviews {none}"));
        assert_eq!(shown(0, 2), format!("of 0 reviews {none}, 2 more were left out"));
    }

    #[test]
    fn differences_tell_nothing_where_no_review_was_compared_in_time() {
        for (reviews, undecided, left_out, nothing) in
            [(0, 0, 0, false), (2, 2, 0, true), (2, 1, 0, false), (0, 0, 1, true), (3, 3, 1, true)]
        {
            let differences = Differences { reviews, undecided, left_out, ..Differences::default() };
            assert_eq!(differences.tell_nothing(), nothing, "{differences:?}");
        }
    }
}
