//! Searches for a few constant bytes. The searches of the standard library are for long texts, and their code
//! is a part of every policy that has patterns.

use alloc::string::String;

/// Splits a text before and after the first of these parts.
pub(crate) fn split_once<'a>(text: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    let bytes = text.as_bytes();
    let last = bytes.len().checked_sub(part.len())?;
    let is_at = |at: &usize| bytes.get(*at..).is_some_and(|rest| rest.starts_with(part.as_bytes()));
    let at = (0..=last).find(is_at)?;
    Some((text.get(..at)?, text.get(at.saturating_add(part.len())..)?))
}

/// Returns whether a text contains this part.
pub(crate) fn contains(text: &str, part: &str) -> bool {
    split_once(text, part).is_some()
}

/// Returns the text with another part in place of this one.
pub(crate) fn replace(text: &str, part: &str, by: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = split_once(rest, part) {
        replaced.push_str(before);
        replaced.push_str(by);
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

#[cfg(test)]
mod tests {
    use super::{contains, replace, split_once};

    #[test]
    fn parts_are_found_as_by_the_standard_library() {
        for text in ["", "a", "**", "a**b", "*a**", "é://é", "://", "a://b://c", ".*.*", "...*"] {
            for part in ["**", "://", ".*", "a", "é", "longer than the text"] {
                assert_eq!(split_once(text, part), text.split_once(part), "{text} {part}");
                assert_eq!(contains(text, part), text.contains(part), "{text} {part}");
                assert_eq!(replace(text, part, "x"), text.replace(part, "x"), "{text} {part}");
            }
        }
    }
}
