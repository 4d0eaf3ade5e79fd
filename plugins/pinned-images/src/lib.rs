//! An image is named by its digest, so the image that was checked is the image that runs.
//!
//! ```json
//! { "requireDigest": true, "forbiddenTags": ["latest"], "except": ["registry.k8s.io/**"] }
//! ```
//!
//! | the image | outcome | code |
//! |---|---|---|
//! | matches an `except` pattern | abstain | `exempt` |
//! | has a digest, and beside it a tag that matches one of `forbiddenTags`, with `forbiddenTagsBesideDigest` | deny | `forbidden-tag` |
//! | has a digest | allow | `pinned` |
//! | has none, and `requireDigest` is true | deny | `not-pinned` |
//! | has none, and its tag matches one of `forbiddenTags` | deny | `forbidden-tag` |
//! | has none, and its tag is another | allow | `tag-allowed` |
//!
//! The first row that fits decides. So `forbiddenTags` counts only where `requireDigest` is false: otherwise
//! a user would first hear of the tag and only then of the digest. Beside a digest it counts only with
//! `forbiddenTagsBesideDigest: true`: the runtime ignores such a tag, so the option concerns readers of the
//! manifest.
//!
//! An exempt image is not allowed: the policy abstains, and the other policies decide. The pattern that
//! exempts is the audit annotation `pattern`. Patterns are those of [`image_policy::pattern`].

use image_policy::{Context, Decision, Image, Malfunction, Mistakes, Policy, abstain, allow, deny};
use image_policy::{Patterns, Reference, TagPattern, log, policy, shorten};
use serde::Deserialize;

/// In characters: one name inside a reason.
const MAX_NAME: usize = 120;

/// The settings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    /// An image without a digest is denied.
    #[serde(default = "yes")]
    require_digest: bool,
    /// Tags that are denied where there is no digest.
    #[serde(default = "latest")]
    forbidden_tags: Vec<TagPattern>,
    /// A forbidden tag is denied beside a digest too.
    #[serde(default)]
    forbidden_tags_beside_digest: bool,
    /// Images that this policy has nothing to say of.
    #[serde(default)]
    except: Patterns,
}

fn yes() -> bool {
    true
}

fn latest() -> Vec<TagPattern> {
    TagPattern::parse("latest").into_iter().collect()
}

policy!(Rules);

impl Policy for Rules {
    fn evaluate(&self, image: &Image, _: &Context) -> Result<Decision, Malfunction> {
        Ok(self.judge(image))
    }

    fn check(&self, mistakes: &mut Mistakes) {
        let no_tag = self.forbidden_tags.is_empty();
        if no_tag && !self.require_digest {
            mistakes.add("", "nothing is required: leave requireDigest out, or list forbiddenTags");
        }
        if no_tag && self.forbidden_tags_beside_digest {
            let message = "no tag is forbidden: list some in forbiddenTags";
            mistakes.add("/forbiddenTagsBesideDigest", message);
        }
    }

    fn loaded(&self) {
        let exempt = self.except.all().len();
        match self.require_digest {
            true => log::info!("a digest is required, {exempt} patterns are exempt"),
            false => log::info!(
                "{} tag patterns are forbidden, {exempt} patterns are exempt",
                self.forbidden_tags.len()
            ),
        }
    }
}

impl Rules {
    fn judge(&self, image: &Image) -> Decision {
        let mut exempt = self.except.first_match(&image.reference());
        if exempt.is_none() && self.forbidden_tags_beside_digest {
            // Where a tag beside a digest counts, it also counts for an exemption.
            exempt = self.except.first_match(&Reference { digest: None, ..image.reference() });
        }
        if let Some(pattern) = exempt {
            let reason = format!("pattern {} is exempt", shorten(pattern.as_str(), MAX_NAME));
            return abstain("exempt", reason).annotate("pattern", pattern.as_str());
        }
        // The host gives an image without a digest its tag; should it ever not, the runtime pulls `latest`.
        let tag = image.tag.as_deref().or(if image.digest.is_none() { Some("latest") } else { None });
        let forbidden = tag.filter(|tag| self.forbidden_tags.iter().any(|forbidden| forbidden.matches(tag)));
        match forbidden {
            Some(tag) if image.digest.is_some() && self.forbidden_tags_beside_digest => {
                let tag = shorten(tag, MAX_NAME);
                let reason =
                    format!("tag {tag} is forbidden, beside a digest too: write a version, or leave it out");
                deny("forbidden-tag", reason)
            }
            _ if image.digest.is_some() => allow("pinned", "it is named by a digest"),
            _ if self.require_digest => {
                deny("not-pinned", format!("it has no digest: {}", how_to_pin(image)))
            }
            Some(tag) => {
                let tag = shorten(tag, MAX_NAME);
                let reason = format!("tag {tag} is forbidden: write a version, or a digest");
                deny("forbidden-tag", reason)
            }
            None => {
                let tag = shorten(tag.unwrap_or_default(), MAX_NAME);
                allow("tag-allowed", format!("tag {tag} is not forbidden"))
            }
        }
    }
}

/// Returns the text to write instead, spelled as in the pod: a digest goes after the tag. A name that is too
/// long to be repeated in full is left out, since half a command helps nobody.
fn how_to_pin(image: &Image) -> String {
    let name = image.original.as_str();
    let fits = !name.is_empty() && shorten(name, MAX_NAME) == name;
    let name = if fits { name } else { "IMAGE" };
    format!("write {name}@sha256:…, which `crane digest {name}` prints")
}
