//! Tables of patterns: what matches what, and what is refused with which words.

use image_reference::{Pattern, Reference, TagPattern, shorten};

const MATCHES: &str = include_str!("matches.txt");
const MISTAKES: &str = include_str!("mistakes.txt");

/// The rows of a table, without comments and empty lines, `@D`, ` D` and ` E` written out.
fn rows(table: &str) -> impl Iterator<Item = Vec<String>> {
    let (d, e) = (format!("sha256:{}", "d".repeat(64)), format!("sha256:{}", "e".repeat(64)));
    table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(move |line| {
        let line = line.replace("@D", &format!("@{d}")).replace(" D ", &format!(" {d} "));
        line.replace(" E ", &format!(" {e} ")).split(" | ").map(|cell| cell.trim().to_owned()).collect()
    })
}

#[test]
fn what_matches_what() {
    let given = |field: &str| (field != "-").then(|| field.to_owned());
    for row in rows(MATCHES) {
        let [pattern, image, expected] = row.as_slice() else { panic!("{row:?}") };
        let fields: Vec<&str> = image.split(' ').collect();
        let [registry, repository, tag, digest] = fields.as_slice() else { panic!("{row:?}") };
        let (tag, digest) = (given(tag), given(digest));
        let pattern = Pattern::parse(pattern).unwrap_or_else(|message| panic!("{row:?}: {message}"));
        let found = pattern.matches(&Reference {
            registry,
            repository,
            tag: tag.as_deref(),
            digest: digest.as_deref(),
        });
        assert_eq!(found, expected == "yes", "{row:?}");
    }
}

#[test]
fn a_pattern_prints_as_it_was_written() {
    for row in rows(MATCHES) {
        assert_eq!(Pattern::parse(&row[0]).unwrap().to_string(), row[0]);
    }
}

#[test]
fn a_mistake_says_what_to_write() {
    for row in rows(MISTAKES) {
        let [pattern, expected] = row.as_slice() else { panic!("{row:?}") };
        let message = Pattern::parse(pattern).expect_err(pattern);
        assert!(message.contains(expected.as_str()), "{pattern}: {message}");
        assert!(message.lines().count() == 1 && message.len() < 400, "{pattern}: {message}");
    }
}

/// Whoever follows the advice ends with a pattern, in a few steps. Advice about a part (a segment, a port) is not
/// followed, nor about what has two mistakes.
#[test]
fn advice_leads_to_a_pattern() {
    let mut followed = 0;
    for row in rows(MISTAKES).filter(|row| !row[0].contains("sha256:00")) {
        let mut message = Pattern::parse(&row[0]).unwrap_err();
        for step in 1.. {
            let Some((_, advice)) = message.split_once("write `") else { break };
            let advice = advice.split('`').next().unwrap();
            if !advice.contains('/') || row[0].contains("acme**") {
                break;
            }
            match Pattern::parse(advice) {
                Ok(_) => {
                    followed += 1;
                    break;
                }
                Err(next) => message = next,
            }
            assert!(step < 4, "{}: {message}", row[0]);
        }
    }
    assert!(followed > 15, "{followed}");
}

#[test]
fn a_long_pattern_is_refused_and_a_long_mistake_cut() {
    assert!(Pattern::parse(&format!("ghcr.io/{}", "a".repeat(1016))).is_ok());
    assert!(Pattern::parse(&format!("ghcr.io/{}", "a".repeat(1017))).unwrap_err().contains("at most 1024"));
    assert!(Pattern::parse(&format!("ghcr.io/acme:{}", "a".repeat(128))).is_ok());
    let message = Pattern::parse(&format!("ghcr.io/acme:{}", "a".repeat(129))).unwrap_err();
    assert!(message.contains('…') && message.len() < 300, "{message}");
}

#[test]
fn tags() {
    for (pattern, tag, expected) in [
        ("latest", "latest", true),
        ("latest", "latest-2", false),
        ("*", "x", true),
        ("*-dev", "1.0-dev", true),
        ("*-dev", "1.0-dev1", false),
        ("v*.*", "v1.2.3", true),
    ] {
        assert_eq!(TagPattern::parse(pattern).unwrap().matches(tag), expected, "{pattern} {tag}");
    }
    assert!(TagPattern::parse("a b").unwrap_err().contains("is no tag"));
}

#[test]
fn many_wildcards_take_linear_time() {
    fn of(repository: &str) -> Reference<'_> {
        Reference { registry: "ghcr.io", repository, tag: None, digest: None }
    }
    let pattern = Pattern::parse(&format!("ghcr.io/{}b", "a*".repeat(500))).unwrap();
    assert!(!pattern.matches(&of(&"a".repeat(1_000_000))));
    let deep = Pattern::parse("ghcr.io/**").unwrap();
    assert!(deep.matches(&of("a/".repeat(500_000).trim_end_matches('/'))));
}

#[test]
fn shortened_text_is_within_its_bound_and_printable() {
    assert_eq!(shorten("abc", 3), "abc");
    assert_eq!(shorten("abcd", 3), "ab…");
    assert_eq!(shorten("ααα", 2), "α…");
    assert_eq!(shorten("a\nb\u{7f}", 9), "a\u{fffd}b\u{fffd}");
}
