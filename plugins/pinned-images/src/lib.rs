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
//! An exempt image is not allowed: the policy abstains, and the other policies decide.
//! The pattern that exempts is the audit annotation `pattern`. Patterns are those of [`policy_kit::pattern`].

use std::fmt;

use policy_kit::settings::Settings;
use policy_kit::{Pattern, Patterns, Reference, TagPattern, shorten};

pub use policy_kit::contract::{Context, Decision, Image, Outcome, Policy, SettingsError};

/// In characters: one name inside a reason.
const MAX_NAME: usize = 120;

/// The settings, read.
#[derive(Debug)]
pub struct Rules {
    require_digest: bool,
    forbidden_tags: Vec<TagPattern>,
    /// A forbidden tag is one beside a digest too.
    beside_digest: bool,
    except: Patterns,
}

policy_kit::export_policy!(crate::Rules);

impl Policy for Rules {
    fn parse(json: &str) -> Result<Self, Vec<SettingsError>> {
        let mut settings = Settings::read(json)?;
        let require_digest = settings.flag("requireDigest").unwrap_or(true);
        let forbidden_tags = settings.list("forbiddenTags", TagPattern::parse);
        let beside_digest = settings.flag("forbiddenTagsBesideDigest").unwrap_or(false);
        let except = Patterns::new(settings.list("except", Pattern::parse).unwrap_or_default());
        if !require_digest && forbidden_tags.as_ref().is_some_and(Vec::is_empty) && settings.is_sound() {
            settings.mistake("", "nothing is required: leave requireDigest out, or list forbiddenTags");
        }
        if beside_digest && forbidden_tags.as_ref().is_some_and(Vec::is_empty) && settings.is_sound() {
            settings.mistake("/forbiddenTagsBesideDigest", "no tag is forbidden: list some in forbiddenTags");
        }
        let latest = || TagPattern::parse("latest").into_iter().collect();
        let forbidden_tags = forbidden_tags.unwrap_or_else(latest);
        settings.finish(Self { require_digest, forbidden_tags, beside_digest, except })
    }

    fn judge(&self, image: &Image, _: &Context) -> Decision {
        let mut exempt = self.except.first_match(&image.reference());
        if exempt.is_none() && self.beside_digest {
            // Where a tag beside a digest counts, it also counts for an exemption.
            exempt = self.except.first_match(&Reference { digest: None, ..image.reference() });
        }
        if let Some(pattern) = exempt {
            let reason = format!("pattern {} is exempt", shorten(pattern.as_str(), MAX_NAME));
            let audit_annotations = vec![("pattern".to_owned(), pattern.as_str().to_owned())];
            return Decision { audit_annotations, ..decision(Outcome::Abstain, "exempt", reason) };
        }
        // The host gives an image without a digest its tag; should it ever not, the runtime pulls `latest`.
        let tag = image.tag.as_deref().or(if image.digest.is_none() { Some("latest") } else { None });
        let forbidden = tag.filter(|tag| self.forbidden_tags.iter().any(|forbidden| forbidden.matches(tag)));
        match forbidden {
            Some(tag) if image.digest.is_some() && self.beside_digest => {
                let tag = shorten(tag, MAX_NAME);
                let reason =
                    format!("tag {tag} is forbidden, beside a digest too: write a version, or leave it out");
                decision(Outcome::Deny, "forbidden-tag", reason)
            }
            _ if image.digest.is_some() => {
                decision(Outcome::Allow, "pinned", "it is named by a digest".into())
            }
            _ if self.require_digest => {
                decision(Outcome::Deny, "not-pinned", format!("it has no digest: {}", how_to_pin(image)))
            }
            Some(tag) => {
                let tag = shorten(tag, MAX_NAME);
                let reason = format!("tag {tag} is forbidden: write a version, or a digest");
                decision(Outcome::Deny, "forbidden-tag", reason)
            }
            None => {
                let tag = shorten(tag.unwrap_or_default(), MAX_NAME);
                decision(Outcome::Allow, "tag-allowed", format!("tag {tag} is not forbidden"))
            }
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.require_digest {
            true => write!(f, "a digest is required")?,
            false => write!(f, "{} tag patterns are forbidden", self.forbidden_tags.len())?,
        }
        write!(f, ", {} patterns are exempt", self.except.all().len())
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

fn decision(outcome: Outcome, code: &str, reason: String) -> Decision {
    Decision { outcome, code: code.to_owned(), reason, audit_annotations: Vec::new(), warnings: Vec::new() }
}
