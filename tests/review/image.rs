//! Image references: the meaning of each spelling, and properties of all spellings. Tests of `host::image`
//! alone belong here; a new corner case is a row of `cases/references.json`.

use host::image::{Image, ImageError, MAX_REFERENCE};
use proptest::prelude::*;

/// A row: the fields of `input` in normal form, or `error`, with the `message` if its wording matters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    input: String,
    #[serde(default)]
    error: bool,
    message: Option<String>,
    registry: Option<String>,
    repository: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
    /// The reason for the row, if the input does not show it.
    why: Option<String>,
}

impl Row {
    /// Returns the difference between the parser's result and this row, or None.
    fn difference(&self) -> Option<String> {
        let expected = match (self.error, &self.registry, &self.repository) {
            (false, Some(registry), Some(repository)) => Some(Image {
                original: self.input.clone(),
                registry: registry.clone(),
                repository: repository.clone(),
                tag: self.tag.clone(),
                digest: self.digest.clone(),
            }),
            (true, None, None) => None,
            _ => return Some("the row says neither or both of fields and error".to_owned()),
        };
        match (Image::parse(&self.input), expected) {
            (Ok(image), Some(expected)) if image == expected => again(&image).err(),
            (Ok(image), expected) => Some(format!("gives {image:?}, not {expected:?}")),
            (Err(error), None) => {
                let said = error.to_string();
                let differs = self.message.as_ref().is_some_and(|message| *message != said);
                differs.then(|| format!("says `{said}`, not {:?}", self.message)).or(unfit(&error))
            }
            (Err(error), Some(_)) => Some(format!("is refused: {error}")),
        }
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/references.json");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Row> = serde_json::from_str(&text).unwrap();
    let differing: Vec<String> = rows
        .iter()
        .filter_map(|row| Some((row, row.difference()?)))
        .map(|(row, difference)| {
            let why = row.why.as_deref().unwrap_or_default();
            format!("{:?} {difference} {why}", row.input)
        })
        .collect();
    assert!(differing.is_empty(), "{} of {} rows:\n{}", differing.len(), rows.len(), differing.join("\n"));
}

/// Prints and parses again. Returns an error unless all fields but `original` are the same.
fn again(image: &Image) -> Result<(), String> {
    let printed = image.to_string();
    let parsed = printed.parse::<Image>().map_err(|error| format!("{printed:?} is refused: {error}"))?;
    let expected = Image { original: printed.clone(), ..image.clone() };
    if parsed == expected { Ok(()) } else { Err(format!("{printed:?} gives {parsed:?}, not {expected:?}")) }
}

/// Returns the property that makes an error unfit for a line of kubectl: unlimited, several lines, raw
/// control characters.
fn unfit(error: &ImageError) -> Option<String> {
    let message = error.to_string();
    let raw = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}')
    };
    (message.len() > 1024 || message.contains(raw)).then(|| format!("unfit message {message:?}"))
}

/// Checks the properties of every text, parsed or rejected.
fn holds_for(reference: &str) -> Result<(), TestCaseError> {
    let image = match Image::parse(reference) {
        Ok(image) => image,
        Err(error) => {
            prop_assert_eq!(unfit(&error), None);
            return Ok(());
        }
    };
    prop_assert_eq!(&image.original, reference);
    prop_assert_eq!(again(&image), Ok(()));

    let printed = image.to_string();
    prop_assert!(printed.bytes().all(|b| b.is_ascii_graphic()), "{printed:?} is not plain ASCII");
    prop_assert!(printed.len() < 1024, "{} bytes in normal form", printed.len());
    prop_assert!(!image.registry.is_empty());
    prop_assert!(!image.registry.bytes().any(|b| b.is_ascii_uppercase() || b"/@_".contains(&b)));
    prop_assert_ne!(&image.registry, "index.docker.io");
    prop_assert!((1..=255).contains(&image.repository.len()));
    prop_assert!(!image.repository.bytes().any(|b| b.is_ascii_uppercase() || b":@".contains(&b)));
    prop_assert!(image.registry != "docker.io" || image.repository.contains('/'));
    prop_assert!(
        image.tag.as_ref().is_none_or(|tag| (1..=128).contains(&tag.len()) && !tag.contains([':', '/']))
    );
    prop_assert!(image.tag.is_some() || image.digest.is_some());
    let lengths = [("sha256:", 64), ("sha384:", 96), ("sha512:", 128)];
    let whole = |digest: &String| {
        lengths.iter().any(|(name, digits)| digest.strip_prefix(name).is_some_and(|hex| hex.len() == *digits))
    };
    prop_assert!(image.digest.as_ref().is_none_or(whole), "{:?}", image.digest);
    Ok(())
}

fn registry() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just(String::new()), (1..=u16::MAX).prop_map(|port| format!(":{port}"))];
    // The last label is no number: such a host is an address or invalid.
    let name = "([a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\\.){1,4}[a-z]([a-z0-9-]{0,8}[a-z0-9])?";
    let address = prop_oneof![
        // An IPv4 address written as IPv6 and the unspecified address are rejected. Neither is generated.
        (1..=u16::MAX, any::<[u16; 7]>()).prop_map(|(first, rest)| {
            let [b, c, d, e, f, g, h] = rest;
            std::net::Ipv6Addr::new(first, b, c, d, e, f, g, h).to_string()
        }),
        Just("::1".to_owned()),
        Just("2001:db8::8:800".to_owned()),
    ];
    let host = prop_oneof![
        3 => name,
        1 => address.prop_map(|address| format!("[{address}]")),
        1 => Just("localhost".to_owned()),
        1 => Just("docker.io".to_owned()),
    ];
    (host, port).prop_map(|(host, port)| host + &port)
}

fn repository() -> impl Strategy<Value = String> {
    let component = "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,3}";
    prop::collection::vec(component, 1..=5).prop_map(|components| components.join("/"))
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof!["sha256:[0-9a-f]{64}", "sha384:[0-9a-f]{96}", "sha512:[0-9a-f]{128}"]
}

/// Generates references of the grammar, in parts: registry, repository, tag, digest.
fn parts() -> impl Strategy<Value = (String, String, Option<String>, Option<String>)> {
    let tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    (registry(), repository(), prop::option::of(tag), prop::option::of(digest()))
}

fn written(registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> String {
    let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
    format!("{registry}/{repository}{tag}{digest}")
}

/// Generates references of the grammar with one character inserted, removed or replaced, as by a typing
/// error.
fn nearly() -> impl Strategy<Value = String> {
    let likely = prop::sample::select("./:@[]-_+$%AZ09 \n".chars().collect::<Vec<_>>());
    let slip = prop::option::of(prop_oneof![any::<char>(), likely]);
    (parts(), any::<prop::sample::Index>(), 0..=1_usize, slip).prop_map(|(parts, at, taken_out, put_in)| {
        let (registry, repository, tag, digest) = parts;
        let reference = written(&registry, &repository, tag.as_deref(), digest.as_deref());
        let mut characters: Vec<char> = reference.chars().collect();
        let at = at.index(characters.len());
        characters.splice(at..at + taken_out, put_in);
        characters.into_iter().collect()
    })
}

proptest! {
    // Findings become rows of the table, so no file of seeds is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reference_of_the_grammar_gives_its_parts((registry, repository, tag, digest) in parts()) {
        let reference = written(&registry, &repository, tag.as_deref(), digest.as_deref());
        let image = Image::parse(&reference).unwrap();
        let official = registry == "docker.io" && !repository.contains('/');
        let repository = if official { format!("library/{repository}") } else { repository };
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        prop_assert_eq!(&image, &Image { original: reference.clone(), registry, repository, tag, digest });
        holds_for(&reference)?;
    }

    #[test]
    fn a_short_reference_is_of_docker_hub(first in "[a-z0-9]{1,8}(_[a-z0-9]{1,8})?", rest in repository()) {
        for repository in [first.clone(), format!("{first}/{rest}")] {
            let short = Image::parse(&repository).unwrap();
            for registry in ["docker.io", "index.docker.io"] {
                let long = Image::parse(&format!("{registry}/{repository}:latest")).unwrap();
                prop_assert_eq!(&short, &Image { original: short.original.clone(), ..long });
            }
        }
    }

    #[test]
    fn nearly_a_reference_is_read_or_refused(reference in nearly()) {
        holds_for(&reference)?;
    }

    #[test]
    fn text_of_the_alphabet_is_read_or_refused(reference in "[a-cA-C0-1./:@\\[\\]_-]{0,24}") {
        holds_for(&reference)?;
    }

    #[test]
    fn any_text_is_read_or_refused(reference in any::<String>()) {
        holds_for(&reference)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        holds_for(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn a_long_text_is_refused_in_few_words(character in any::<char>(), length in 200..2 * MAX_REFERENCE) {
        let long: String = std::iter::repeat_n(character, length).collect();
        for around in ["{}", "{}.x/a", "a.b:{}/a", "a.b/{}", "a:{}", "a@{}", "a@sha256:{}", "{}://a", "${}"] {
            holds_for(&around.replace("{}", &long))?;
        }
    }
}

#[test]
fn what_a_runtime_would_take_for_an_image_id_is_refused_before_it_is_judged() {
    let refused = |reference| host::image::refuse_image_id(reference).is_err();
    let long = format!("sha256:{}", "f".repeat(64));
    for reference in ["sha256:ffff", "sha512:abcdef0123456789", &long] {
        assert!(refused(reference), "{reference}");
    }
    for reference in
        ["nginx", "sha256", "docker.io/library/sha256:ffff", "nginx@sha256:ffff", "a/sha256:ffff"]
    {
        assert!(!refused(reference), "{reference}");
    }
}

/// limit: reference within, reference breaks
#[test]
fn a_reference_has_a_limit() {
    let refusal = |bytes: usize| Image::parse(&"a".repeat(bytes)).unwrap_err().to_string();
    assert!(!refusal(4096).contains("4096"), "{}", refusal(4096));
    assert_eq!(refusal(4097), "the image reference has 4097 bytes: at most 4096 are allowed");
}
