//! `host test --update` on many files: only expectations change, and all cases pass then.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use host::author::update::update;
use host::config::yaml::Location;
use host::config::yaml::edit::Change;
use host::suite::{CaseId, CaseReport, Failed, Part, Place, Unmet};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::cases::root;

const FILES: u64 = 50;

/// Expectations of an image that is not trusted: as written, and after the update.
const DENIED: [(&str, &str); 7] = [
    ("allow", "{ deny: untrusted-registry }"),
    ("'allow'", "{ deny: untrusted-registry }"),
    (
        "{ allow: , images: { nginx: allow } }",
        "{ deny: untrusted-registry , images: { nginx: { deny: untrusted-registry } } }",
    ),
    ("{ deny: forbidden-tag, warnings: [ one ] }", "{ deny: untrusted-registry, warnings: [] }"),
    (
        "{deny: untrusted-registry,   images: {nginx: {t: allow}}}",
        "{deny: untrusted-registry,   images: {nginx: {t: { deny: untrusted-registry }}}}",
    ),
    (
        "{ reason: { is: nothing }, deny: untrusted-registry }",
        "{ reason: { is: REASON }, deny: untrusted-registry }",
    ),
    ("deny", "deny"),
];

/// A file with the expectations as written, and after the update.
struct Pair {
    random: StdRng,
    old: String,
    new: String,
}

impl Pair {
    fn both(&mut self, text: &str) {
        self.old.push_str(text);
        self.new.push_str(text);
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.random_range(0..of.len())]
    }

    fn noise(&mut self) {
        let noise = ["", "", "\n", "# a comment: { 'x\n", "    # é, indented\n\n", "\n\n# - name: no case\n"];
        let noise = self.pick(&noise);
        self.both(noise);
    }

    fn case(&mut self, number: usize) {
        let (old, new) = DENIED[self.random.random_range(0..DENIED.len())];
        let reason =
            "\"nginx: registry docker.io is not trusted: allowed is ghcr.io/acme/** (policy t)\"".to_owned();
        let new = new.replace("REASON", &reason);
        let comment = self.pick(&["", "  # why: 'it", " # c"]);
        self.noise();
        match self.random.random_range(0..4) {
            0 => {
                self.both(&format!("- {{ name: c{number}, images: [ \"nginx\" ],expect: "));
                self.old.push_str(old);
                self.new.push_str(&new);
                self.both(&format!(" }}{comment}\n"));
            }
            1 => {
                self.both(&format!(
                    "- name: &n{number} \"c{number}\"{comment}\n  images:\n  - nginx\n  annotations:\n"
                ));
                self.both(&format!(
                    "    n: *n{number}\n    text: |\n      expect: allow # none\n\n      more\n"
                ));
                self.both("  expect:   ");
                self.old.push_str(old);
                self.new.push_str(&new);
                self.both(&format!("{comment}\n"));
            }
            // Without an expectation.
            2 => {
                self.both(&format!("- images: [nginx,\n    nginx]{comment}\n  name: c{number}"));
                self.new.push_str("\n  expect: { deny: untrusted-registry }");
                self.both("\n");
            }
            _ => {
                self.both(&format!("-   images:{comment}\n      nginx:  "));
                self.old.push_str("allow");
                self.new.push_str("{ deny: untrusted-registry }");
                self.both(&format!("{comment}\n      ghcr.io/acme/x: {{ allow: }}\n    name: 'c{number}'\n"));
            }
        }
    }

    fn of(seed: u64) -> Pair {
        let mut pair = Pair { random: StdRng::seed_from_u64(seed), old: String::new(), new: String::new() };
        pair.noise();
        pair.both("apiVersion: image-policy-host/v1alpha1\nkind: Suite\npolicies:\n");
        pair.both("- { name: t, module: policies/trusted-registries.wasm, ");
        pair.both("settings: { allow: [ 'ghcr.io/acme/**' ] } }\ncases: # all\n");
        for number in 0..pair.random.random_range(1..8) {
            pair.case(number);
        }
        if pair.random.random_ratio(1, 3) {
            pair.both("# the end");
        }
        let is_crlf = pair.random.random_ratio(1, 3);
        let mark = if pair.random.random_ratio(1, 4) { "\u{feff}" } else { "" };
        for text in [&mut pair.old, &mut pair.new] {
            if is_crlf {
                *text = text.replace('\n', "\r\n");
            }
            text.insert_str(0, mark);
        }
        pair
    }
}

fn host(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_host"))
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn an_update_of_many_files_changes_expectations_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    let policy = "trusted-registries.wasm";
    symlink(root().join("plugins/dist").join(policy), folder.path().join("policies").join(policy)).unwrap();
    let path = |seed: u64| folder.path().join(format!("suite{seed:02}.yaml"));
    let pairs: Vec<Pair> = (0..FILES).map(Pair::of).collect();
    for (seed, pair) in (0..).zip(&pairs) {
        fs::write(path(seed), &pair.old).unwrap();
    }
    // Comments, anchors with aliases, flow collections, and CRLF are each in files that change.
    for part in ["# ", ": &n", "{ ", "\r\n"] {
        let changed = pairs.iter().filter(|pair| pair.old != pair.new && pair.old.contains(part)).count();
        assert!(changed >= 10, "{part:?} is in {changed} files that change");
    }
    let names: Vec<String> = (0..FILES).map(|seed| format!("suite{seed:02}.yaml")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let updated = host(folder.path(), &[&["test", "--update", "-q"], names.as_slice()].concat());
    let said = String::from_utf8_lossy(&updated.stdout).into_owned();
    for (seed, pair) in (0..).zip(&pairs) {
        assert_eq!(fs::read_to_string(path(seed)).unwrap(), pair.new, "suite{seed:02}.yaml\n{said}");
    }
    assert_eq!(updated.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&updated.stderr));
    let again = host(folder.path(), &[&["test", "-q"], names.as_slice()].concat());
    assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stdout));
}

#[test]
fn a_file_that_changed_since_it_was_read_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("suite.yaml");
    fs::write(&path, "a: two\n").unwrap();
    let id = CaseId { suite: path.clone(), row: None, name: Some("case".to_owned()) };
    let unmet = Unmet {
        image: None,
        policy: None,
        part: Part::Outcome,
        expected: "allow".to_owned(),
        found: "deny".to_owned(),
        pointer: Some("/a".to_owned()),
        edit: Some(Change::Value { pointer: "/a".to_owned(), value: json!("three") }),
    };
    let place = Place { path: path.clone(), at: Location::default() };
    let failed = vec![Failed::Unmet(unmet)];
    let report = CaseReport { id, place, failed, verdict: None, took: Duration::ZERO };
    let updates = update(std::slice::from_ref(&report), |_| Some(b"a: one\n"));
    let said =
        format!("not updated: {} has changed since it was read: run the command again", path.display());
    assert_eq!(updates[0].refusals, [said]);
    assert!(updates[0].updated.is_empty() && updates[0].diff.is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), "a: two\n");

    let updates = update(&[report], |_| Some(b"a: two\n"));
    assert_eq!((updates[0].changes, updates[0].updated.len()), (1, 1));
    assert_eq!(fs::read_to_string(&path).unwrap(), "a: three\n");
}
