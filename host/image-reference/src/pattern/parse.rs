//! From text to a [`Pattern`]. Most of this is about the mistake: each says what to write instead.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Pattern, Shape, Version, foreign, services};
use crate::registry::{self, DOCKER_HUB, DOCKER_INDEX, RegistryError, is_label, split_port};
use crate::shorten;

/// More than the longest reference there is: 255 bytes of registry, 255 of path, 128 of tag, 135 of digest.
const MAX_BYTES: usize = 1024;
/// The hash algorithms of a digest, and how many hexadecimal digits each has.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
const MAX_TAG: usize = 128;

pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("an empty pattern: write a registry and a path, such as `ghcr.io/acme/**`".into());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes: a pattern has at most {MAX_BYTES}", text.len()));
    }
    parts(text).map_err(|message| foreign::message(text).unwrap_or(message))
}

/// Reads a pattern of bounded length, without a look at other notations.
pub(super) fn parts(text: &str) -> Result<Pattern, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("a pattern is no URL and has no `{}://`: write `{}`", show(scheme), show(rest)));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-/:@*[]".contains(*c)) {
        let name = if c.is_ascii_graphic() { format!("`{c}`") } else { format!("U+{:04X}", u32::from(c)) };
        return Err(format!(
            "{name} cannot stand in a pattern: write it like an image, such as `ghcr.io/acme/**`"
        ));
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
fn no_registry(text: &str, name: &str) -> String {
    let (host, rest) = name.split_once(':').unwrap_or((name, ""));
    if let Some(owned) = services::below(host) {
        return format!(
            "a registry without a path: where `OWNER` is your account or project, write `{owned}`"
        );
    }
    if host.is_empty() || host.contains('*') {
        "a pattern begins with its registry: write one pattern for each, such as `docker.io/**`".into()
    } else if host.contains('.') || host.contains('[') || host == "localhost" {
        let whole =
            if rest.bytes().any(|b| b.is_ascii_alphabetic()) && !host.starts_with('[') { host } else { name };
        format!("a registry without a path: for all of it write `{}/**`", show(whole))
    } else {
        let lower = host.to_ascii_lowercase();
        let version = text.strip_prefix(host).unwrap_or_default();
        let all = if version.starts_with(':') && !version.contains('@') {
            format!(", or `docker.io/library/{}` for every tag and digest", show(&lower))
        } else {
            String::new()
        };
        let whole = show(&format!("{lower}{version}"));
        format!("a pattern begins with its registry: write `docker.io/library/{whole}`{all}")
    }
}

/// Checks the registry of a pattern, and returns the shape of its host.
fn registry(text: &str, registry: &str, path: &str) -> Result<Shape, String> {
    let after = text.strip_prefix(registry).unwrap_or_default();
    if registry.contains(|c: char| c.is_ascii_uppercase()) {
        let lower = registry.to_ascii_lowercase();
        return Err(format!("a registry is lower case: write `{}`", show(&format!("{lower}{after}"))));
    }
    if registry == DOCKER_INDEX {
        return Err(format!(
            "`{DOCKER_INDEX}` is `{DOCKER_HUB}` to a runtime: write `{}`",
            show(&format!("{DOCKER_HUB}{after}"))
        ));
    }
    if registry == DOCKER_HUB && !path.is_empty() && path != "**" && !path.contains('/') {
        let right = format!("{DOCKER_HUB}/library{after}");
        return Err(format!(
            "Docker Hub keeps images without an owner in `library`: write `{}`",
            show(&right)
        ));
    }
    if registry.is_empty() {
        return Err(no_registry(text, registry));
    }
    if registry.contains('*') {
        return wildcards(registry);
    }
    let (host, port) = split_port(registry);
    if !host.is_empty() && !host.contains(['.', '[', ']']) && port.is_none() && host != "localhost" {
        return Err(format!(
            "`{}` is no registry but an owner on Docker Hub: write `{DOCKER_HUB}/{}`",
            show(host),
            show(text)
        ));
    }
    registry::check(registry).map_err(|error| format!("registry `{}` {error}", show(registry)))?;
    Ok(Shape::LITERAL)
}

/// Checks a registry with `*`: each stands for a whole label or for a part of the first one, and the last two labels,
/// which name a domain, have none.
fn wildcards(registry: &str) -> Result<Shape, String> {
    let (host, port) = split_port(registry);
    if let Some(port) = port {
        registry::check_port(port).map_err(|error| format!("registry `{}` {error}", show(registry)))?;
    }
    if host.contains("**") {
        return Err(
            "`**` is for paths: `*` is one label of a registry, as in `*.gcr.io/my-project/**`".into()
        );
    }
    let shown = show(host);
    let mut labels = host.rsplit('.');
    let (top, domain) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    if !top.is_empty() && top.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{shown}` ends in a number: an address has no `*`, write it in full"));
    }
    if domain.is_empty() || top.contains('*') || domain.contains('*') && top.is_empty() {
        return Err(format!(
            "`{shown}` leaves the domain open: name each registry, or like `*.gcr.io/my-project/**`"
        ));
    }
    let literal = |label: &str| label.replace('*', "a");
    if !host.split('.').all(|label| is_label(&literal(label))) {
        return Err(format!("registry `{shown}` {}", RegistryError::Label));
    }
    if domain.contains('*') || host.split('.').count() < 3 {
        return Err(if domain == "*" {
            format!("`{shown}` is a whole top-level domain: name one label more, such as `*.example.{top}`")
        } else {
            format!("`{shown}` leaves the domain open to strangers: write it like `*.gcr.io/my-project/**`")
        });
    }
    let shared = matches!(domain, "ac" | "co" | "com" | "edu" | "gov" | "net" | "org") && top.len() == 2;
    if shared && labels.next().is_some_and(|label| label.contains('*')) {
        return Err(format!(
            "`{shown}` is a whole public suffix: name one label more, such as `*.example.{domain}.{top}`"
        ));
    }
    if host.split('.').skip(1).any(|label| label.contains('*') && label != "*") {
        return Err(format!("`{shown}` has a part of a label open: but for the first one write `*` alone"));
    }
    Shape::of(host).ok_or_else(|| format!("`{shown}` has too many labels beside `*`"))
}

fn path(name: &str, path: &str) -> Result<(), String> {
    if let Some(shorter) = name.strip_suffix('/') {
        return Err(format!("nothing after the last `/`: for all below it write `{}/**`", show(shorter)));
    }
    let mut deep = false;
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("a path segment is empty: write one `/` between two segments".into());
        }
        if deep {
            return Err("`**` stands last: write `*` for one segment in the middle".into());
        }
        if segment == "**" {
            deep = true;
            continue;
        }
        if segment.contains("**") {
            let one = segment.split('*').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("*");
            let right = if one.is_empty() { "**".to_owned() } else { format!("{one}/**") };
            return Err(format!(
                "`**` is a whole segment: write `{}`, or `*` inside a segment",
                show(&right)
            ));
        }
        if segment.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(format!(
                "a repository is lower case: write `{}`",
                show(&segment.to_ascii_lowercase())
            ));
        }
        if !is_segment(segment) {
            if segment.ends_with(['.', '_', '-']) && is_segment(segment.trim_end_matches(['.', '_', '-'])) {
                let shown = show(segment);
                return Err(format!("no image has the path segment `{shown}`: `{shown}*` begins with it"));
            }
            let what = "letters and digits, with `.`, `_`, `__` or `-` between them";
            return Err(format!("no image has the path segment `{}`: it is {what}", show(segment)));
        }
    }
    Ok(())
}

/// Checks the tag of a pattern; `name` is the pattern without it.
fn tag_of(text: &str, name: &str) -> Result<(), String> {
    if text.is_empty() || text.contains("**") {
        let what = if text.is_empty() { "an empty tag" } else { "`**` in a tag" };
        return Err(format!("{what}: for every tag and digest leave it out, write `{}`", show(name)));
    }
    tag(text)
}

pub(super) fn tag(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
    if text.is_empty() {
        Err("an empty tag: write a tag, such as `latest`".into())
    } else if text.contains("**") {
        Err("`**` in a tag: write `*`, a tag has no segments".into())
    } else if text.contains('/') {
        Err(format!("`{}` is no tag: write the tag after the whole path", show(text)))
    } else if text.len() > MAX_TAG || text.starts_with(['.', '-']) || !text.chars().all(allowed) {
        let what = "letters, digits, `_`, `.` and `-`, the first no `.` or `-`";
        Err(format!("`{}` is no tag: it is at most {MAX_TAG} {what}", show(text)))
    } else {
        Ok(())
    }
}

/// Checks the digest of a pattern; `name` is the pattern without it.
fn digest(text: &str, name: &str) -> Result<(), String> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let sound = text.split_once(':').is_some_and(|(algorithm, digits)| {
        DIGESTS.contains(&(algorithm, digits.len())) && digits.bytes().all(hex)
    });
    if sound {
        Ok(())
    } else {
        Err(format!(
            "`{}` is no digest, `sha256:` and 64 lower-case hexadecimal digits: for every version write `{}`",
            show(text),
            show(name)
        ))
    }
}

/// What `*` leaves of a segment may begin and end with a separator; without `*` it may not.
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
