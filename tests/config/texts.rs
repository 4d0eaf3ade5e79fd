//! Texts in separate files, which `settingsFiles` names: how they are followed, read and limited. Tests of
//! the command line's messages are in `cases/cli`.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use host::config::{Config, PolicyConfig, SettingsFileError, SettingsReader, TextSource};
use host::policy::PolicyReader;
use host::policy::manifest::Change;
use host::reload::Command;
use serde_json::{Value, json};

use crate::reload::candidate::Installation;
use crate::reload::watch::{publish, soon, watched};
use crate::support::version;

/// Returns the settings in force of the only policy.
fn in_force(policies: &PolicyReader) -> Value {
    let current = policies.current();
    let [entry] = current.policies.as_slice() else { panic!("one policy") };
    serde_json::from_str(entry.loaded.as_ref().unwrap().settings()).unwrap()
}

/// Makes an installation with a policy that accepts all settings, and has texts of a file and a folder.
fn installation(more: &str) -> Installation {
    let entry = "policies:\n- name: p\n  module: p.wasm\n  settings: { own: 1 }\n  settingsFiles: { text: \
                 text.rego, rules: rules/ }\n";
    let installation = Installation::new(&format!("{entry}{more}"));
    fs::write(installation.path("p.wasm"), version("version1")).unwrap();
    fs::write(installation.path("text.rego"), "one\n").unwrap();
    fs::create_dir(installation.path("rules")).unwrap();
    installation
}

/// Replaces a file by a rename.
fn replace(installation: &Installation, name: &str, content: &[u8]) {
    fs::write(installation.path(".new"), content).unwrap();
    fs::rename(installation.path(".new"), installation.path(name)).unwrap();
}

#[test]
fn texts_are_followed_whole_or_not_at_all() {
    let installation = installation("stateDirectory: state");
    let put = |name: &str, text: &str| replace(&installation, name, text.as_bytes());
    put("rules/a.rego", "a");
    put("rules/b.rego", "\u{feff}b");
    put("rules/.hidden", "hidden");
    put("rules/a.rego~", "a copy");
    let mut started = installation.start();
    let all =
        |text: &str, a: &str| json!({ "own": 1, "text": text, "rules": { "a.rego": a, "b.rego": "b" } });
    assert_eq!(in_force(&started.policies), all("one\n", "a"));
    put("text.rego", "two\n");
    started.reloader.reload();
    put("rules/a.rego", "aa");
    started.reloader.reload();
    assert_eq!(in_force(&started.policies), all("two\n", "aa"));
    assert_eq!(started.policies.current().number(), 3);
    let changes = started.status.current().history.last().unwrap().changes.clone();
    assert_eq!(changes.iter().map(Change::to_string).collect::<Vec<_>>(), ["p (settings)"]);

    let named = "`settingsFiles` at host.yaml:10:26 names it";
    let cases: [(&str, &[u8], String); 3] = [
        ("text.rego", b"a\n\xff", "text.rego:2:1: not UTF-8: a byte 0xff".to_owned()),
        ("text.rego", b"", format!("text.rego: it is empty: write the text, or remove the key ({named})")),
        ("text.rego", &[b'x'; (1 << 20) + 1], format!("text.rego: larger than 1048576 bytes ({named})")),
    ];
    for (name, content, expected) in cases {
        replace(&installation, name, content);
        started.reloader.reload();
        assert_eq!(in_force(&started.policies), all("two\n", "aa"));
        let problems = installation.problems(&started);
        assert!(problems[0].starts_with(&format!("policy p: {expected}")), "{problems:?}");
    }
    put("text.rego", "two\n");
    let missing = "No such file or directory (os error 2): put it there, or name another file";
    for (gone, expected) in [
        ("text.rego", format!("text.rego: {missing} ({named})")),
        ("rules", "rules: No such file or directory (os error 2)".to_owned()),
    ] {
        fs::rename(installation.path(gone), installation.path("gone")).unwrap();
        started.reloader.reload();
        assert_eq!(in_force(&started.policies), all("two\n", "aa"));
        let problems = installation.problems(&started);
        assert!(problems[0].starts_with(&format!("policy p: {expected}")), "{problems:?}");
        assert!(problems[0].contains("last good version"), "{problems:?}");
        fs::rename(installation.path("gone"), installation.path(gone)).unwrap();
    }
    put("text.rego", "three\n");
    started.reloader.reload();
    assert_eq!(in_force(&started.policies), all("three\n", "aa"));
    assert_eq!(installation.problems(&started), [""; 0]);

    // A rollback restores the texts that were in force, whatever the files hold now.
    started.reloader.execute(Command::Rollback { to: None }).unwrap();
    assert_eq!(in_force(&started.policies), all("two\n", "aa"));
    drop(started);
    fs::remove_file(installation.path("text.rego")).unwrap();
    assert_eq!(in_force(&installation.start().policies), all("two\n", "aa"));
}

#[test]
fn a_watcher_follows_texts() {
    let installation = installation("");
    let (rules, module) = (installation.path("rules"), installation.path("text.rego"));
    publish(&rules, 0, &[("a.rego", b"a"), ("b.rego", b"b")]);
    let rules_are = |policies: &PolicyReader, expected: Value| in_force(policies)["rules"] == expected;
    watched(installation.start(), |policies, problems| {
        publish(&rules, 1, &[("a.rego", b"aa"), ("b.rego", b"bb")]);
        soon("texts of a swapped volume", || rules_are(policies, json!({ "a.rego": "aa", "b.rego": "bb" })));
        publish(&rules, 2, &[("a.rego", b"aa"), ("b.rego", b"bb"), ("c.rego", b"c")]);
        soon("a text that is added", || {
            rules_are(policies, json!({ "a.rego": "aa", "b.rego": "bb", "c.rego": "c" }))
        });
        publish(&rules, 3, &[("a.rego", b"aa"), ("b.rego", b"\xff"), ("c.rego", b"c")]);
        soon("a text that is no text", || problems().len() == 1);
        assert!(problems()[0].to_string().contains("b.rego:1:1: not UTF-8"), "{:?}", problems());
        publish(&rules, 4, &[("a.rego", b"a")]);
        soon("links without a file", || {
            problems().iter().any(|problem| {
                problem.to_string().contains("c.rego: No such")
                    || problem.to_string().contains("b.rego: No such")
            })
        });
        fs::remove_file(rules.join("b.rego")).unwrap();
        fs::remove_file(rules.join("c.rego")).unwrap();
        soon("texts that are removed", || {
            rules_are(policies, json!({ "a.rego": "a" })) && problems().is_empty()
        });
        replace(&installation, "text.rego", b"two");
        soon("a replaced file", || in_force(policies)["text"] == "two");
        fs::write(&module, "three").unwrap();
        soon("a file written in place", || in_force(policies)["text"] == "three");
        fs::remove_file(&module).unwrap();
        soon("a file that goes", || problems().len() == 1);
        assert_eq!(in_force(policies)["text"], "three");
        fs::create_dir(installation.path("linked")).unwrap();
        fs::write(installation.path("linked/text.rego"), "four").unwrap();
        symlink("linked/text.rego", &module).unwrap();
        soon("a link in its place", || in_force(policies)["text"] == "four" && problems().is_empty());
        replace(&installation, "linked/text.rego", b"five");
        soon("the target of the link", || in_force(policies)["text"] == "five");
    });
}

/// Returns the settings of an entry with these `settingsFiles`, relative to `folder`, read by `read`.
fn read_with(
    folder: &Path,
    files: Value,
    read: &dyn Fn(&Path) -> Vec<u8>,
) -> Result<(Config, PolicyConfig), SettingsFileError> {
    let entry = json!({ "name": "a", "module": "a.wasm", "settingsFiles": files });
    let config = json!({ "policies": [entry] }).to_string();
    let config = Config::parse(&folder.join("host.yaml"), config.as_bytes()).unwrap();
    let mut policy = config.policies[0].clone();
    let read = |path: &Path, _| Some(Ok(read(path)));
    SettingsReader::new(&config, &read).add(&mut policy)?;
    Ok((config, policy))
}

#[test]
fn a_folder_that_changes_while_it_is_read_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules");
    fs::create_dir(&rules).unwrap();
    publish(&rules, 0, &[("a", b"0"), ("b", b"0")]);
    let texts = |last: usize| {
        let swaps = Cell::new(0);
        let read = |path: &Path| {
            let content = fs::read(path).unwrap();
            if swaps.get() < last && path.ends_with("a") {
                swaps.set(swaps.get() + 1);
                let content = swaps.get().to_string();
                publish(
                    &rules,
                    last * 100 + swaps.get(),
                    &[("a", content.as_bytes()), ("b", content.as_bytes())],
                );
            }
            content
        };
        read_with(folder.path(), json!({ "rules": "rules/" }), &read)
    };
    for swaps in [1, 2] {
        let (_, policy) = texts(swaps).unwrap();
        let content = swaps.to_string();
        assert_eq!(policy.settings, json!({ "rules": { "a": content, "b": content } }));
        assert_eq!(policy.settings_files["rules"], TextSource::Folder(rules.clone()));
    }
    assert!(matches!(texts(9), Err(SettingsFileError::BeingWritten)));
}

/// limit: settings-text within, settings-text breaks, settings-texts within, settings-texts breaks
#[test]
fn texts_have_limits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let add = |files: Value| {
        let entry = json!({ "name": "a", "module": "a.wasm", "settingsFiles": files });
        let config = json!({ "policies": [entry] }).to_string();
        let config = Config::parse(&at("host.yaml"), config.as_bytes()).unwrap();
        let mut policy = config.policies[0].clone();
        let read = |path: &Path, most: u64| Some(host::fs::read(path, most));
        let added = SettingsReader::new(&config, &read).add(&mut policy);
        let said = |error: SettingsFileError| {
            error.to_string().replace(&format!("{}/", folder.path().display()), "")
        };
        added.map(|()| policy.settings).map_err(said)
    };
    fs::write(at("text"), vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(add(json!({ "text": "text" })).unwrap()["text"].as_str().unwrap().len(), 1 << 20);
    fs::write(at("text"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let error = add(json!({ "text": "text" })).unwrap_err();
    assert!(error.starts_with("text: larger than 1048576 bytes (`settingsFiles` at host.yaml:1:"), "{error}");

    fs::create_dir(at("rules")).unwrap();
    (0..4096).for_each(|number| fs::write(at("rules").join(number.to_string()), "x").unwrap());
    fs::write(at("text"), "x").unwrap();
    assert_eq!(add(json!({ "rules": "rules/" })).unwrap()["rules"].as_object().unwrap().len(), 4096);
    let over = "with it there are more than 4096 files of `settingsFiles`";
    let error = add(json!({ "rules": "rules/", "text": "text" })).unwrap_err();
    assert!(error.starts_with(&format!("text: {over}")), "{error}");
    fs::write(at("rules").join("more"), "x").unwrap();
    let error = add(json!({ "rules": "rules/" })).unwrap_err();
    assert!(error.starts_with(&format!("rules: {over}")), "{error}");
}
