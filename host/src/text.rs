//! Text from outside, made safe to print: escaped, and cut to a limit. Pure.

use std::ops::RangeInclusive;
use std::path::Path;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::limits;

/// Returns `text` on one line, with every character visible. Control, format (bidirectional marks among
/// them), separator, private-use, unassigned and invisible characters are written as `\u{202e}`. A string
/// from outside can therefore forge neither a second log line nor another reading of the first.
pub fn escape(text: &str) -> String {
    // Nearly every text is plain ASCII, and a pass over its bytes costs next to nothing.
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

/// Returns a JSON document with the characters that [`escape`] makes visible as `\u009b`, so that a document
/// on a terminal cannot control it. Readers get the same values. Line breaks between values stay.
pub fn escape_json(document: &str) -> String {
    let mut printed = String::with_capacity(document.len());
    for character in document.chars() {
        // A line break within a string is escaped already.
        if character == '\n' || is_plain(character) {
            printed.push(character);
        } else {
            let units = &mut [0; 2];
            printed.extend(character.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    printed
}

/// Returns a path, escaped as by [`escape`], with bytes that are not UTF-8 as `\xff`. A file's name is text
/// from outside too.
pub fn path(path: &Path) -> String {
    let mut printed = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        printed.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            printed.push_str(&format!("\\x{byte:02x}"));
        }
    }
    printed
}

/// Characters that most fonts draw as nothing, besides the general categories that [`is_plain`] excludes: the
/// ranges of `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt of the Unicode Character Database,
/// 17.0), and three characters with an empty glyph: U+2800 BRAILLE PATTERN BLANK, U+16FE4 KHITAN SMALL SCRIPT
/// FILLER and U+1D159 MUSICAL SYMBOL NULL NOTEHEAD.
const INVISIBLE: [RangeInclusive<char>; 20] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{16fe4}'..='\u{16fe4}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d159}'..='\u{1d159}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Returns whether a character is printed unescaped.
pub(crate) fn is_plain(character: char) -> bool {
    use GeneralCategory as G;
    character == ' '
        || character.is_ascii_graphic()
        || !character.is_ascii()
            && !matches!(
                character.general_category(),
                G::Control
                    | G::Format
                    | G::SpaceSeparator
                    | G::LineSeparator
                    | G::ParagraphSeparator
                    | G::PrivateUse
                    | G::Surrogate
                    | G::Unassigned
            )
            && !INVISIBLE.iter().any(|range| range.contains(&character))
}

/// Returns the longest prefix of `text` that has at most `bytes` bytes and ends on a character boundary. A
/// cut text ends in `…`, which counts.
pub fn truncate(text: &str, bytes: usize) -> String {
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

/// Returns `text` escaped and cut to at most `bytes` bytes.
pub fn escape_and_truncate(text: &str, bytes: usize) -> String {
    // Escaping never shortens a text, so text beyond twice the limit is never printed.
    let end = text.floor_char_boundary(bytes.saturating_mul(2));
    let printed = escape(text.get(..end).unwrap_or(text));
    if printed.len() <= bytes { printed } else { truncate(&printed, bytes) }
}

/// Returns the text of an error without the name of the temporary file that caused it. The name differs each
/// time.
pub fn without_path(error: &str) -> &str {
    error.split_once(" at path ").map_or(error, |(error, _)| error)
}

/// Returns an image reference of a request for people: escaped and cut to a limit.
pub fn image(reference: &str) -> String {
    match reference {
        "" => "\"\"".to_owned(),
        reference => escape_and_truncate(reference, limits::IMAGE_SHOWN.size()),
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
            ("no\u{a0}break", "no\\u{a0}break"),
            ("\u{3000}", "\\u{3000}"),
            ("nginx\u{2800}", "nginx\\u{2800}"),
            ("\u{1d159}\u{16fe4}", "\\u{1d159}\\u{16fe4}"),
            ("e\u{301}", "e\u{301}"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn a_json_document_has_the_same_value_and_controls_no_terminal() {
        let hostile = "\u{9b}31m\u{7f}\u{85}\u{202e}\u{2028}\u{e0001}\u{1b}\n\u{a0}";
        let value = serde_json::json!({ "ünïcode\u{200b}": ["plain › 𝕏", hostile] });
        for document in [value.to_string(), format!("{value:#}")] {
            let escaped = escape_json(&document);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
            assert!(escaped.chars().all(|c| c == '\n' || is_plain(c)), "{escaped:?}");
            assert!(escaped.contains("plain › 𝕏") && escaped.contains(r"\u009b31m\u007f\u0085"), "{escaped}");
            assert!(escaped.contains(r"\udb40\udc01"), "{escaped}");
        }
    }

    /// Compares with the table of a crate that follows the Unicode Character Database, so that a new version
    /// of the database fails here.
    #[test]
    fn no_character_is_printed_that_most_fonts_draw_as_nothing() {
        let class = regex_syntax::parse(r"\p{Default_Ignorable_Code_Point}").unwrap();
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = class.kind() else {
            panic!("{class:?}")
        };
        let mut tried = 0;
        for character in class.ranges().iter().flat_map(|range| range.start()..=range.end()) {
            assert!(!is_plain(character), "{}", character.escape_unicode());
            tried += 1;
        }
        assert!(tried > 4000, "{tried}");
        for known in ['\u{fe0f}', '\u{e0100}', '\u{180b}', '\u{17b4}', '\u{115f}', '\u{3164}', '\u{34f}'] {
            assert_eq!(escape(&known.to_string()), known.escape_unicode().to_string());
        }
    }

    #[test]
    fn the_name_of_a_file_can_forge_no_line() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let name = b"policies/x\n[+]forged ok\n\x1b[31mred\xff\xe2\x80\xae.wasm";
        assert_eq!(
            path(Path::new(OsStr::from_bytes(name))),
            "policies/x\\u{a}[+]forged ok\\u{a}\\u{1b}[31mred\\xff\\u{202e}.wasm"
        );
    }

    #[test]
    fn a_cut_ends_on_a_character() {
        assert_eq!(truncate("äöü", 6), "äöü");
        assert_eq!(truncate("äöüß", 6), "ä…");
        assert_eq!(truncate("abcdefgh", 5), "ab…");
        assert_eq!(truncate("abc", 0), "");
        assert_eq!(image(""), "\"\"");
        assert!(image(&"\n".repeat(100_000)).len() <= 256);
    }
}
