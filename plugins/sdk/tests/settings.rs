//! Every mistake in the settings is reported, with its place.

use std::collections::BTreeMap;

use image_policy::test::settings;
use image_policy::{Context, Decision, Image, Line, Malfunction, Mistakes, Pattern, Patterns, Policy};
use image_policy::{TagPattern, TextPosition, abstain, policy};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields are read only")]
struct Rules {
    #[serde(default)]
    patterns: Patterns,
    #[serde(default)]
    tags: Vec<TagPattern>,
    flag: Option<bool>,
    line: Option<Line<10>>,
    small: Option<u8>,
    signed: Option<i16>,
    ratio: Option<f64>,
    letter: Option<char>,
    mode: Option<Mode>,
    pair: Option<(String, u32)>,
    #[serde(default)]
    teams: BTreeMap<String, Team>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "the fields are read only")]
enum Mode {
    Off,
    Only(Pattern),
    Both { one: u8 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the fields are read only")]
struct Team {
    name: String,
    number: u32,
    owner: Line<20>,
}

macro_rules! abstains {
    ($($policy:ty)*) => {$(
        impl Policy for $policy {
            fn evaluate(&self, _: &Image, _: &Context) -> Result<Decision, Malfunction> {
                Ok(abstain("abstains", "it judges nothing"))
            }
        }
    )*};
}

abstains! { Rules Any Contradiction }

/// Any JSON.
#[derive(Debug, Deserialize)]
struct Any(serde_json::Value);

/// The mistakes, a line each.
fn told<P: Policy + std::fmt::Debug>(json: &str) -> Vec<String> {
    let mistakes = settings::<P>(json).err().unwrap_or_default();
    mistakes.iter().map(|mistake| format!("{}: {}", mistake.pointer, mistake.message)).collect()
}

#[test]
fn sound_settings_have_no_mistakes() {
    for json in [
        "{}",
        r#"{"patterns":["ghcr.io/**"],"tags":["latest"],"flag":false,"line":"ten bytes!"}"#,
        r#"{"line":"ten bytes!\n"}"#,
        r#"{"line":"ten bytes!\r\n"}"#,
        r#" {"p\u0061tterns" : [ "ghcr.io\/acme\/\u002a" ] } "#,
        r#"{"small":255,"signed":-32768,"ratio":1.5e3,"letter":"\ud83d\ude00","pair":["a",4294967295]}"#,
        r#"{"mode":"Off"}"#,
        r#"{"mode":{"Only":"ghcr.io/**"}}"#,
        r#"{"mode":{"Both":{"one":1}}}"#,
        r#"{"teams":{"shop":{"name":"Shop","number":0,"owner":"me"}}}"#,
    ] {
        assert_eq!(told::<Rules>(json), [""; 0], "{json}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place() {
    for (json, expected) in [
        ("[]", &[": wanted a mapping, found a list"][..]),
        (r#"{"patterns":"x"}"#, &["/patterns: wanted a list, found a string"]),
        (r#"{"patterns":null}"#, &["/patterns: wanted a list, found null"]),
        (r#"{"flag":null}"#, &["/flag: null is no value: write one, or leave the key out"]),
        (
            r#"{"patterns":["\ud800"]}"#,
            &["/patterns/0: wanted a string of Unicode: an escape is half a character"],
        ),
        (r#"{"\ud800":1}"#, &["/\\ud800: wanted a string of Unicode: an escape is half a character"]),
        (r#"{"flag":"true"}"#, &["/flag: wanted true or false, found a string"]),
        (r#"{"line":1}"#, &["/line: wanted a string, found a number"]),
        (r#"{"line":" "}"#, &["/line: empty: write a line, or leave the key out"]),
        (r#"{"line":"a\nb"}"#, &["/line: wanted one line without control characters"]),
        (r#"{"line":"eleven byte"}"#, &["/line: 11 bytes: wanted at most 10"]),
        (r#"{"small":256}"#, &["/small: wanted a whole number from 0 to 255, found 256"]),
        (r#"{"small":1.0}"#, &["/small: wanted a whole number from 0 to 255, found 1.0"]),
        (r#"{"signed":-32769}"#, &["/signed: wanted a whole number from -32768 to 32767, found -32769"]),
        (r#"{"ratio":1e999}"#, &["/ratio: wanted a smaller number, found a number"]),
        (r#"{"letter":"ab"}"#, &["/letter: wanted a character, found `ab`"]),
        (r#"{"mode":"on"}"#, &["/mode: wanted Off or Only or Both, found `on`"]),
        (r#"{"mode":true}"#, &["/mode: wanted Off or Only or Both, found true or false"]),
        (r#"{"mode":{"Off":1}}"#, &["/mode/Off: wanted the name alone, found a mapping"]),
        (r#"{"mode":"Only"}"#, &["/mode: wanted a mapping of Off or Only or Both to its value"]),
        (
            r#"{"mode":{"Only":"nginx"}}"#,
            &["/mode/Only: a pattern begins with its registry: write `docker.io/library/nginx`"],
        ),
        (
            r#"{"mode":{"Both":{"one":-1}}}"#,
            &["/mode/Both/one: wanted a whole number from 0 to 255, found -1"],
        ),
        (r#"{"pair":["a"]}"#, &["/pair: wanted a tuple of size 2, found 1 items"]),
        (r#"{"pair":["a",1,2]}"#, &["/pair: 1 items too many"]),
        (
            r#"{"a/b~c":1}"#,
            &["/a~1b~0c: unknown key `a/b~c`: valid here: patterns, tags, flag, line, small, \
            signed, ratio, letter, mode, pair, teams"],
        ),
        (r#"{"patern":1}"#, &["/patern: unknown key `patern`: did you mean `patterns`?"]),
        (r#"{"flag":true,"flag":false}"#, &[": the key `flag` is there twice"]),
        // All at once, in the order of the text; a list item keeps its number.
        (
            r#"{"patterns":["nginx","ghcr.io/**","ghcr.io"],"tags":["-"],"flag":{},"extra":1}"#,
            &[
                "/patterns/0: a pattern begins with its registry: write `docker.io/library/nginx`",
                "/patterns/2: a registry without a path: for all of it write `ghcr.io/**`",
                "/tags/0: `-` is no tag: it is at most 128 letters, digits, `_`, `.` and `-`, the first no \
                    `.` or `-`",
                "/flag: wanted true or false, found a mapping",
                "/extra: unknown key `extra`: valid here: patterns, tags, flag, line, small, signed, ratio, \
                    letter, mode, pair, teams",
            ],
        ),
        // Missing keys too, and none that was taken out; a pair without an item is no pair of its own fault.
        (
            r#"{"teams":{"a":{"owner":"x"},"b":{"name":1,"number":2},"c":1},"pair":[1,"x"]}"#,
            &[
                "/teams/a: the key `name` is missing",
                "/teams/a: the key `number` is missing",
                "/teams/b/name: wanted a string, found a number",
                "/teams/b: the key `owner` is missing",
                "/teams/c: wanted a mapping, found a number",
                "/pair/0: wanted a string, found a number",
                "/pair/1: wanted a number, found a string",
            ],
        ),
    ] {
        assert_eq!(told::<Rules>(json), expected, "{json}");
    }
}

#[test]
fn mistakes_are_few_and_their_texts_short() {
    let json = format!(r#"{{"patterns":[{}]}}"#, vec!["1"; 500].join(","));
    assert_eq!(settings::<Rules>(json).unwrap_err().len(), 32);
    let json = format!(r#"{{"{}":1}}"#, "k".repeat(5000));
    let [mistake] =
        <[_; 1]>::try_from(settings::<Rules>(json).unwrap_err().into_iter().collect::<Vec<_>>()).unwrap();
    assert!(mistake.pointer.len() == 5001 && mistake.message.len() < 250, "{mistake:?}");
    // Large settings are not read again for every mistake.
    let patterns = vec![r#""ghcr.io/acme/**""#; 50_000].join(",");
    let json = format!(r#"{{"patterns":[1,{patterns},2,3,4,5,6]}}"#);
    let few = settings::<Rules>(json).unwrap_err().len();
    assert!((1..=4).contains(&few), "{few}");
}

#[test]
fn nested_without_end_is_a_mistake() {
    for json in ["[".repeat(100_000), format!("{}1{}", "[".repeat(65), "]".repeat(65))] {
        assert_eq!(told::<Any>(&json), [": nested deeper than 64 lists and mappings"]);
    }
    assert!(settings::<Any>(format!("{}1{}", "[".repeat(64), "]".repeat(64))).is_ok());
}

/// Two settings that contradict each other.
#[derive(Debug, Deserialize)]
#[serde(try_from = "BTreeMap<String, bool>")]
struct Contradiction;

impl TryFrom<BTreeMap<String, bool>> for Contradiction {
    type Error = &'static str;

    fn try_from(flags: BTreeMap<String, bool>) -> Result<Self, Self::Error> {
        if flags.is_empty() { Err("no flag") } else { Ok(Contradiction) }
    }
}

#[test]
fn a_consequence_of_a_mistake_is_none() {
    assert_eq!(told::<Contradiction>("{}"), [": no flag"]);
    assert_eq!(told::<Contradiction>(r#"{"a":1}"#), ["/a: wanted true or false, found a number"]);
}

/// A policy whose settings are a text in a language of its own.
#[derive(Debug, Deserialize)]
struct Text {
    rules: String,
}

impl Policy for Text {
    fn evaluate(&self, _: &Image, _: &Context) -> Result<Decision, Malfunction> {
        Err("it has no rules")?
    }

    fn check(&self, mistakes: &mut Mistakes) {
        for (line, _) in (1..).zip(self.rules.lines()).filter(|(_, text)| *text == "deny") {
            mistakes.add_in_text("/rules", TextPosition { line, column: 5 }, "deny what?");
        }
    }
}

policy!(Text);

#[test]
fn a_policy_checks_its_settings_itself() {
    let mistakes = settings::<Text>(r#"{"rules":"allow all\ndeny\n"}"#).unwrap_err();
    let positions: Vec<_> = mistakes.iter().map(|mistake| mistake.position).collect();
    assert_eq!(positions, [Some(TextPosition { line: 2, column: 5 })]);
    assert_eq!(mistakes.to_string(), "/rules: deny what?");
    let text: Text = settings(serde_json::json!({ "rules": "" })).unwrap();
    let image = image_policy::test::image("nginx");
    assert_eq!(text.evaluate(&image, &Context::default()).unwrap_err().message(), "it has no rules");
}

proptest! {
    /// The reader takes the JSON that `serde_json` takes, with the same values.
    #[test]
    fn json_is_that_of_serde_json(text in json_like()) {
        let ours = settings::<Any>(&text).map(|Any(value)| value);
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => prop_assert_eq!(ours.ok(), Some(value), "{}", text),
            Err(_) => prop_assert!(ours.is_err(), "{text}"),
        }
    }
}

/// Texts that are JSON or nearly so.
fn json_like() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"\"",
        "\"\\u00e9\\n\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\x\"",
        "\"é\"",
        "\"\u{1}\"",
        "0",
        "-0",
        "-",
        "01",
        "10",
        "1.5",
        "1.",
        "1e3",
        "1E-2",
        "1e",
        ".5",
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "true",
        "false",
        "null",
        "nul",
        " ",
        "\n",
        "\u{a0}",
    ]);
    let loose = prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat());
    let leaf = prop::sample::select(vec!["1", "-2.5", "\"a\\\"b\"", "null", "true", "{}", "[]", "x"]);
    let nested = leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {} ]", items.join(", "))),
            prop::collection::vec(inner, 0..4).prop_map(|items| {
                let member = |(number, item)| format!("\"k{number}\" :{item}");
                format!("{{{}}}", items.iter().enumerate().map(member).collect::<Vec<_>>().join(","))
            }),
        ]
    });
    prop_oneof![loose, nested]
}
