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
//! decided is the audit annotation `pattern`. Patterns are those of [`image_policy::pattern`].

use image_policy::{Context, Decision, Image, Line, Malfunction, Mistakes, Policy, abstain, allow, deny};
use image_policy::{Nearest, Pattern, Patterns, Separation, denying, log, policy, shorten};
use serde::Deserialize;

/// In characters: one name inside a reason.
const MAX_NAME: usize = 120;
/// Limit of the patterns in one kind of warning.
const MAX_WARNINGS: usize = 8;

/// The settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Images that are trusted: with this list, every other image is denied. Without it this policy only
    /// denies.
    allow: Option<Patterns>,
    /// Images that are denied, whatever `allow` says.
    #[serde(default, deserialize_with = "denying")]
    deny: Patterns,
    /// The outcome for an image that no list has; by default `Deny` with `allow`.
    unmatched: Option<Unmatched>,
    /// In brackets after every denial: where to ask.
    message: Option<Line<300>>,
}

/// The outcome for an image that no list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Unmatched {
    /// The image is denied.
    Deny,
    /// Other policies decide.
    Abstain,
}

policy!(Rules);

impl Policy for Rules {
    fn evaluate(&self, image: &Image, _: &Context) -> Result<Decision, Malfunction> {
        if let Some(pattern) = self.deny.first_match(&image.reference()) {
            let reason = self.denial(format!("pattern {} is denied", shorten(pattern.as_str(), MAX_NAME)));
            return Ok(deny("denied-registry", reason).annotate("pattern", pattern.as_str()));
        }
        let Some(trusted) = &self.allow else {
            return Ok(abstain("not-denied", "no deny pattern matches"));
        };
        Ok(match trusted.first_match(&image.reference()) {
            Some(pattern) => {
                let reason = format!("pattern {} is trusted", shorten(pattern.as_str(), MAX_NAME));
                allow("trusted-registry", reason).annotate("pattern", pattern.as_str())
            }
            None if self.unmatched == Some(Unmatched::Abstain) => abstain("unmatched", "no pattern matches"),
            None => deny("untrusted-registry", self.denial(untrusted(trusted, image))),
        })
    }

    fn check(&self, mistakes: &mut Mistakes) {
        match &self.allow {
            None if self.deny.all().is_empty() => {
                mistakes.add("", "nothing to judge by: write allow: [\"ghcr.io/acme/**\"], or deny, or both")
            }
            None if self.unmatched == Some(Unmatched::Deny) => mistakes
                .add("/unmatched", "without a list `allow` it would deny every image: list patterns there"),
            Some(allow) if allow.all().is_empty() => mistakes
                .add("/allow", "an empty list would deny every image: list patterns, or leave the key out"),
            _ => {}
        }
    }

    fn loaded(&self) {
        let deny = self.deny.all().len();
        match &self.allow {
            Some(allow) => log::info!("{} allow and {deny} deny patterns", allow.all().len()),
            None => log::info!("{deny} deny patterns and no allow list: this policy allows no image"),
        }
        for warning in self.warnings() {
            log::warn!("{warning}");
        }
    }
}

impl Rules {
    /// Returns a line for each pattern that does not hold as its author may think.
    pub fn warnings(&self) -> Vec<String> {
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

    fn denial(&self, reason: String) -> String {
        match &self.message {
            Some(message) => format!("{reason} ({message})"),
            None => reason,
        }
    }
}

/// Describes the difference to the nearest pattern; else the trusted part of the registry, else of
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
