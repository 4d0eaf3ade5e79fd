//! Patterns of other tools: recognised, and written out as a pattern of this crate where that is possible.

use alloc::format;
use alloc::string::String;

use super::{parse, services};
use crate::{shorten, text};

/// Returns the message about a text that is no pattern, if it is one of another notation.
pub(super) fn message(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('!') {
        let rest = parse::show(rest);
        return Some(format!("`!` denies in other tools: write `{rest}`, in the list `deny`"));
    }
    if ["${", "$(", "{{"].iter().any(|part| text::contains(text, part)) {
        return Some(format!("`{}` is an unfilled template: write the pattern itself", parse::show(text)));
    }
    if is_regular_expression(text) {
        let what = format!("`{}` looks like a regular expression, and a pattern is none", shorten(text, 60));
        return Some(match plain(text) {
            Some(pattern) => format!("{what}: write `{}`", parse::show(&pattern)),
            None => format!("{what}: `*` is any characters inside one part, as in `ghcr.io/acme/*`"),
        });
    }
    if text.contains(['|', ',']) {
        return Some("a pattern has no `|` and no `,`: write each alternative as an item of the list".into());
    }
    if text.contains('{') {
        return Some("`{` cannot stand in a pattern: write each alternative as an item of the list".into());
    }
    None
}

/// Returns whether a text that is no pattern has what only a regular expression has.
fn is_regular_expression(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    // `.*` before anything but another label: a label alone may be `*`.
    let any = |part: &str| {
        let mut rest = part;
        let mut found = part.starts_with(".*");
        while let Some((_, after)) = text::split_once(rest, ".*") {
            found |= after.starts_with(|c: char| c.is_ascii_alphanumeric());
            rest = after;
        }
        found
    };
    text.contains(['^', '\\', '(', '+'])
        || text.ends_with('$')
        || ["[^", "[a-z", "[0-9"].iter().any(|part| text::contains(text, part))
        || any(host)
        || text.split('/').any(|segment| segment == ".*")
}

/// Writes a regular expression as a pattern, where the outcome is one.
fn plain(text: &str) -> Option<String> {
    let text = text.strip_prefix('^').unwrap_or(text);
    let text = text.strip_suffix('$').unwrap_or(text);
    let mut pattern = String::from(text);
    for (from, to) in [
        ("https?://", ""),
        ("[^/]+", "*"),
        ("[^/]*", "*"),
        ("[0-9]+", "*"),
        ("[a-z0-9-]+", "*"),
        ("\\d+", "*"),
        ("\\.", "."),
        ("\\-", "-"),
        ("\\/", "/"),
        (".*", "*"),
        (".+", "*"),
    ] {
        pattern = text::replace(&pattern, from, to);
    }
    // `.*` before the path may match another host.
    let (host, path) = pattern.split_once('/').unwrap_or((&pattern, ""));
    let domain = host.rsplit_once('*').map_or(host, |(_, domain)| domain);
    if path.is_empty()
        && let Some(owned) = services::below(domain)
    {
        return Some(owned.into());
    }
    let path = match path {
        "" | "*" => "**",
        path => path,
    };
    let deep = match path.strip_suffix("/*") {
        Some(before) => format!("{host}/{before}/**"),
        None => format!("{host}/{path}"),
    };
    let read = parse::parts(&deep).ok()?;
    // A literal host is what the writer means, and the load warns of it.
    let owned = read.trusts_strangers().filter(|_| host.contains('*'));
    owned.map(String::from).or(Some(deep))
}
