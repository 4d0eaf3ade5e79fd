//! Edits after which a verdict meets an expectation, and the expectation of a fixture.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Expect, Part, Unmet};
use super::unmet::{WEB, allows, denies, fails, judged, mixed, said, unmet, verdict};
use crate::config::yaml::Document;
use crate::config::yaml::edit::Change;
use crate::config::{FailurePolicy, Rules};
use crate::review::verdict::{Outcome, Said, Verdict};

/// Applies the edits to a value, as `--update` does to the file.
fn edited(mut value: Value, unmet: &[Unmet]) -> Value {
    for edit in unmet.iter().filter_map(|unmet| unmet.edit.clone()) {
        match edit {
            Change::Value { pointer, value: new } => *value.pointer_mut(&pointer).unwrap() = new,
            Change::Insert { .. } => panic!("an expectation is there"),
            Change::Key { pointer, key, value: new } => {
                let (parent, old) = pointer.rsplit_once('/').unwrap();
                let map = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                map.remove(old).unwrap();
                assert!(map.insert(key, new).is_none());
            }
        }
    }
    value
}

/// Asserts each expectation after its edits, and that the verdict then meets it.
#[track_caller]
fn assert_edits(verdict: &Verdict, rows: &[(&str, Value)]) {
    for (yaml, expected) in rows {
        let value = Document::parse(yaml.as_bytes()).unwrap().value;
        let found = unmet(yaml, verdict);
        assert!(!found.is_empty(), "{yaml}");
        let new = edited(value, &found);
        assert_eq!(new, *expected, "{yaml}");
        assert_eq!(unmet(&new.to_string(), verdict), [], "{yaml}");
    }
}

#[test]
fn outcomes() {
    let of_nginx = |expectation: Value| json!({ "images": { "nginx": expectation } });
    assert_edits(
        &mixed(),
        &[
            ("allow", json!({ "deny": "not-pinned" })),
            ("malfunction", json!({ "deny": "not-pinned" })),
            ("allow:", json!({ "deny": "not-pinned" })),
            ("allow: trusted-registry", json!({ "deny": "not-pinned" })),
            ("deny: forbidden-tag", json!({ "deny": "not-pinned" })),
            ("images: { nginx: allow }", of_nginx(json!({ "deny": "not-pinned" }))),
            (
                "images: { nginx: { allow: x, log: [not-pinned] } }",
                of_nginx(json!({
                    "deny": "not-pinned", "log": ["not-pinned"]
                })),
            ),
            (
                "images: { nginx: { pinned-images: { abstain: x } } }",
                of_nginx(json!({
                    "pinned-images": { "deny": "not-pinned" }
                })),
            ),
            (
                "images: { 'ghcr.io/acme/web:1': { deny: x, pinned-images: malfunction } }",
                json!({
                    "images": { WEB: { "allow": "trusted-registry", "pinned-images": "abstain" } }
                }),
            ),
        ],
    );
    let failing = vec![judged("nginx", vec![fails("pinned-images", FailurePolicy::Fail)])];
    assert_edits(
        &verdict(&Rules::default(), failing),
        &[
            ("allow", json!({ "malfunction": "deadline" })),
            ("deny: not-pinned", json!({ "malfunction": "deadline" })),
            ("malfunction: trap", json!({ "malfunction": "deadline" })),
            (
                "images: { nginx: { deny: x, pinned-images: deny } }",
                of_nginx(json!({
                    "malfunction": "deadline", "pinned-images": { "malfunction": "deadline" }
                })),
            ),
        ],
    );
    let abstains = said("pinned-images", Outcome::Abstain, "none", "");
    assert_edits(
        &verdict(&Rules::default(), vec![judged("nginx", vec![abstains])]),
        &[
            ("deny: x", json!({ "deny": null })),
            ("images: { nginx: { allow: x } }", of_nginx(json!({ "deny": null }))),
        ],
    );
}

#[test]
fn texts() {
    let reason = "nginx: it has no digest (policy pinned-images)";
    let both = json!(["trusted-registry warns", "not-pinned warns"]);
    assert_edits(
        &mixed(),
        &[
            ("reason: no tag", json!({ "reason": reason })),
            ("reason: /tag/", json!({ "reason": reason })),
            ("reason: { is: x }", json!({ "reason": { "is": reason } })),
            ("reason: []", json!({ "reason": [reason] })),
            ("reason: [nginx, tag]", json!({ "reason": ["nginx"] })),
            (
                "warnings: [not-pinned, tagged, x]",
                json!({
                    "warnings": ["not-pinned", "tagged", "trusted-registry warns"]
                }),
            ),
            (
                "warnings: [/not-p/, { is: tagged warns }, zx, zy]",
                json!({
                    "warnings": ["/not-p/", { "is": "tagged warns" }, "trusted-registry warns"]
                }),
            ),
            (
                "images: { nginx: { warnings: [za, zb] } }",
                json!({ "images": { "nginx": { "warnings": both } } }),
            ),
            ("images: { nginx: { warnings: za } }", json!({ "images": { "nginx": { "warnings": both } } })),
            (
                "auditAnnotations: { pinned-images.no: x, generation: [{ is: g2 }] }",
                json!({
                    "auditAnnotations": { "pinned-images.no": [], "generation": [{ "is": "g1" }] }
                }),
            ),
        ],
    );
    // A text that looks like an expression, and an empty one.
    let mut strange = allows("pinned-images");
    strange.judgement.as_mut().unwrap().audit_annotations =
        vec![("a".to_owned(), "/(/".to_owned()), ("b".to_owned(), String::new())];
    assert_edits(
        &verdict(&Rules::default(), vec![judged("nginx", vec![strange])]),
        &[(
            "auditAnnotations: { pinned-images.a: x, pinned-images.b: x }",
            json!({
                "auditAnnotations": { "pinned-images.a": { "is": "/(/" }, "pinned-images.b": { "is": "" } }
            }),
        )],
    );
    let silent = verdict(&Rules::default(), vec![judged("nginx", vec![Said { log: vec![], ..denies("x") }])]);
    assert_edits(
        &silent,
        &[
            ("log: x", json!({ "log": [] })),
            ("log: [x]", json!({ "log": [] })),
            ("log: { is: x }", json!({ "log": [] })),
        ],
    );
}

#[test]
fn a_missing_subject_has_no_edit() {
    let verdict = verdict(&Rules::default(), vec![judged("nginx", Vec::new())]);
    for yaml in
        ["images: { 'ghcr.io/acme/web:1': allow }", "images: { nginx: { pinned-images: { log: x } } }"]
    {
        let found = unmet(yaml, &verdict);
        assert!(found.len() == 1 && found[0].edit.is_none(), "{found:?}");
    }
    let found = unmet("images: { 'ghcr.io/acme/web:1': allow }", &verdict);
    assert_eq!(found[0].found, "none: the review has no such image");
}

#[test]
fn a_status_is_an_expectation() {
    let annotations = |rows: &[(&str, &str)]| -> BTreeMap<String, String> {
        rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let met = annotations(&[("generation", "g1"), ("decided-by", "policies")]);
    for reason in [None, Some("no digest (policy"), Some("")] {
        let expect = Expect::of_status(false, reason.map(str::to_owned), met.clone());
        assert_eq!(expect.unmet(&mixed()), []);
    }
    let unmet = annotations(&[("decided-by", "pol"), ("no/such", "x")]);
    let found = Expect::of_status(true, Some("/digest/".to_owned()), unmet).unmet(&mixed());
    let edits: Vec<_> = found
        .iter()
        .map(|unmet| match (&unmet.pointer, &unmet.edit) {
            (Some(place), Some(Change::Value { pointer, value })) if place == pointer => {
                (place.as_str(), value.clone())
            }
            (Some(place), None) => (place.as_str(), Value::Null),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        edits,
        [
            ("/status/allowed", json!(false)),
            ("/status/reason", json!("nginx: it has no digest (policy pinned-images)")),
            ("/status/auditAnnotations/decided-by", json!("policies")),
            ("/status/auditAnnotations/no~1such", Value::Null),
        ]
    );
    assert_eq!(found[1].expected, "a text that contains \"/digest/\"");
    assert_eq!(
        found[2].to_string().lines().next().unwrap(),
        "auditAnnotations[\"decided-by\"]: expected \"pol\""
    );
    assert_eq!(found[3].part, Part::AuditAnnotation("no/such".to_owned()));
}

#[test]
fn hostile_text_is_escaped_and_cut() {
    let image = format!("x\n\u{202e}{}", "y".repeat(5000));
    let hostile = || vec![judged(&image, vec![allows("pinned-images")])];
    let annotation = BTreeMap::from([("\u{1b}[31m".repeat(1000), "\n".repeat(9000))]);
    let expect = Expect::of_status(true, Some("\u{200b}\n".repeat(9000)), annotation);
    let found = expect.unmet(&verdict(&Rules::default(), hostile()));
    assert_eq!(found.len(), 3);
    let many = format!("reason: [{}]", vec!["z"; 10_000].join(", "));
    let many = unmet(&many, &mixed());
    assert!(
        many[0].expected.ends_with(" and a text that contains \"z\" and 9992 more"),
        "{}",
        many[0].expected
    );
    for unmet in found.into_iter().chain(many) {
        let text = unmet.to_string();
        assert!(text.len() < 5000, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| crate::text::escape(line) == line), "{text}");
    }
}
