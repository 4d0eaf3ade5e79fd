//! From text to a [`Pattern`]. Most of this is about the mistake: each says what to write instead.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Pattern, Version};
use crate::shorten;

/// More than the longest reference there is: 255 bytes of registry, 255 of path, 128 of tag, 135 of digest.
const MAX_BYTES: usize = 1024;
/// The hash algorithms of a digest, and how many hexadecimal digits each has.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
const MAX_TAG: usize = 128;

pub(crate) fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("an empty pattern: write a registry and a path, such as `ghcr.io/acme/**`".into());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes: a pattern has at most {MAX_BYTES}", text.len()));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("a pattern has no `{}://`: write `{}`", show(scheme), show(rest)));
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

    self::registry(text, registry, path)?;
    self::path(name, path)?;
    tag.map(self::tag).transpose()?;
    digest.map(self::digest).transpose()?;

    // Offsets fit: a pattern has at most MAX_BYTES.
    let at = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let from_end = |part: &str| at(text.len().saturating_sub(part.len()));
    let below = registry.starts_with("*.");
    let start = registry.len().saturating_add(1);
    let before_deep = path.strip_suffix("**").map(|before| before.strip_suffix('/').unwrap_or(before));
    let segments = before_deep.unwrap_or(path);
    let literal = match segments.split_once('*') {
        Some((before, _)) => before.rsplit_once('/').map_or("", |(whole, _)| whole),
        None => segments,
    };
    let from_start = |part: &str| at(start)..at(start.saturating_add(part.len()));
    Ok(Pattern {
        text: text.into(),
        registry: at(if below { 2 } else { 0 })..at(registry.len()),
        below,
        path: from_start(segments),
        literal: from_start(literal),
        deep: before_deep.is_some(),
        version: match (digest, tag) {
            (Some(digest), _) => Version::Digest(from_end(digest)),
            (None, Some(tag)) => Version::Tag(from_end(tag)),
            (None, None) => Version::Any,
        },
    })
}

/// A pattern without any `/`: a registry alone, or an image of Docker Hub by its short name.
fn no_registry(text: &str, name: &str) -> String {
    let (host, port) = name.split_once(':').unwrap_or((name, ""));
    if host.is_empty() || host.contains('*') {
        "a pattern begins with its registry: write one pattern for each, such as `docker.io/**`".into()
    } else if host.contains('.') || host.contains('[') || host == "localhost" {
        let whole =
            if port.bytes().any(|b| b.is_ascii_alphabetic()) && !host.starts_with('[') { host } else { name };
        format!("a registry without a path: for all of it write `{}/**`", show(whole))
    } else {
        let lower = host.to_ascii_lowercase();
        let rest = text.strip_prefix(host).unwrap_or_default();
        format!(
            "a pattern begins with its registry: write `docker.io/library/{}`",
            show(&format!("{lower}{rest}"))
        )
    }
}

fn registry(text: &str, registry: &str, path: &str) -> Result<(), String> {
    let after = text.strip_prefix(registry).unwrap_or_default();
    if registry.contains(|c: char| c.is_ascii_uppercase()) {
        let lower = registry.to_ascii_lowercase();
        return Err(format!("a registry is lower case: write `{}`", show(&format!("{lower}{after}"))));
    }
    if registry == "index.docker.io" {
        return Err(format!(
            "`index.docker.io` is `docker.io` to a runtime: write `{}`",
            show(&format!("docker.io{after}"))
        ));
    }
    if registry == "docker.io" && !path.is_empty() && path != "**" && !path.contains('/') {
        let right = format!("docker.io/library{after}");
        return Err(format!(
            "Docker Hub keeps images without an owner in `library`: write `{}`",
            show(&right)
        ));
    }

    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if let Some(port) = port
        && (port.starts_with('0')
            || !port.bytes().all(|b| b.is_ascii_digit())
            || port.parse::<u16>().is_err())
    {
        return Err(format!("`{}` is no port: write a number from 1 to 65535", show(port)));
    }
    if let Some(address) = host.strip_prefix('[') {
        return match address.strip_suffix(']') {
            Some(v6) if v6.contains(':') && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') => Ok(()),
            _ => Err(format!("`{}` is no IPv6 address: write it like `[2001:db8::1]:5000`", show(host))),
        };
    }

    let below = host.strip_prefix("*.");
    let domain = below.unwrap_or(host);
    if domain.contains('*') {
        return Err(
            "a registry has no wildcard but a whole first label: write it in full, or like `*.gcr.io/**`"
                .into(),
        );
    }
    if !domain.split('.').all(is_label) {
        return Err(format!("`{}` is no registry: write a host name, such as `ghcr.io`", show(registry)));
    }
    if below.is_some() {
        return if domain.contains('.') {
            Ok(())
        } else {
            Err(format!(
                "`{}` is a whole top-level domain: name one label more, such as `*.example.{domain}`",
                show(host)
            ))
        };
    }
    if !host.contains('.') && port.is_none() && host != "localhost" {
        return Err(format!(
            "`{}` is no registry but an owner on Docker Hub: write `docker.io/{}`",
            show(host),
            show(text)
        ));
    }
    Ok(())
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
            let what = "letters and digits, with `.`, `_`, `__` or `-` between them";
            return Err(format!("no image has the path segment `{}`: it is {what}", show(segment)));
        }
    }
    Ok(())
}

pub(crate) fn tag(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
    if text.is_empty() {
        Err("an empty tag: write a tag, such as `latest`, or `*` for any".into())
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

fn digest(text: &str) -> Result<(), String> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let sound = text.split_once(':').is_some_and(|(algorithm, digits)| {
        DIGESTS.contains(&(algorithm, digits.len())) && digits.bytes().all(hex)
    });
    if sound {
        Ok(())
    } else {
        Err(format!(
            "`{}` is no digest: write all of it, `sha256:` and 64 lower-case hexadecimal digits",
            show(text)
        ))
    }
}

/// One label of a host name.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
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

fn show(text: &str) -> String {
    shorten(text, 100).into_owned()
}
