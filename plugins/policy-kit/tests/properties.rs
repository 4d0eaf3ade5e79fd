//! Patterns against a model that is slow and plain.

use policy_kit::{Pattern, Patterns};
use proptest::prelude::*;

/// Tries everything.
fn model(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            model(rest, text) || text.split_first().is_some_and(|(_, shorter)| model(pattern, shorter))
        }
        ([p, pattern @ ..], [t, text @ ..]) => p == t && model(pattern, text),
        _ => false,
    }
}

fn model_path(pattern: &[String], path: &[String]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([last], [_, ..]) if last == "**" => true,
        ([p, pattern @ ..], [s, path @ ..]) => model(p.as_bytes(), s.as_bytes()) && model_path(pattern, path),
        _ => false,
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

/// Few letters and short texts: so that patterns and images often meet.
fn pattern_path() -> impl Strategy<Value = Vec<String>> {
    let segment = "[ab](\\*?[ab]){0,3}\\*?|\\*([ab]\\*?){0,3}";
    (prop::collection::vec(segment, 0..3), prop::bool::ANY).prop_map(|(mut path, deep)| {
        if deep || path.is_empty() {
            path.push("**".to_owned());
        }
        path
    })
}

fn image_path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]{1,5}", 1..4)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_index_finds_what_a_walk_finds(
        patterns in prop::collection::vec(("(\\*\\.)?[ab]\\.io", pattern_path()), 0..12),
        registry in "([ab]\\.)?[ab]\\.io",
        path in image_path(),
    ) {
        let text = |(registry, path): &(String, Vec<String>)| format!("{registry}/{}", path.join("/"));
        let parsed: Result<Vec<_>, _> = patterns.iter().map(text).map(|text| Pattern::parse(&text)).collect();
        let parsed = parsed.map_err(TestCaseError::fail)?;
        let path = path.join("/");
        let walked = parsed.iter().find(|pattern| pattern.matches(&registry, &path, None, None));
        let index = Patterns::new(parsed.clone());
        prop_assert_eq!(index.first_match(&registry, &path, None, None), walked);
    }

    #[test]
    fn paths_match_as_the_model_says(pattern in pattern_path(), path in image_path()) {
        let text = format!("r.io/{}", pattern.join("/"));
        let parsed = Pattern::parse(&text).map_err(TestCaseError::fail)?;
        prop_assert_eq!(parsed.matches("r.io", &path.join("/"), None, None), model_path(&pattern, &path));
        prop_assert!(!parsed.matches("s.io", &path.join("/"), None, None));
    }

    #[test]
    fn tags_match_as_the_model_says(pattern in "[ab](\\*?[ab]){0,4}\\*?|\\*([ab]\\*?){0,4}", tag in "[ab]{0,8}") {
        let parsed = Pattern::parse(&format!("r.io/x:{pattern}")).map_err(TestCaseError::fail)?;
        prop_assert_eq!(parsed.matches("r.io", "x", Some(&tag), None), model(pattern.as_bytes(), tag.as_bytes()));
        prop_assert!(!parsed.matches("r.io", "x", Some(&tag), Some("sha256:00")));
    }

    #[test]
    fn an_image_written_as_a_pattern_matches_itself_alone(path in image_path(), other in image_path()) {
        let parsed = Pattern::parse(&format!("r.io/{}", path.join("/"))).map_err(TestCaseError::fail)?;
        prop_assert!(parsed.matches("r.io", &path.join("/"), Some("latest"), None));
        prop_assert_eq!(parsed.matches("r.io", &other.join("/"), Some("latest"), None), path == other);
    }

    #[test]
    fn no_text_is_too_strange(text in any::<String>(), image in any::<[String; 2]>(), tag in any::<Option<String>>()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            pattern.matches(&image[0], &image[1], tag.as_deref(), tag.as_deref());
        }
    }

    #[test]
    fn what_nearly_is_a_pattern_is_read_or_refused_in_one_line(text in "[aA1.*:/@_\\[\\]-]{0,20}|(\\*\\.)?[a.]{1,4}(:[0-9]{0,5})?(/[a*_.-]{0,4}){0,3}(:[a*.]{0,3})?") {
        match Pattern::parse(&text) {
            Ok(pattern) => prop_assert_eq!(pattern.to_string(), text),
            Err(message) => prop_assert!(!message.is_empty() && message.lines().count() == 1, "{}", message),
        }
    }
}
