//! Properties of verdicts beyond the table of cases: the basis of each, the case without an enforced policy,
//! and the cost.

use std::time::{Duration, Instant};

use host::config::{FailurePolicy, Mode, Rules};
use host::image::Image;
use host::policy::PolicySet;
use host::policy::manifest::Content;
use host::review::verdict::{
    DecidedBy, Decision, Disposition, Judged, Malfunction, Outcome, ReferenceError, Said, Verdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::serve::metrics::{parse, value};
use crate::support::client::{Protocol, get};
use crate::support::{self, Installation, scripted};

fn said(policy: &str, judgement: Result<Decision, Malfunction>) -> Said {
    Said {
        policy: policy.to_owned(),
        mode: Mode::Enforce,
        failure_policy: FailurePolicy::Fail,
        message: None,
        judgement,
        log: Vec::new(),
    }
}

fn decision(outcome: Outcome, reason: &str, annotations: &[(String, String)]) -> Decision {
    Decision {
        outcome,
        code: "scripted".to_owned(),
        reason: reason.to_owned(),
        audit_annotations: annotations.to_vec(),
        warnings: Vec::new(),
    }
}

fn judged(original: &str, said: Vec<Said>) -> Judged {
    let image = Image::parse(original).map_err(ReferenceError::from);
    Judged { original: original.to_owned(), image, said, exhausted: None }
}

proptest! {
    /// Each value is the name of its policy, so a key that two policies share shows both names.
    #[test]
    fn no_two_policies_share_a_key(
        policies in prop::collection::btree_set(
            prop_oneof!["[a-z]{1,3}", "[ab]{0,2}[a]{40,61}", "a{62}[a-c]",
                "(audit|review|generation|would-deny)"], 1..6),
        keys in prop::collection::vec(
            prop_oneof![any::<String>(), "[-._]{0,3}", "(audit|malfunction|warnings)[-._ ]{0,2}",
                "a{20,70}[ab]?"], 1..6),
    ) {
        let said = policies.iter().map(|policy| {
            let annotations: Vec<_> = keys.iter().map(|key| (key.clone(), policy.clone())).collect();
            said(policy, Ok(decision(Outcome::Allow, "fine", &annotations)))
        });
        let images = vec![judged("x.io/a", said.collect())];
        let verdict = Verdict::combine(&Rules::default(), "default", "1-a", images);
        for (key, value) in verdict.policy_annotations() {
            prop_assert!(key.len() <= 63 && key.contains('.'), "{key}");
            prop_assert!(![".audit", ".malfunction", ".warnings"].iter().any(|end| key.ends_with(end)),
                "{key}");
            let mut told: Vec<_> = value.split("; ").map(|part| part.trim_start_matches("x.io/a: \
                ")).collect();
            told.dedup();
            prop_assert_eq!(told.len(), 1, "{} is of {:?}", key, told);
        }
    }
}

/// 256 images, 20 policies, and all texts at their limits. Only the first KiB of the texts is shown.
#[test]
fn a_verdict_costs_no_text_that_is_not_shown() {
    let long = "r".repeat(1024);
    let annotations: Vec<_> = (0..32).map(|key| (format!("key-{key}"), "v".repeat(1024))).collect();
    let of = |image: usize, policy: usize| {
        let reason = format!("{image} {policy} {long}");
        said(&format!("policy-{policy}"), Ok(decision(Outcome::Deny, &reason, &annotations)))
    };
    let images = (0..256)
        .map(|image| judged(&format!("x.io/{image}"), (0..20).map(|policy| of(image, policy)).collect()));
    let images: Vec<_> = images.collect();
    let one = vec![images[0].clone()];
    let time = |images: Vec<Judged>| {
        let began = Instant::now();
        let verdict = Verdict::combine(&Rules::default(), "default", "1-a", images);
        let annotations = verdict.audit_annotations();
        assert!(verdict.reason.len() <= 1024 && annotations.values().all(|value| value.len() <= 1024));
        began.elapsed()
    };
    let least = |images: &[Judged]| (0..5).map(|_| images.to_vec()).map(time).min().unwrap_or_default();
    let (one, all) = (least(&one), least(&images));
    println!("1 image: {one:?}, 256 images: {all:?}");
    assert!(all < Duration::from_millis(1000), "{all:?}");
}

fn set(entries: &[(&str, &str, Value)], more: Value) -> PolicySet {
    let settings = json!({ "images": { "*": { "outcome": "deny", "reason": "bad" } } });
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, mode, scope)| {
            let scope = match scope.get("images") {
                Some(_) => scope.clone(),
                None => json!({ "namespaces": scope }),
            };
            json!({ "name": name, "mode": mode, "match": scope, "settings": settings })
        })
        .collect();
    let mut host = json!({ "policies": entries });
    host.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    support::set(host)
}

#[test]
fn a_namespace_where_audit_is_alone_is_warned_of() {
    let own = json!({ "images": { "include": ["ghcr.io/acme/**"] } });
    let everywhere = json!({});
    let include = |names: &[&str]| json!({ "include": names });
    let exclude = |names: &[&str]| json!({ "exclude": names });
    let none = json!({});
    for (entries, more, expected) in [
        (vec![("p", "enforce", everywhere.clone())], &none, None),
        (vec![("p", "audit", everywhere.clone())], &none, Some("apply in every namespace (p), so")),
        (vec![("p", "audit", everywhere.clone())], &json!({ "mode": "audit" }), None),
        (vec![("p", "audit", everywhere.clone()), ("q", "enforce", everywhere.clone())], &none, None),
        (
            vec![("own", "enforce", own.clone()), ("all", "audit", everywhere.clone())],
            &none,
            Some("apply to some images in every namespace (all), so these images are allowed"),
        ),
        (vec![("own", "enforce", own.clone()), ("new", "audit", own.clone())], &none, None),
        (
            vec![("prod", "enforce", include(&["prod"])), ("rest", "audit", exclude(&["prod"]))],
            &none,
            Some("apply in all other namespaces (rest), so"),
        ),
        (
            vec![("all", "enforce", exclude(&["dev", "team-*"])), ("look", "audit", everywhere.clone())],
            &none,
            Some("apply in namespace dev and in namespaces team-* (look), so"),
        ),
        (
            vec![("all", "enforce", exclude(&["dev"])), ("look", "audit", everywhere.clone())],
            &json!({ "exempt": { "namespaces": ["dev"] } }),
            None,
        ),
        (
            vec![("p", "audit", include(&["a", "b", "c", "d", "e"]))],
            &none,
            Some("in namespace a, in namespace b, in namespace c and others (p)"),
        ),
    ] {
        let set = set(&entries, more.clone());
        match (set.warnings(), expected) {
            ([], None) => {}
            ([warning], Some(expected)) => assert!(warning.contains(expected), "{warning}"),
            (warnings, expected) => panic!("{entries:?} {more}: {warnings:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn audit_alone_is_told_and_counted_and_is_no_failure() {
    let settings = json!({ "images": { "*": { "outcome": "deny", "reason": "bad" } } });
    let installation = Installation::new(json!({
        "policies": [{ "name": "p", "module": scripted(), "mode": "audit", "settings": settings }],
    }));
    let server = installation.serve().await;
    let (_, status) = get(server.admin, "/status").await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["degraded"], &status["problems"]), (&json!(false), &json!([])));
    assert!(status["warnings"][0].as_str().unwrap().contains("only policies in mode audit"), "{status}");

    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let answer = connection.review("nginx").await.unwrap().json();
    assert_eq!(answer["status"]["allowed"], true);
    let annotations = &answer["status"]["auditAnnotations"];
    assert_eq!(
        (&annotations["decided-by"], &annotations["p.audit"]),
        (&json!("audit-only"), &json!("would deny: bad"))
    );
    let (_, page) = get(server.admin, "/metrics").await.unwrap();
    let labels = [("verdict", "allowed"), ("by", "audit-only")];
    assert_eq!(value(&parse(&page), "image_policy_host_reviews_total", &labels), 1.0);
}

#[test]
fn a_message_is_part_of_the_generation() {
    let with = |message: Option<&str>| {
        let mut entry = json!({ "name": "p", "settings": { "images": {} } });
        if let Some(message) = message {
            entry["message"] = json!(message);
        }
        support::set(json!({ "policies": [entry] }))
    };
    let (none, one, other) = (with(None), with(Some("ask in #a")), with(Some("ask in #b")));
    assert!(none.digest() != one.digest() && one.digest() != other.digest());
    let changes = other.content().changes_since(&one.content());
    assert_eq!(changes[0].what, ["message"]);
    // The form in which it is recorded, also by a host without the field `message`.
    let recorded = serde_json::to_value(one.content()).unwrap();
    assert_eq!(serde_json::from_value::<Content>(recorded).unwrap(), one.content());
    let older = serde_json::to_value(none.content()).unwrap();
    assert_eq!(older["policies"][0].get("message"), None);
}

/// A review with several images has the basis of its least judged image.
#[test]
fn a_review_is_decided_by_its_least_judged_image() {
    let allow = || said("p", Ok(decision(Outcome::Allow, "fine", &[])));
    let deny = || said("p", Ok(decision(Outcome::Deny, "bad", &[])));
    let audit = || Said { mode: Mode::Audit, ..deny() };
    let ignored = || Said { failure_policy: FailurePolicy::Ignore, ..said("q", Err(Malfunction::LeftOut)) };
    let failed = || said("q", Err(Malfunction::LeftOut));
    let rules = Rules::default();
    for (images, expected) in [
        (vec![vec![allow()], vec![allow()]], Disposition::Allowed(DecidedBy::Policies)),
        (vec![vec![allow()], vec![audit()]], Disposition::Allowed(DecidedBy::AuditOnly)),
        (vec![vec![audit()], vec![allow(), ignored()]], Disposition::Allowed(DecidedBy::AuditOnly)),
        (vec![vec![allow(), ignored()], vec![allow()]], Disposition::Allowed(DecidedBy::FailurePolicy)),
        (vec![vec![audit()], vec![deny()]], Disposition::Denied(DecidedBy::Policies)),
        (vec![vec![deny()], vec![failed()]], Disposition::Denied(DecidedBy::FailurePolicy)),
        (vec![vec![deny()], vec![]], Disposition::Denied(DecidedBy::Unjudged)),
    ] {
        let images = images.into_iter().enumerate().map(|(at, said)| judged(&format!("x.io/{at}"), said));
        let images: Vec<_> = images.collect();
        let enforced = Verdict::combine(&rules, "default", "1-a", images.clone());
        assert_eq!(enforced.disposition, expected, "{images:?}");
        let audited =
            Verdict::combine(&Rules { mode: Mode::Audit, ..rules.clone() }, "default", "1-a", images);
        assert_eq!(audited.disposition.decided_by(), expected.decided_by());
        assert!(audited.allowed() && audited.would_deny().is_some() != enforced.allowed());
    }
}
