//! Tables of patterns: what matches what, and what is refused with which words.

use image_reference::{Image, Pattern, Patterns, Reference, TagPattern, shorten};

const MATCHES: &str = include_str!("matches.txt");
const ADDRESSES: &str = include_str!("addresses.txt");
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

/// A registry has one spelling: what a runtime would dial to the same place is refused, and a reference and a
/// pattern take the same registries. `cannot be read` stands for a message about something before the
/// registry.
#[test]
fn a_registry_has_one_spelling_in_references_and_patterns() {
    let mut differing = Vec::new();
    for row in rows(ADDRESSES) {
        let [registry, expected] = row.as_slice() else { panic!("{row:?}") };
        let text = format!("{registry}/x");
        let reference = Image::parse(&text).map(|image| image.registry).map_err(|error| error.to_string());
        let pattern = Pattern::parse(&text)
            .map(|pattern| pattern.registry().to_owned())
            .map_err(|error| error.to_string());
        for read in [reference, pattern] {
            let holds = match &read {
                Ok(read) => expected == "ok" && read == registry,
                Err(_) if expected == "cannot be read" => true,
                Err(message) => message.contains(expected.as_str()),
            };
            if !holds {
                differing.push(format!("{registry}: {read:?}, not {expected}"));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn a_pattern_prints_as_it_was_written() {
    for row in rows(MATCHES) {
        assert_eq!(Pattern::parse(&row[0]).unwrap().to_string(), row[0]);
    }
}

#[test]
fn a_mistake_says_what_to_write() {
    let mut differing = Vec::new();
    for row in rows(MISTAKES) {
        let [pattern, expected] = row.as_slice() else { panic!("{row:?}") };
        match Pattern::parse(pattern) {
            Ok(_) => differing.push(format!("{pattern} is a pattern")),
            Err(error) => {
                let message = error.to_string();
                let fit = message.lines().count() == 1 && message.len() < 400;
                if !fit || !message.contains(expected.as_str()) {
                    differing.push(format!("{pattern}: {message}\n    not: {expected}"));
                }
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// Whoever follows the advice ends with a pattern, in a few steps. Advice about a part (a segment, a port) is
/// not followed, nor about what has two mistakes.
#[test]
fn advice_leads_to_a_pattern() {
    let mut followed = 0;
    for row in rows(MISTAKES).filter(|row| !row[0].contains("sha256:00")) {
        let mut message = Pattern::parse(&row[0]).unwrap_err().to_string();
        for step in 1.. {
            let Some((_, advice)) = message.split_once("write `") else { break };
            let advice = advice.split('`').next().unwrap();
            if !advice.contains('/') || row[0].contains("acme**") || advice.contains("OWNER") {
                break;
            }
            match Pattern::parse(advice) {
                Ok(_) => {
                    followed += 1;
                    break;
                }
                Err(next) => message = next.to_string(),
            }
            assert!(step < 4, "{}: {message}", row[0]);
        }
    }
    assert!(followed > 15, "{followed}");
}

#[test]
fn a_long_pattern_is_refused_and_a_long_mistake_cut() {
    assert!(Pattern::parse(&format!("ghcr.io/{}", "a".repeat(1016))).is_ok());
    assert!(
        Pattern::parse(&format!("ghcr.io/{}", "a".repeat(1017)))
            .unwrap_err()
            .to_string()
            .contains("at most 1024")
    );
    assert!(Pattern::parse(&format!("ghcr.io/acme:{}", "a".repeat(128))).is_ok());
    let message = Pattern::parse(&format!("ghcr.io/acme:{}", "a".repeat(129))).unwrap_err().to_string();
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
    assert!(TagPattern::parse("a b").unwrap_err().to_string().contains("is no tag"));
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

/// The image with the fields of a cell: `REGISTRY REPOSITORY TAG DIGEST`, `-` for none.
fn fields(cell: &str) -> Reference<'_> {
    let mut fields = cell.split(' ').map(|field| (field != "-").then_some(field));
    let mut next = || fields.next().flatten();
    let (registry, repository) = (next().unwrap_or_default(), next().unwrap_or_default());
    Reference { registry, repository, tag: next(), digest: next() }
}

#[test]
fn a_list_that_denies_holds_under_every_name() {
    for row in rows(include_str!("denies.txt")) {
        let [pattern, image, expected] = row.as_slice() else { panic!("{row:?}") };
        let list = Patterns::denying(vec![Pattern::parse(pattern).unwrap()]);
        let found = list.first_match(&fields(image));
        assert_eq!(found.is_some(), expected == "yes", "{row:?}");
        assert!(found.is_none_or(|found| found.as_str() == pattern), "{row:?}");
    }
}

#[test]
fn the_nearest_pattern_says_what_separates() {
    for row in rows(include_str!("nearest.txt")) {
        let [patterns, image, expected] = row.as_slice() else { panic!("{row:?}") };
        let list = patterns.split(' ').map(|text| Pattern::parse(text).unwrap()).collect();
        let found = Patterns::new(list);
        assert!(!found.matches(&fields(image)), "{row:?}");
        let found = found.nearest(&fields(image)).map(|near| format!("{} {:?}", near.pattern, near.by));
        assert_eq!(found.as_deref().unwrap_or("none"), expected, "{row:?}");
    }
}

#[test]
fn a_wildcard_in_the_place_of_an_owner_trusts_strangers() {
    for (pattern, expected) in [
        ("*.dkr.ecr.eu-west-1.amazonaws.com/**", Some("OWNER.dkr.ecr.*.amazonaws.com/**")),
        ("*.dkr.ecr.*.amazonaws.com/**", Some("OWNER.dkr.ecr.*.amazonaws.com/**")),
        ("1111*.dkr.ecr.eu-west-1.amazonaws.com/**", Some("OWNER.dkr.ecr.*.amazonaws.com/**")),
        ("*.dkr.ecr.*.amazonaws.com/my-team/**", Some("OWNER.dkr.ecr.*.amazonaws.com/**")),
        ("*.*.*.*.amazonaws.com/**", Some("OWNER.dkr.ecr.*.amazonaws.com/**")),
        ("*.dkr.ecr.cn-north-1.amazonaws.com.cn/**", Some("OWNER.dkr.ecr.*.amazonaws.com.cn/**")),
        ("111122223333.dkr.ecr.*.amazonaws.com/**", None),
        ("*.azurecr.io/**", Some("OWNER.azurecr.io/**")),
        ("*.azurecr.io/my-team/app", Some("OWNER.azurecr.io/**")),
        ("acme*.azurecr.io/**", Some("OWNER.azurecr.io/**")),
        ("*.azurecr.io:443/**", Some("OWNER.azurecr.io/**")),
        ("acme.azurecr.io/**", None),
        ("*.jfrog.io/**", Some("OWNER.jfrog.io/**")),
        ("*-docker.pkg.dev/**", Some("*-docker.pkg.dev/OWNER/**")),
        ("*-docker.pkg.dev/*/app", Some("*-docker.pkg.dev/OWNER/**")),
        ("*-docker.pkg.dev/my-*/app", Some("*-docker.pkg.dev/OWNER/**")),
        ("*.pkg.dev/**", Some("*-docker.pkg.dev/OWNER/**")),
        ("*-docker.pkg.dev/my-project/**", None),
        ("*.gcr.io/**", Some("*.gcr.io/OWNER/**")),
        ("*.gcr.io/my-project/**", None),
        ("eu.gcr.io/**", Some("eu.gcr.io/OWNER/**")),
        ("k8s.gcr.io/**", None),
        ("ghcr.io/**", Some("ghcr.io/OWNER/**")),
        ("ghcr.io/*/app", Some("ghcr.io/OWNER/**")),
        ("ghcr.io/acme/**", None),
        ("ghcr.io/acme/app", None),
        ("docker.io/**", Some("docker.io/OWNER/**")),
        ("docker.io/library/*", None),
        ("us-docker.pkg.dev/**", Some("us-docker.pkg.dev/OWNER/**")),
        ("us-docker.pkg.dev/my-project/**", None),
        ("us.pkg.dev/**", None),
        ("registry.k8s.io/**", None),
        ("registry.cn-hangzhou.aliyuncs.com/**", Some("registry.cn-hangzhou.aliyuncs.com/OWNER/**")),
        ("localhost:5000/**", None),
        ("*.corp.example/**", None),
        ("registry-*.corp.example/**", None),
    ] {
        assert_eq!(Pattern::parse(pattern).unwrap().trusts_strangers().as_deref(), expected, "{pattern}");
    }
}

#[test]
fn a_digest_has_the_digits_of_its_algorithm() {
    for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
        let parsed = |hex: &str| Image::parse(&format!("r.io/a@{algorithm}:{hex}"));
        let hex = "0123456789abcdef".repeat(8);
        let (whole, short) = (hex.get(..digits).unwrap(), hex.get(1..digits).unwrap());
        assert_eq!(parsed(whole).unwrap().digest.unwrap(), format!("{algorithm}:{whole}"));
        for wrong in [short, "", &whole.to_uppercase(), &format!("{short}g"), &format!("{whole}0")] {
            assert!(parsed(wrong).is_err(), "{algorithm}:{wrong}");
        }
    }
}
