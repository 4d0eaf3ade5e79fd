//! An image comes from a registry and a repository that the settings name.
//!
//! ```json
//! { "allow": ["ghcr.io/acme/**"], "deny": ["ghcr.io/acme/legacy"], "message": "see https://wiki.example/images" }
//! ```
//!
//! | the image matches | outcome | code |
//! |---|---|---|
//! | a `deny` pattern, whatever else it matches | deny | `denied-registry` |
//! | an `allow` pattern | allow | `trusted-registry` |
//! | neither, and there is an `allow` list | deny | `untrusted-registry` |
//! | neither, and there is only a `deny` list | abstain | `not-denied` |
//!
//! The pattern that decided is the audit annotation `pattern`. Patterns are those of [`policy_kit::pattern`].

use std::fmt;

use policy_kit::settings::Settings;
use policy_kit::{Pattern, Patterns, shorten};

pub use policy_kit::contract::{Context, Decision, Image, Outcome, Policy, SettingsError};

/// In bytes: the line appended to denials.
const MAX_MESSAGE: usize = 300;
/// In characters: one name inside a reason.
const MAX_NAME: usize = 120;

/// The settings, read.
#[derive(Debug)]
pub struct Rules {
    /// None: this policy only denies.
    allow: Option<Patterns>,
    deny: Patterns,
    message: Option<String>,
}

policy_kit::export_policy!(crate::Rules);

impl Policy for Rules {
    fn parse(json: &str) -> Result<Self, Vec<SettingsError>> {
        let mut settings = Settings::read(json)?;
        let allow = settings.list("allow", Pattern::parse);
        let deny = settings.list("deny", Pattern::parse);
        let message = settings.line("message", MAX_MESSAGE);
        if allow.is_none() && deny.as_ref().is_none_or(Vec::is_empty) && settings.is_sound() {
            settings.mistake("", "nothing to judge by: write allow: [\"ghcr.io/acme/**\"], or deny, or both");
        }
        if allow.as_ref().is_some_and(Vec::is_empty) && settings.is_sound() {
            settings.mistake(
                "/allow",
                "an empty list would deny every image: list patterns, or leave the key out",
            );
        }
        let deny = Patterns::new(deny.unwrap_or_default());
        settings.finish(Self { allow: allow.map(Patterns::new), deny, message })
    }

    fn judge(&self, image: &Image, _: &Context) -> Decision {
        if let Some(pattern) = self.deny.first_match(&image.reference()) {
            let reason = self.denial(format!("pattern {} is denied", shorten(pattern.as_str(), MAX_NAME)));
            return decision(Outcome::Deny, "denied-registry", reason, Some(pattern));
        }
        let Some(allow) = &self.allow else {
            return decision(Outcome::Abstain, "not-denied", "no deny pattern matches".into(), None);
        };
        match allow.first_match(&image.reference()) {
            Some(pattern) => {
                let reason = format!("pattern {} is trusted", shorten(pattern.as_str(), MAX_NAME));
                decision(Outcome::Allow, "trusted-registry", reason, Some(pattern))
            }
            None => decision(Outcome::Deny, "untrusted-registry", self.denial(untrusted(allow, image)), None),
        }
    }
}

impl Rules {
    fn denial(&self, reason: String) -> String {
        match &self.message {
            Some(message) => format!("{reason} ({message})"),
            None => reason,
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.allow {
            Some(allow) => {
                write!(f, "{} allow and {} deny patterns", allow.all().len(), self.deny.all().len())
            }
            None => {
                let deny = self.deny.all().len();
                write!(f, "{deny} deny patterns and no allow list: this policy allows no image")
            }
        }
    }
}

/// Names what is trusted nearest to the image: the patterns of its repository, else of its registry, else all.
fn untrusted(allow: &Patterns, image: &Image) -> String {
    let Image { registry, repository, .. } = image;
    let (host, path) = (shorten(registry, MAX_NAME), shorten(repository, MAX_NAME));
    let of_name = allow.of_name(registry, repository);
    if let Some(trusted) = list(of_name.iter().copied()) {
        let by_tag = image.digest.is_some() && of_name.into_iter().any(Pattern::is_of_tag);
        let hint = if by_tag { "; where there is a digest the tag does not count" } else { "" };
        format!("this version of {host}/{path} is not trusted: allowed of it {trusted}{hint}")
    } else if let Some(trusted) = list(allow.of_registry(registry).into_iter()) {
        format!("{host}/{path} is not trusted: allowed of {host} {trusted}")
    } else {
        format!("registry {host} is not trusted: allowed {}", list(allow.all().iter()).unwrap_or_default())
    }
}

/// `is A`, `are A and B`, `are A and 2 more`; none where there is nothing.
fn list<'a>(mut patterns: impl Iterator<Item = &'a Pattern>) -> Option<String> {
    let mut name = || patterns.next().map(|pattern| shorten(pattern.as_str(), MAX_NAME));
    Some(match (name()?, name()) {
        (first, None) => format!("is {first}"),
        (first, Some(second)) => match patterns.count() {
            0 => format!("are {first} and {second}"),
            more => format!("are {first} and {} more", more.saturating_add(1)),
        },
    })
}

fn decision(outcome: Outcome, code: &str, reason: String, pattern: Option<&Pattern>) -> Decision {
    let audit_annotations =
        pattern.iter().map(|pattern| ("pattern".to_owned(), pattern.as_str().to_owned())).collect();
    Decision { outcome, code: code.to_owned(), reason, audit_annotations, warnings: Vec::new() }
}
