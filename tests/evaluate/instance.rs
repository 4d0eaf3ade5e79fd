//! Limits of an instance's resources and view. Every `.yaml` of `cases/instance` is a case like those of
//! `dispatch`; a `.wat` beside it is its policy. Limits that no verdict shows have a test below.

use host::evaluate::Instances;
use host::review::verdict::Verdict;
use host::suite::Case;
use serde_json::json;

use crate::evaluate::decisions;
use crate::support;
use crate::support::evaluation::{evaluate, evaluate_with};

#[test]
fn cases_hold() {
    decisions::hold("tests/cases/instance", 40);
}

/// Returns the reason of each policy on each image.
fn reasons(verdict: &Verdict) -> Vec<String> {
    verdict
        .images
        .iter()
        .flat_map(|image| &image.judged.said)
        .map(host::review::verdict::Said::reason)
        .collect()
}

#[test]
fn nothing_survives_a_review() {
    let set = support::scripted_set(json!({ "*": { "outcome": "allow", "denyFromCall": 3 } }));
    let review = support::review("default", &["x.io/a", "x.io/b"]);
    for _ in 0..3 {
        let verdict = evaluate(&set, &review);
        assert!(verdict.allowed());
        assert_eq!(reasons(&verdict), ["call 1", "call 2"]);
    }
    let isolated = evaluate_with(&set, &review, Instances::Isolated);
    assert_eq!(reasons(&isolated), ["call 1", "call 1"]);
    let reversed = evaluate_with(&set, &review, Instances::Reversed);
    assert_eq!(reasons(&reversed), ["call 2", "call 1"]);
}

#[test]
fn the_three_runs_of_a_suite_find_state_between_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.yaml");
    let fixture = json!({
        "apiVersion": host::review::API_VERSION,
        "kind": "ImageReview",
        "spec": { "namespace": "default", "containers": [{ "image": "x.io/a" }, { "image": "x.io/b" }] },
        "status": { "allowed": false, "reason": "x.io/b: call 2 (policy scripted)" },
    });
    std::fs::write(&path, fixture.to_string()).unwrap();
    let case = Case::read(&path, &Default::default()).unwrap();
    let set = support::scripted_set(json!({ "*": { "outcome": "allow", "denyFromCall": 2 } }));
    let report = case.run(&set);
    assert_eq!(
        report.failed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "scripted is not a function of one image: of x.io/a it said allow (call 1), and with its images \
                asked in reverse order deny (call 2)",
            "scripted is not a function of one image: of x.io/b it said deny (call 2), and with its images \
                asked in reverse order allow (call 1)",
            "scripted is not a function of one image: of x.io/b it said deny (call 2), and with an instance \
                for each image allow (call 1)",
        ]
    );
}

#[test]
fn random_numbers_are_the_same_in_every_instance() {
    let policy = json!({ "name": "p", "module": "instance/wasi-random-repeats-in-each-instance.wat" });
    let set = support::set(json!({ "policies": [policy] }));
    let review = support::review("default", &["x.io/a", "x.io/b"]);
    let first = reasons(&evaluate(&set, &review));
    assert_ne!(first[0], first[1]);
    assert_eq!(first, reasons(&evaluate(&set, &review)));
    let isolated = reasons(&evaluate_with(&set, &review, Instances::Isolated));
    assert_eq!(isolated, [first[0].clone(), first[0].clone()]);
}

/// limit: text within, text breaks, list within, list breaks
#[test]
fn a_decision_has_limits() {
    let entries = |count: u32| (0..count).map(|n| json!([format!("k{n}"), "v"])).collect::<Vec<_>>();
    for (bytes, count) in [(1024, 32), (1025, 33)] {
        let set = support::scripted_set(json!({ "*": {
            "outcome": "deny", "reason": "x", "reasonBytes": bytes, "annotations": entries(count),
            "warnings": ["w".repeat(bytes)], "warningsTimes": count,
        } }));
        let verdict = evaluate(&set, &support::review("default", &["x.io/a"]));
        let decision = verdict.images[0].judged.said[0].judgement.as_ref().unwrap();
        assert_eq!(decision.reason.len(), 1024);
        assert_eq!(decision.reason.ends_with('…'), bytes > 1024);
        assert_eq!(decision.warnings.len(), 32);
        assert!(decision.warnings.iter().all(|warning| warning.len() == 1024));
        assert_eq!(decision.audit_annotations.len(), 32);
    }
}
