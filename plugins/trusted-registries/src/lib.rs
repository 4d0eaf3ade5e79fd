//! An image comes from a registry and a repository that the settings name.
//!
//! ```json
//! { "allow": ["ghcr.io/acme/**"], "deny": ["ghcr.io/acme/legacy"], "message": "see
//! https://wiki.example/images" }
//! ```
//!
//! | the image matches | outcome | code |
//! |---|---|---|
//! | a `deny` pattern, whatever else it matches | deny | `denied-registry` |
//! | an `allow` pattern | allow | `trusted-registry` |
//! | neither, and there is an `allow` list | deny | `untrusted-registry` |
//! | neither, and `unmatched` is `Abstain` | abstain | `unmatched` |
//! | neither, and there is only a `deny` list | abstain | `not-denied` |
//!
//! With `unmatched: Abstain` the lists of several entries add up: an image is allowed if one of them allows
//! it.
//!
//! If a denied image differs from a pattern in one field, the reason names that field. The pattern that
//! decided is the audit annotation `pattern`. Patterns are those of [`policy_kit::pattern`].

use std::fmt;

use policy_kit::settings::Settings;
use policy_kit::{Nearest, Pattern, Patterns, Separation, shorten};

pub use policy_kit::contract::{Context, Decision, Image, Outcome, Policy, SettingsError};

/// In bytes: the line appended to denials.
const MAX_MESSAGE: usize = 300;
/// In characters: one name inside a reason.
const MAX_NAME: usize = 120;
/// Limit of the patterns in one kind of warning.
const MAX_WARNINGS: usize = 8;

/// The settings, read.
#[derive(Debug)]
pub struct Rules {
    /// None: this policy only denies.
    allow: Option<Patterns>,
    deny: Patterns,
    /// The policy abstains on an image that no list has.
    abstain: bool,
    message: Option<String>,
}

policy_kit::export_policy!(crate::Rules);

impl Policy for Rules {
    fn parse(json: &str) -> Result<Self, Vec<SettingsError>> {
        let mut settings = Settings::read(json)?;
        let allow = settings.list("allow", Pattern::parse);
        let deny = settings.list("deny", Pattern::parse);
        let unmatched = settings.choice("unmatched", &["Deny", "Abstain"]);
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
        if allow.is_none() && unmatched == Some("Deny") && settings.is_sound() {
            settings.mistake(
                "/unmatched",
                "without a list `allow` it would deny every image: list patterns there",
            );
        }
        let deny = Patterns::denying(deny.unwrap_or_default());
        let abstain = unmatched == Some("Abstain");
        settings.finish(Self { allow: allow.map(Patterns::new), deny, abstain, message })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let allowed = self.allow.iter().flat_map(|allow| allow.all());
        let strangers = allowed.filter_map(|pattern| Some((pattern, pattern.trusts_strangers()?)));
        for (pattern, owned) in strangers.take(MAX_WARNINGS) {
            let pattern = shorten(pattern.as_str(), MAX_NAME);
            warnings.push(format!(
                "allow: {pattern} trusts registries of strangers, since anyone gets a name there: write \
                    {owned}, with your account or project as OWNER"
            ));
        }
        for pattern in self.deny.all().iter().filter(|pattern| pattern.is_of_tag()).take(MAX_WARNINGS) {
            let pattern = shorten(pattern.as_str(), MAX_NAME);
            warnings.push(format!(
                "deny: {pattern} does not hold: the same image passes by its digest, deny the repository"
            ));
        }
        if self.allow.is_none() {
            warnings.push(
                "deny without allow does not hold: a mirror, an IP address or another name of a registry \
                    passes; list in allow what may run"
                    .into(),
            );
        }
        warnings
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
            None if self.abstain => {
                decision(Outcome::Abstain, "unmatched", "no pattern matches".into(), None)
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

/// Returns what separates the image from the nearest pattern; else what is trusted of its registry, else of
/// all.
fn untrusted(allow: &Patterns, image: &Image) -> String {
    let Image { registry, repository, .. } = image;
    let (host, path) = (shorten(registry, MAX_NAME), shorten(repository, MAX_NAME));
    if let Some(Nearest { pattern, by }) = allow.nearest(&image.reference()) {
        let name = shorten(pattern.as_str(), MAX_NAME);
        return match by {
            Separation::Version | Separation::TagBesideDigest => {
                let of_name = allow.of_name(registry, repository);
                let by_tag = image.digest.is_some() && of_name.iter().any(|pattern| pattern.is_of_tag());
                let trusted = list(of_name.into_iter()).unwrap_or_default();
                let hint = if by_tag { "; where there is a digest the tag does not count" } else { "" };
                format!("this version of {host}/{path} is not trusted: allowed of it {trusted}{hint}")
            }
            Separation::Deeper(more) => {
                format!("{host}/{path} is not trusted: it is {} too deep for {name}", segments(more))
            }
            Separation::Shorter(fewer) => {
                format!("{host}/{path} is not trusted: it is {} too short for {name}", segments(fewer))
            }
            Separation::Port => format!("registry {host} is not trusted: {name} has another port, or none"),
            Separation::Typo => format!("registry {host} is not trusted: {name} has nearly the same name"),
            Separation::Registry => {
                format!("registry {host} is not trusted: {name} is the same path in another registry")
            }
        };
    }
    if let Some(trusted) = list(allow.of_registry(registry).into_iter()) {
        format!("{host}/{path} is not trusted: allowed of {host} {trusted}")
    } else {
        format!("registry {host} is not trusted: allowed {}", list(allow.all().iter()).unwrap_or_default())
    }
}

fn segments(number: usize) -> String {
    if number == 1 { "one segment".into() } else { format!("{number} segments") }
}

/// Returns `is A`, `are A and B` or `are A and 2 more`. Returns None if the list is empty.
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
