//! The reason of a verdict: the text of a denial. Pure.

use super::{DecidedBy, ImageVerdict, Judged, Outcome, Said};
use crate::config::Mode;
use crate::limits;
use crate::text;

/// Returns the reason of a verdict: the reasons of all denied images, in the order of the images.
pub(super) fn of_denied<'a>(denied: impl Iterator<Item = &'a ImageVerdict> + Clone) -> String {
    let count = denied.clone().map(ImageVerdict::count).sum();
    join(denied.flat_map(ImageVerdict::named), count, limits::REASON.size())
}

impl ImageVerdict {
    /// Returns the reasons of a denied image, an item for each denial (`reason (policy NAME)`), or one item
    /// with the reason why the image is allowed. An item is built when the iterator reaches it.
    pub fn because(&self) -> Box<dyn Iterator<Item = String> + '_> {
        let Judged { image, said, exhausted, .. } = &self.judged;
        let namespace = &self.namespace;
        let one = |text: String| -> Box<dyn Iterator<Item = String>> { Box::new(std::iter::once(text)) };
        match (self.decided_by, image, exhausted) {
            (DecidedBy::Exempt, ..) => one(format!("namespace {namespace} is exempt (exempt.namespaces)")),
            (_, Err(error), _) => one(format!("not an image reference: {error}")),
            (_, _, Some(budget)) => one(limits::REVIEW_DEADLINE.says_of(*budget)),
            (DecidedBy::AuditOnly, ..) => {
                let policies = said.iter().map(|said| said.policy.clone());
                let policies = join(policies, said.len(), limits::REASON_PART.size());
                one(format!(
                    "only policies in mode audit apply in namespace {namespace} ({policies}), and audit \
                        denies nothing"
                ))
            }
            _ if !self.allowed && self.decided_by != DecidedBy::Unjudged => {
                Box::new(in_force(said, Outcome::Deny).map(Said::line))
            }
            _ => match in_force(said, Outcome::Allow).next() {
                Some(allow) => one(allow.line()),
                None => one(self.unjudged()),
            },
        }
    }

    /// Returns the number of items of [`ImageVerdict::because`].
    fn count(&self) -> usize {
        match self.decided_by {
            DecidedBy::Policies | DecidedBy::FailurePolicy if !self.allowed => {
                in_force(&self.judged.said, Outcome::Deny).count()
            }
            _ => 1,
        }
    }

    /// Returns the reasons on one line, within the limit of a reason.
    pub fn reason(&self) -> String {
        join(self.because(), self.count(), limits::REASON.size())
    }

    /// Returns the reasons, each with the image.
    fn named(&self) -> impl Iterator<Item = String> + '_ {
        let name = text::image(&self.judged.original);
        self.because().map(move |because| format!("{name}: {because}"))
    }

    fn unjudged(&self) -> String {
        let namespace = &self.namespace;
        let failed =
            self.judged.said.iter().find(|said| said.mode == Mode::Enforce && said.judgement.is_err());
        let failed = failed.map_or(String::new(), |said| {
            format!(
                "; {} malfunctioned and its failurePolicy is Ignore: {}",
                said.policy,
                text::truncate(&said.reason(), limits::REASON_PART.size())
            )
        });
        let rule = match self.allowed {
            true => "unjudged: Allow",
            false => "in host.yaml, `unjudged` and `exempt.namespaces` decide what happens then",
        };
        format!("no policy judged it in namespace {namespace}{failed} ({rule})")
    }
}

fn in_force(said: &[Said], outcome: Outcome) -> impl Iterator<Item = &Said> {
    said.iter().filter(move |said| said.mode == Mode::Enforce && said.outcome() == outcome)
}

impl Said {
    /// Returns the reason with the policy's name and the message of its entry, for people. Only the reason is
    /// cut to fit.
    fn line(&self) -> String {
        let message = self.message_of_denial().map_or(String::new(), |message| format!(": {message}"));
        let room = limits::REASON_PART.size().saturating_sub(message.len());
        format!("{} (policy {}){message}", text::truncate(&self.reason(), room), self.policy)
    }
}

/// Returns `parts` joined by `; `, within `bytes`, with the number of parts that do not fit. `count` is the
/// number of all parts. Parts after the first that does not fit are not built.
pub(crate) fn join(parts: impl Iterator<Item = String>, count: usize, bytes: usize) -> String {
    let mut joined = String::new();
    for (index, part) in parts.enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let left = count.saturating_sub(index + 1);
        // Space for the number of the remaining parts, in case the next part does not fit.
        let reserve = if left == 0 { 0 } else { format!("; and {left} more").len() };
        if joined.len() + separator.len() + part.len() + reserve <= bytes {
            joined.push_str(separator);
            joined.push_str(&part);
            continue;
        }
        if index == 0 {
            joined.push_str(&text::truncate(&part, bytes.saturating_sub(reserve)));
            if left > 0 {
                joined.push_str(&format!("; and {left} more"));
            }
        } else {
            joined.push_str(&format!("; and {} more", left + 1));
        }
        break;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many parts as fit are whole, together with the number of the others.
    #[test]
    fn joined_parts_fit() {
        for (parts, bytes, expected) in [
            (&["a", "b", "c"][..], 16, "a; b; c"),
            (&["a", "b", "c"], 15, "a; and 2 more"),
            (&["a", "b", "cccccccccc"], 16, "a; b; cccccccccc"),
            (&["a", "b", "ccccccccccc"], 16, "a; b; and 1 more"),
            (&["aaaaaaaaaa", "bbbbbbbbbbb"], 22, "aaaaaaaaaa; and 1 more"),
            (&["aaaaaaaaaa", "bbbbbbbbbbb"], 21, "aaaaaa…; and 1 more"),
            (&["aaaaaaaaaa"], 9, "aaaaaa…"),
            (&["aaaaaaaaaa"], 10, "aaaaaaaaaa"),
            (&[], 0, ""),
        ] {
            let joined = join(parts.iter().map(|part| (*part).to_owned()), parts.len(), bytes);
            assert_eq!(joined, expected, "{parts:?} within {bytes}");
        }
    }
}
