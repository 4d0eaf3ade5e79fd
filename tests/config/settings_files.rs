//! Settings in separate files: how they are followed, joined with those of host.yaml, and limited. Tests of
//! the command line's messages are in `cases/cli`.

use std::fs;
use std::path::Path;

use host::config::{Config, PolicyConfig};
use host::policy::manifest::Change;
use host::reload::Command;
use serde_json::{Value, json};

use crate::reload::candidate::{Installation, said};
use crate::support;

/// Returns a scripted policy whose settings are all in `lists.yaml`.
fn scripted(more: &str) -> String {
    let module = fs::canonicalize(support::scripted()).unwrap();
    format!("policies:\n- name: s\n  module: {}\n  settingsFrom: lists.yaml\n{more}", module.display())
}

pub(crate) fn says(reason: &str) -> String {
    format!("images:\n  '*': {{ outcome: allow, reason: {reason} }}\n")
}

#[test]
fn settings_of_a_file_are_followed_whole_or_not_at_all() {
    let installation = Installation::new(&scripted("stateDirectory: state"));
    let write = |text: &str| fs::write(installation.path("lists.yaml"), text).unwrap();
    write(&says("one"));
    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["s: one"]);
    write(&says("two"));
    started.reloader.reload();
    assert_eq!(
        (said(&started.policies), started.policies.current().number()),
        (vec!["s: two".to_owned()], 2)
    );
    let changes = started.status.current().history.last().unwrap().changes.clone();
    assert_eq!(changes.iter().map(Change::to_string).collect::<Vec<_>>(), ["s (settings)"]);

    let refused = "images: {}\nconfigure:\n  errors:\n  - { pointer: /configure/errors/0, message: wrong }\n";
    let in_a_text = "images:\n  a:\n    reason: |\n      one\nconfigure:\n  errors:\n  - { pointer: \
        /images/a/reason, message: wrong, position: [1, 2] }\n";
    for (text, expected) in [
        ("images: [", "lists.yaml:2:1: not valid YAML"),
        ("images: {}\nimages: {}\n", "lists.yaml:2:1: duplicate key `images`: the first is at 1:1"),
        ("", "lists.yaml:1:1: the file is empty: write `{}` if no settings are meant"),
        ("a: 1\n---\nb: 1\n", "lists.yaml:2:1: a second document begins here"),
        (refused, "lists.yaml:4:5: settings/configure/errors/0: wrong"),
        (in_a_text, "lists.yaml:4:8: settings/images/a/reason: wrong"),
    ] {
        write(text);
        started.reloader.reload();
        assert_eq!(said(&started.policies), ["s: two"]);
        let problems = installation.problems(&started);
        assert!(problems[0].starts_with(&format!("policy s: {expected}")), "{problems:?}");
    }
    fs::remove_file(installation.path("lists.yaml")).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["s: two"]);
    let expected = "policy s: lists.yaml: No such file or directory (os error 2): put it there, or name \
        another file (`settingsFrom` at host.yaml:9:17 names it)";
    assert!(
        installation.problems(&started)[0].starts_with(expected),
        "{:?}",
        installation.problems(&started)
    );

    write(&says("three"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["s: three"]);
    assert_eq!(installation.problems(&started), [""; 0]);

    // A rollback restores the settings that were in force, whatever the file holds now.
    started.reloader.execute(Command::Rollback { to: None }).unwrap();
    assert_eq!(said(&started.policies), ["s: two"]);
    drop(started);
    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["s: two"]);
    started.reloader.execute(Command::Release).unwrap();
    assert_eq!(said(&started.policies), ["s: three"]);
}

/// Adds a file to the settings of the only policy of a host.yaml.
fn joined(settings: Value, file: &str) -> Result<(Config, PolicyConfig), String> {
    let entry =
        json!({ "name": "a", "module": "a.wasm", "settings": settings, "settingsFrom": "lists.yaml" });
    let config = json!({ "policies": [entry] }).to_string();
    let config =
        Config::parse(Path::new("host.yaml"), config.as_bytes()).map_err(|error| error.to_string())?;
    let mut policy = config.policies[0].clone();
    policy
        .add_settings(Path::new("lists.yaml"), file.as_bytes(), &config)
        .map_err(|error| error.to_string())?;
    Ok((config, policy))
}

#[test]
fn lists_of_both_places_are_joined_and_anything_else_stands_in_one() {
    let own = json!({ "allow": ["a", "b"], "message": "ask", "m": { "x": 1 } });
    let (config, policy) = joined(own, "deny: [x]\nallow:\n- c\n- {d: 1}\n").unwrap();
    let expected =
        json!({ "allow": ["a", "b", "c", {"d": 1}], "deny": ["x"], "message": "ask", "m": { "x": 1 } });
    assert_eq!(policy.settings, expected);
    for (pointer, expected) in [
        ("/deny/0", "lists.yaml:1:8: settings/deny/0"),
        ("/allow/2", "lists.yaml:3:3: settings/allow/0"),
        ("/allow/3/d", "lists.yaml:4:7: settings/allow/1/d"),
        ("/nothing", "lists.yaml:1:1: settings/nothing"),
        ("", "host.yaml:1:55: settings"),
        ("/message", "settings/message"),
        ("/allow", "settings/allow"),
        ("/allow/1", "settings/allow/1"),
        ("/allow/9", "settings/allow/9"),
        ("/m/x", "settings/m/x"),
        ("/m/0", "settings/m/0"),
    ] {
        let found = config.locate_setting(&policy, pointer, None);
        assert!(found.ends_with(expected), "{pointer}: {found}");
        assert_eq!(found.starts_with("lists.yaml"), expected.starts_with("lists.yaml"), "{pointer}: {found}");
    }
    assert_eq!(joined(json!({}), "[1]").unwrap().1.settings, json!([1]));
    assert_eq!(joined(json!({}), r#"{"a": "\/"}"#).unwrap().1.settings, json!({ "a": "/" }));

    for (own, file, expected) in [
        (json!({ "a": 1 }), "b: 1\na: 1\n", "lists.yaml:2:1: `a` is set twice, also at host.yaml:1:"),
        (json!({ "a": {} }), "a: {}", "lists.yaml:1:1: `a` is set twice"),
        (json!({ "a": [] }), "a: x", "both must be lists to be joined"),
        (json!({ "a/b": 1 }), "a/b: 1", "lists.yaml:1:1: `a/b` is set twice"),
        (json!({ "a": 1 }), "[1]", "lists.yaml:1:1: expected a map, since it adds to the entry's `settings`"),
        (json!([1]), "a: 1", "host.yaml:1:"),
    ] {
        let error = joined(own, file).map(|(_, policy)| policy.settings).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// limit: settings-file within, settings-file breaks, settings-files within, settings-files breaks
#[test]
fn settings_files_have_limits() {
    let module = fs::canonicalize(support::scripted()).unwrap();
    let entries = ["a", "b", "c", "d", "e"].map(|name| {
        format!("- {{ name: {name}, module: {}, settingsFrom: {name}.yaml }}\n", module.display())
    });
    let installation = Installation::new(&format!("policies:\n{}", entries.concat()));
    let write = |name: &str, size: usize| {
        let text = says(name);
        fs::write(
            installation.path(&format!("{name}.yaml")),
            format!("{text}#{}", "x".repeat(size - text.len() - 1)),
        )
        .unwrap();
    };
    let limit = 4 << 20;
    ["a", "b", "c", "d"].iter().for_each(|name| write(name, limit));
    write("e", 100);
    let mut started = installation.start();
    let problems = installation.problems(&started);
    let expected =
        "policy e: e.yaml: with it the settings files of this host are larger than 16777216 bytes together";
    assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
    write("d", limit - 100);
    started.reloader.reload();
    assert_eq!(installation.problems(&started), [""; 0]);
    assert_eq!(said(&started.policies), ["a: a", "b: b", "c: c", "d: d", "e: e"]);
    write("a", limit + 1);
    started.reloader.reload();
    let problems = installation.problems(&started);
    assert!(problems[0].starts_with("policy a: a.yaml: larger than 4194304 bytes"), "{problems:?}");
}
