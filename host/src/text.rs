//! Text from outside, made safe to print: escaped, and cut at a bound. Pure.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::bounds;

/// `text` on one line that shows what it holds: control, format (bidirectional marks and zero-width characters among
/// them), line-separating, private and unassigned characters are written as `\u{202e}`, so that a string from a
/// request can forge neither a second log line nor another reading of this one.
pub fn printable(text: &str) -> String {
    // Nearly all of it is, and a pass over bytes costs next to nothing.
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return text.to_owned();
    }
    let mut printed = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) {
            printed.push(character);
        } else {
            printed.extend(character.escape_unicode());
        }
    }
    printed
}

/// Whether a character is shown as it is.
pub(crate) fn is_plain(character: char) -> bool {
    use GeneralCategory as G;
    character == ' '
        || character.is_ascii_graphic()
        || !character.is_ascii()
            && !matches!(
                character.general_category(),
                G::Control
                    | G::Format
                    | G::LineSeparator
                    | G::ParagraphSeparator
                    | G::PrivateUse
                    | G::Surrogate
                    | G::Unassigned
            )
}

/// The longest beginning of `text` of at most `bytes` bytes that ends on a character boundary; `…` stands for what
/// was cut and is counted.
pub fn cut(text: &str, bytes: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes.saturating_sub(MARK.len()));
    let mut kept = text.get(..end).unwrap_or_default().to_owned();
    if bytes >= MARK.len() {
        kept.push_str(MARK);
    }
    kept
}

/// `text` escaped, of at most so many bytes.
pub fn shown(text: &str, bytes: usize) -> String {
    // What is escaped only gets longer, so the rest of a longer text can never be shown.
    let end = text.floor_char_boundary(bytes.saturating_mul(2));
    let printed = printable(text.get(..end).unwrap_or(text));
    if printed.len() <= bytes { printed } else { cut(&printed, bytes) }
}

/// The text of an error without the name of the temporary file that it was about, which is another each time.
pub fn without_path(error: &str) -> &str {
    error.split_once(" at path ").map_or(error, |(error, _)| error)
}

/// What a person is shown of an image reference that came in a request: escaped, of bounded length.
pub fn image(reference: &str) -> String {
    match reference {
        "" => "\"\"".to_owned(),
        reference => shown(reference, bounds::IMAGE_SHOWN.size()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_can_forge_a_line() {
        for (text, expected) in [
            ("nginx:1.27", "nginx:1.27"),
            ("a\nb", "a\\u{a}b"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("gpj.\u{202e}evil", "gpj.\\u{202e}evil"),
            ("zero\u{200b}width", "zero\\u{200b}width"),
            ("line\u{2028}break", "line\\u{2028}break"),
            ("ünïcode", "ünïcode"),
            ("nul\0", "nul\\u{0}"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn a_cut_ends_on_a_character() {
        assert_eq!(cut("äöü", 6), "äöü");
        assert_eq!(cut("äöüß", 6), "ä…");
        assert_eq!(cut("abcdefgh", 5), "ab…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(image(""), "\"\"");
        assert!(image(&"\n".repeat(100_000)).len() <= 256);
    }
}
