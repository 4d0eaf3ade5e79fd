//! Every mistake in the settings is told, with its place.

use policy_kit::contract::SettingsError;
use policy_kit::settings::Settings;
use policy_kit::{Pattern, TagPattern};

fn mistakes(json: &str) -> Vec<(String, String)> {
    let read = || {
        let mut settings = Settings::read(json)?;
        settings.list("patterns", Pattern::parse);
        settings.list("tags", TagPattern::parse);
        settings.flag("flag");
        settings.line("line", 10);
        settings.finish(())
    };
    let told = |SettingsError { pointer, message, .. }| (pointer, message);
    read().err().unwrap_or_default().into_iter().map(told).collect()
}

#[test]
fn sound_settings_have_no_mistakes() {
    assert_eq!(mistakes("{}"), []);
    assert_eq!(
        mistakes(r#"{"patterns":["ghcr.io/**"],"tags":["latest"],"flag":false,"line":"ten bytes!"}"#),
        []
    );
    assert_eq!(mistakes(r#" {"p\u0061tterns" : [ "ghcr.io\/acme\/\u002a" ] } "#), []);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    for (json, expected) in [
        ("", vec![("", "not JSON")]),
        ("[]", vec![("", "wanted a mapping, found a list")]),
        (r#"{"patterns":"x"}"#, vec![("/patterns", "wanted a list of strings, found a string")]),
        (r#"{"patterns":null}"#, vec![("/patterns", "wanted a list of strings, found null")]),
        (r#"{"patterns":["\ud800"]}"#, vec![("/patterns/0", "wanted a string of Unicode")]),
        (r#"{"flag":"true"}"#, vec![("/flag", "wanted true or false, found a string")]),
        (r#"{"line":1}"#, vec![("/line", "wanted a string, found a number")]),
        (r#"{"line":" "}"#, vec![("/line", "empty")]),
        (r#"{"line":"a\nb"}"#, vec![("/line", "wanted one line")]),
        (r#"{"line":"eleven byte"}"#, vec![("/line", "11 bytes: wanted at most 10")]),
        (r#"{"a/b~c":1}"#, vec![("/a~1b~0c", "unknown key `a/b~c`: there are patterns, tags, flag, line")]),
        (
            r#"{"patterns":["ghcr.io/**","nginx",7],"tags":["-"],"flag":{},"extra":1}"#,
            vec![
                ("/patterns/1", "write `docker.io/library/nginx`"),
                ("/patterns/2", "wanted a string, found a number"),
                ("/tags/0", "is no tag"),
                ("/flag", "wanted true or false, found a mapping"),
                ("/extra", "unknown key `extra`"),
            ],
        ),
    ] {
        let found = mistakes(json);
        let places =
            |list: &[(&str, &str)]| list.iter().map(|(place, _)| place.to_string()).collect::<Vec<_>>();
        assert_eq!(
            found.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>(),
            places(&expected),
            "{json}"
        );
        for ((_, message), (_, part)) in found.iter().zip(&expected) {
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}

#[test]
fn a_key_is_cut_in_the_message_only() {
    let key = "k".repeat(5000);
    let [(pointer, message)] = mistakes(&format!(r#"{{"{key}":1}}"#)).try_into().unwrap();
    assert!(pointer.len() == 5001 && message.len() < 200);
}

#[test]
fn nested_without_end_is_a_mistake() {
    let json = format!(r#"{{"flag":{}"#, "[".repeat(100_000));
    assert!(mistakes(&json)[0].1.contains("not JSON"));
    let json = format!(r#"{{"flag":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(mistakes(&json)[0].1.contains("found a list"));
}
