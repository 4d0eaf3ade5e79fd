//! One text with `*` in it: a path segment or a tag.

/// Returns whether the text matches the glob: `*` is any number of characters, none included.
///
/// Every part between two `*` is taken at its leftmost place. A later place is never better, so no step is
/// taken back and the time is linear.
pub(crate) fn matches(glob: &str, text: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else { return glob == text };
    let (between, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(start) else { return false };
    for part in between.split('*').filter(|part| !part.is_empty()) {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(end)
}
