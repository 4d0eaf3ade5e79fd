//! From text to a [`Pattern`]. Most of this is about the mistake: each says what to write instead.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::{Pattern, PatternError, Shape, Version, foreign, services};
use crate::registry::{self, DOCKER_HUB, DOCKER_INDEX, RegistryError, is_label, split_port};
use crate::{shorten, text};

/// More than the longest reference there is: 255 bytes of registry, 255 of path, 128 of tag, 135 of digest.
pub(super) const MAX_BYTES: usize = 1024;
/// The hash algorithms of a digest, and how many hexadecimal digits each has.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
pub(super) const MAX_TAG: usize = 128;

pub(super) fn pattern(text: &str) -> Result<Pattern, PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(PatternError::TooLong(text.len()));
    }
    parts(text).map_err(|error| foreign::message(text).map_or(error, PatternError::Foreign))
}

/// Reads a pattern of bounded length, without a look at other notations.
pub(super) fn parts(text: &str) -> Result<Pattern, PatternError> {
    if let Some((scheme, rest)) = text::split_once(text, "://") {
        return Err(PatternError::Scheme(show(scheme), show(rest)));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-/:@*[]".contains(*c)) {
        return Err(match c.is_ascii_graphic() {
            true => PatternError::Character(c),
            false => PatternError::CodePoint(u32::from(c)),
        });
    }

    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let Some((registry, path)) = name.split_once('/') else { return Err(no_registry(text, name)) };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };

    let shape = self::registry(text, registry, path)?;
    let before_tag = name.split_at(registry.len().saturating_add(1).saturating_add(path.len())).0;
    self::path(name, path)?;
    tag.map(|tag| self::tag_of(tag, before_tag)).transpose()?;
    digest.map(|digest| self::digest(digest, before_tag)).transpose()?;

    // Offsets fit: a pattern has at most MAX_BYTES.
    let at = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let from_end = |part: &str| at(text.len().saturating_sub(part.len()));
    let start = registry.len().saturating_add(1);
    let before_deep = path.strip_suffix("**").map(|before| before.strip_suffix('/').unwrap_or(before));
    let segments = before_deep.unwrap_or(path);
    let literal = match segments.split_once('*') {
        Some((before, _)) => before.rsplit_once('/').map_or("", |(whole, _)| whole),
        None => segments,
    };
    let end = |part: &str| at(start.saturating_add(part.len()));
    Ok(Pattern {
        text: text.into(),
        written: None,
        shape,
        registry: at(registry.len()),
        path: end(segments),
        literal: end(literal),
        deep: before_deep.is_some(),
        version: match (digest, tag) {
            (Some(digest), _) => Version::Digest(from_end(digest)),
            (None, Some("*") | None) => Version::Any,
            (None, Some(tag)) => Version::Tag(from_end(tag)),
        },
    })
}

/// A pattern without any `/`: a registry alone, or an image of Docker Hub by its short name.
fn no_registry(text: &str, name: &str) -> PatternError {
    let (host, rest) = name.split_once(':').unwrap_or((name, ""));
    if let Some(owned) = services::below(host) {
        return PatternError::Owner(owned);
    }
    if host.is_empty() || host.contains('*') {
        PatternError::AnyRegistry
    } else if host.contains('.') || host.contains('[') || host == "localhost" {
        let whole =
            if rest.bytes().any(|b| b.is_ascii_alphabetic()) && !host.starts_with('[') { host } else { name };
        PatternError::RegistryAlone(show(whole))
    } else {
        let lower = host.to_ascii_lowercase();
        let version = text.strip_prefix(host).unwrap_or_default();
        let whole = show(&format!("{lower}{version}"));
        match version.starts_with(':') && !version.contains('@') {
            true => PatternError::ShortNameTag(whole, show(&lower)),
            false => PatternError::ShortName(whole),
        }
    }
}

/// Checks the registry of a pattern, and returns the shape of its host.
fn registry(text: &str, registry: &str, path: &str) -> Result<Shape, PatternError> {
    let after = text.strip_prefix(registry).unwrap_or_default();
    if registry.contains(|c: char| c.is_ascii_uppercase()) {
        let lower = registry.to_ascii_lowercase();
        return Err(PatternError::RegistryUpperCase(show(&format!("{lower}{after}"))));
    }
    if registry == DOCKER_INDEX {
        return Err(PatternError::DockerIndex(show(&format!("{DOCKER_HUB}{after}"))));
    }
    if registry == DOCKER_HUB && !path.is_empty() && path != "**" && !path.contains('/') {
        return Err(PatternError::DockerLibrary(show(&format!("{DOCKER_HUB}/library{after}"))));
    }
    if registry.is_empty() {
        return Err(no_registry(text, registry));
    }
    if registry.contains('*') {
        return wildcards(registry);
    }
    let (host, port) = split_port(registry);
    if !host.is_empty() && !host.contains(['.', '[', ']']) && port.is_none() && host != "localhost" {
        return Err(PatternError::DockerOwner(show(host), show(text)));
    }
    registry::check(registry).map_err(|error| PatternError::Registry(show(registry), error))?;
    Ok(Shape::LITERAL)
}

/// Checks a registry with `*`: each stands for a whole label or for a part of the first one, and the last two
/// labels, which name a domain, have none.
fn wildcards(registry: &str) -> Result<Shape, PatternError> {
    let (host, port) = split_port(registry);
    if let Some(port) = port {
        registry::check_port(port).map_err(|error| PatternError::Registry(show(registry), error))?;
    }
    if text::contains(host, "**") {
        return Err(PatternError::DeepRegistry);
    }
    let shown = || show(host);
    let mut labels = host.rsplit('.');
    let (top, domain) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    if !top.is_empty() && top.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PatternError::Address(shown()));
    }
    if domain.is_empty() || top.contains('*') || domain.contains('*') && top.is_empty() {
        return Err(PatternError::DomainOpen(shown()));
    }
    let literal = |label: &str| label.replace('*', "a");
    if !host.split('.').all(|label| is_label(&literal(label))) {
        return Err(PatternError::Registry(shown(), RegistryError::Label));
    }
    if domain == "*" {
        return Err(PatternError::TopLevelDomain(shown(), top.into()));
    }
    if domain.contains('*') || host.split('.').count() < 3 {
        return Err(PatternError::Strangers(shown()));
    }
    let shared = matches!(domain, "ac" | "co" | "com" | "edu" | "gov" | "net" | "org") && top.len() == 2;
    if shared && labels.next().is_some_and(|label| label.contains('*')) {
        return Err(PatternError::PublicSuffix(shown(), format!("{domain}.{top}")));
    }
    if host.split('.').skip(1).any(|label| label.contains('*') && label != "*") {
        return Err(PatternError::PartOfLabel(shown()));
    }
    Shape::of(host).ok_or_else(|| PatternError::Labels(shown()))
}

fn path(name: &str, path: &str) -> Result<(), PatternError> {
    if let Some(shorter) = name.strip_suffix('/') {
        return Err(PatternError::LastSlash(show(shorter)));
    }
    let mut deep = false;
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err(PatternError::SegmentEmpty);
        }
        if deep {
            return Err(PatternError::DeepMiddle);
        }
        if segment == "**" {
            deep = true;
            continue;
        }
        if text::contains(segment, "**") {
            let mut right = String::new();
            for part in segment.split('*').filter(|part| !part.is_empty()) {
                right.push_str(part);
                right.push('*');
            }
            let right = match right.strip_suffix('*') {
                Some(one) => format!("{one}/**"),
                None => "**".to_owned(),
            };
            return Err(PatternError::DeepPart(show(&right)));
        }
        if segment.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(PatternError::SegmentUpperCase(show(&segment.to_ascii_lowercase())));
        }
        if !is_segment(segment) {
            let begins =
                segment.ends_with(['.', '_', '-']) && is_segment(segment.trim_end_matches(['.', '_', '-']));
            return Err(match begins {
                true => PatternError::SegmentBeginning(show(segment)),
                false => PatternError::Segment(show(segment)),
            });
        }
    }
    Ok(())
}

/// Checks the tag of a pattern; `name` is the pattern without it.
fn tag_of(text: &str, name: &str) -> Result<(), PatternError> {
    if text.is_empty() {
        return Err(PatternError::TagMissing(show(name)));
    }
    if text::contains(text, "**") {
        return Err(PatternError::TagDeep(show(name)));
    }
    tag(text)
}

pub(super) fn tag(text: &str) -> Result<(), PatternError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
    if text.is_empty() {
        Err(PatternError::TagEmpty)
    } else if text::contains(text, "**") {
        Err(PatternError::TagSegments)
    } else if text.contains('/') {
        Err(PatternError::TagBeforePath(show(text)))
    } else if text.len() > MAX_TAG || text.starts_with(['.', '-']) || !text.chars().all(allowed) {
        Err(PatternError::Tag(show(text)))
    } else {
        Ok(())
    }
}

/// Checks the digest of a pattern; `name` is the pattern without it.
fn digest(text: &str, name: &str) -> Result<(), PatternError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let sound = text.split_once(':').is_some_and(|(algorithm, digits)| {
        DIGESTS.contains(&(algorithm, digits.len())) && digits.bytes().all(hex)
    });
    if sound { Ok(()) } else { Err(PatternError::Digest(show(text), show(name))) }
}

/// Returns whether the text is a path segment. The parts beside a `*` may begin and end with a separator.
fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separator = |part: &str| matches!(part, "" | "." | "_" | "__") || part.bytes().all(|b| b == b'-');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '*');
    outer(text.chars().next())
        && outer(text.chars().next_back())
        && text.split(|c: char| u8::try_from(c).is_ok_and(plain) || c == '*').all(separator)
}

pub(super) fn show(text: &str) -> String {
    shorten(text, 100).into_owned()
}
