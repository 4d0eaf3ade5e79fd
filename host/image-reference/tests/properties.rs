//! Patterns against a model that is slow and plain.

use image_reference::{Image, Nearest, Pattern, Patterns, Reference, Separation};
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

/// Few registries too, most of which some wildcard means.
fn pattern() -> impl Strategy<Value = String> {
    let version = prop_oneof![
        Just(String::new()),
        "[ab]\\*?".prop_map(|tag| format!(":{tag}")),
        Just(format!("@{DIGEST}"))
    ];
    ("(\\*\\.|\\*a\\.|a\\*\\.)?([ab]\\.|\\*\\.)?a\\.io(:5|:443)?", pattern_path(), version)
        .prop_map(|(registry, path, version)| (registry, path.join("/"), version))
        .prop_map(|(registry, path, version)| match path.ends_with("**") {
            true => format!("{registry}/{path}"),
            false => format!("{registry}/{path}{version}"),
        })
}

/// Names that are no image in normal form among them.
fn image() -> impl Strategy<Value = Image> {
    let repository = prop_oneof![9 => image_path().prop_map(|path| path.join("/")), 1 => "[a/]{0,4}"];
    let digest = prop::option::weighted(0.2, Just(DIGEST.to_owned()));
    ("([ab-]{0,2}\\.)?([ab]\\.)?a\\.io(:5)?", repository, prop::option::of("[ab]{1,2}"), digest).prop_map(
        |(registry, repository, tag, digest)| Image {
            original: String::new(),
            registry,
            repository,
            tag,
            digest,
        },
    )
}

fn of<'a>(
    registry: &'a str,
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
) -> Reference<'a> {
    Reference { registry, repository, tag, digest }
}

const DIGEST: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// Parses a pattern; a mistake fails the case.
fn parse(text: &str) -> Result<Pattern, TestCaseError> {
    Pattern::parse(text).map_err(|error| TestCaseError::fail(error.to_string()))
}

/// Parses patterns; a mistake fails the case.
fn parse_all(texts: &[String]) -> Result<Vec<Pattern>, TestCaseError> {
    texts.iter().map(|text| parse(text)).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_index_finds_what_a_walk_finds(patterns in prop::collection::vec(pattern(), 0..30),
        image in image()) {
        let list: Vec<_> = parse_all(&patterns)?;
        let image = image.reference();
        let Reference { registry, repository, .. } = image;
        let walk = |means: &dyn Fn(&Pattern) -> bool| list.iter().filter(|p| means(p))
            .map(Pattern::as_str).collect::<Vec<_>>();
        let texts = |found: Vec<&Pattern>|
            found.into_iter().map(|p| p.as_str().to_owned()).collect::<Vec<_>>();
        let indexed = Patterns::new(list.clone());

        let first = indexed.first_match(&image).map(std::ptr::from_ref);
        let position = list.iter().position(|p| p.matches(&image));
        prop_assert_eq!(indexed.matches(&image), first.is_some());
        prop_assert_eq!(first, position.map(|position| std::ptr::from_ref(&indexed.all()[position])));
        let walked = walk(&|p| p.matches_name(registry, repository));
        prop_assert_eq!(texts(indexed.of_name(registry, repository)), walked);
        prop_assert_eq!(texts(indexed.of_registry(registry)), walk(&|p| p.matches_registry(registry)));
    }

    #[test]
    fn paths_match_as_the_model_says(pattern in pattern_path(), path in image_path()) {
        let text = format!("r.io/{}", pattern.join("/"));
        let parsed = Pattern::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(parsed.matches(&of("r.io", &path.join("/"), None, None)),
            model_path(&pattern, &path));
        prop_assert!(!parsed.matches(&of("s.io", &path.join("/"), None, None)));
    }

    #[test]
    fn tags_match_as_the_model_says(pattern in "[ab](\\*?[ab]){0,4}\\*?|\\*([ab]\\*?){0,4}",
        tag in "[ab]{0,8}") {
        let parsed = parse(&format!("r.io/x:{pattern}"))?;
        prop_assert_eq!(parsed.matches(&of("r.io", "x", Some(&tag), None)),
            model(pattern.as_bytes(), tag.as_bytes()));
        // `:*` is any version, and another tag says nothing of an image with a digest.
        prop_assert_eq!(parsed.matches(&of("r.io", "x", Some(&tag), Some("sha256:00"))), pattern == "*");
    }

    /// Each label is compared by itself, so no `*` meets a dot or a slash.
    #[test]
    fn hosts_match_as_the_model_says(
        pattern in "(\\*|[ab]\\*?|\\*[ab]|[ab])(\\.(\\*|[ab])){0,3}\\.a\\.io",
        host in "[ab]{1,2}(\\.[ab]{1,2}){0,4}\\.io",
    ) {
        let parsed = parse(&format!("{pattern}/x"))?;
        let (globs, labels): (Vec<&str>, Vec<&str>) =
            (pattern.split('.').collect(), host.split('.').collect());
        let equal = globs.len() == labels.len()
            && globs.iter().zip(&labels).all(|(glob, label)| model(glob.as_bytes(), label.as_bytes()));
        prop_assert_eq!(parsed.matches(&of(&host, "x", None, None)), equal);
        let path = format!("{host}/x");
        prop_assert!(!parsed.matches(&of("r.io", &path, None, None)));
    }

    /// A list that denies means at least what the patterns mean, and pinning an image by a digest hides it
    /// from none.
    #[test]
    fn a_list_that_denies_means_no_less(patterns in prop::collection::vec(pattern(), 0..30),
        image in image()) {
        let list: Vec<_> = parse_all(&patterns)?;
        let (plain, denying) = (Patterns::new(list.clone()), Patterns::denying(list));
        let image = image.reference();
        prop_assert!(denying.matches(&image) || !plain.matches(&image));
        if image.tag.is_some() {
            let pinned = Reference { digest: Some(DIGEST), ..image };
            prop_assert!(denying.matches(&pinned) || !denying.matches(&image));
        }
        for port in ["443", "80"] {
            let registry = format!("{}:{port}", image.registry);
            prop_assert_eq!(denying.matches(&Reference { registry: &registry, ..image }),
                denying.matches(&image));
        }
    }

    /// The nearest pattern is no match, and has what it is said to have.
    #[test]
    fn the_nearest_pattern_is_separated_by_what_is_said(patterns in prop::collection::vec(pattern(), 0..30),
        image in image()) {
        use Separation::{Deeper, Port, Registry, Shorter, TagBesideDigest, Typo, Version};
        let list: Vec<_> = parse_all(&patterns)?;
        let indexed = Patterns::new(list);
        let image = image.reference();
        if indexed.matches(&image) || image.repository.split('/').any(str::is_empty) {
            return Ok(());
        }
        let Some(Nearest { pattern, by }) = indexed.nearest(&image) else { return Ok(()) };
        prop_assert!(!pattern.matches(&image));
        let (same_host, same_name) =
            (pattern.matches_registry(image.registry),
                pattern.matches_name(image.registry, image.repository));
        prop_assert_eq!(same_name, matches!(by, Version | TagBesideDigest), "{} {:?}", pattern, by);
        prop_assert_eq!(same_host, matches!(by, Version | TagBesideDigest | Deeper(_) | Shorter(_)),
            "{} {:?}", pattern, by);
        if matches!(by, Port | Registry | Typo) {
            prop_assert!(pattern.matches_name(&pattern.registry().replace('*', "a"), image.repository));
        }
    }

    #[test]
    fn an_image_written_as_a_pattern_matches_itself_alone(path in image_path(), other in image_path()) {
        let parsed = parse(&format!("r.io/{}", path.join("/")))?;
        prop_assert!(parsed.matches(&of("r.io", &path.join("/"), Some("latest"), None)));
        prop_assert_eq!(parsed.matches(&of("r.io", &other.join("/"), Some("latest"), None)), path == other);
    }

    #[test]
    fn no_text_is_too_strange(text in any::<String>(), image in any::<[String; 2]>(),
        tag in any::<Option<String>>()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            pattern.matches(&of(&image[0], &image[1], tag.as_deref(), tag.as_deref()));
        }
    }

    #[test]
    fn what_nearly_is_a_pattern_is_read_or_refused_in_one_line(
        text in "[aA1.*:/@_\\[\\]-]{0,20}\
            |(\\*\\.)?[a.]{1,4}(:[0-9]{0,5})?(/[a*_.-]{0,4}){0,3}(:[a*.]{0,3})?") {
        match Pattern::parse(&text) {
            Ok(pattern) => prop_assert_eq!(pattern.to_string(), text),
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!message.is_empty() && message.lines().count() == 1, "{}", message);
            }
        }
    }
}
