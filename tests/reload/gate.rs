//! The gate: every file of `cases/gate` has a set in force and a candidate, both of scripted policies, a
//! `gate`, suites, recent reviews and a decision log, and the expected ruling.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use host::policy::PolicySet;
use host::reload::gate::{Gate, Recent, Ruling};
use host::review::{API_VERSION, Review};
use host::telemetry::answered::{AnsweredReview, ReviewId};
use host::telemetry::decision_log::DecisionRecord;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::evaluation::evaluate;
use crate::support::{self, assert_none, cases};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    #[expect(dead_code, reason = "for the count of tests that every limit has")]
    limit: Option<String>,
    before: Value,
    after: Value,
    gate: Option<Value>,
    /// Files of the folder that the gate's `suites` name.
    #[serde(default)]
    suite: BTreeMap<String, Value>,
    #[serde(default)]
    reviews: Vec<Asked>,
    /// The decision log, oldest line first.
    #[serde(default)]
    log: Vec<Line>,
    /// A last piece of the log without a line break.
    #[serde(default)]
    log_end: String,
    expected: Expected,
}

/// A line of the decision log.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    /// The text of a line.
    Text(String),
    /// The line of a review that the set in force has judged.
    Review(Asked),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(default = "default_namespace")]
    namespace: String,
    images: Vec<String>,
    /// Size of an annotation.
    #[serde(default)]
    annotation_bytes: usize,
    #[serde(default = "once")]
    times: usize,
    /// Whether the decision log has a review in memory too.
    #[serde(default)]
    logged: bool,
}

impl Asked {
    fn review(&self) -> Arc<Review> {
        let annotation = ("a.image-policy.k8s.io/b".to_owned(), "x".repeat(self.annotation_bytes));
        let annotations = Vec::from_iter((self.annotation_bytes > 0).then_some(annotation));
        let (namespace, images) = (self.namespace.clone(), self.images.clone());
        Arc::new(Review { namespace, annotations, images })
    }
}

/// Returns the line of a review that a set has judged.
pub(super) fn line(set: &PolicySet, id: ReviewId, review: &Arc<Review>) -> String {
    let (review, verdict) = (Arc::clone(review), evaluate(set, review));
    let reviewed =
        AnsweredReview { id, at: SystemTime::now(), took: Duration::from_millis(1), review, verdict };
    serde_json::to_string(&DecisionRecord::new(&reviewed)).unwrap() + "\n"
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn once() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    ruling: String,
    /// A part of the reason.
    #[serde(default)]
    why: String,
    /// The differences; missing ones are zero. `someLeftOut` is the number of reviews of which some were left
    /// out.
    #[serde(default)]
    differences: Value,
}

/// Returns the gate of a host.yaml.
pub(super) fn gate(config: Value) -> Gate {
    logged_gate(config, Value::Null)
}

/// Returns the gate of a host.yaml with a `decisionLog`, unless that is null.
pub(super) fn logged_gate(config: Value, log: Value) -> Gate {
    let mut host = json!({ "gate": config });
    if !log.is_null() {
        host["decisionLog"] = log;
    }
    let mut gate = Gate::default();
    gate.configure(&support::config(host));
    gate
}

#[test]
fn every_case() {
    let cases = cases::<Case>("cases/gate");
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let differences = cases.into_iter().filter_map(|(name, case)| difference(&name, case));
    assert_none(&differences.collect::<Vec<_>>());
}

fn difference(name: &str, case: Case) -> Option<String> {
    let Case { before, after, gate: config, suite, reviews, log, log_end, expected, .. } = case;
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in &suite {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.to_string()).unwrap();
    }
    let decisions = tempfile::tempdir().unwrap();
    let mut gate = match config {
        None => Gate::default(),
        Some(mut config) => {
            if !suite.is_empty() {
                config["suites"] = json!([folder.path()]);
            }
            logged_gate(config, json!({ "directory": decisions.path() }))
        }
    };
    let (before, after) = (support::set(before), support::set(after));
    let mut lines = String::new();
    for logged in log {
        match logged {
            Line::Text(text) => lines.push_str(&(text + "\n")),
            Line::Review(asked) => {
                let review = asked.review();
                (0..asked.times).for_each(|_| lines.push_str(&line(&before, support::review_id(), &review)));
            }
        }
    }
    let recent = gate.recent();
    for asked in reviews {
        let review = asked.review();
        for _ in 0..asked.times {
            let id = support::review_id();
            recent.push(id, &review);
            if asked.logged {
                lines.push_str(&line(&before, id, &review));
            }
        }
    }
    fs::write(decisions.path().join("decisions.jsonl"), lines + &log_end).unwrap();
    let (ruling, differences, why) = match gate.judge(&after, Some(&before)) {
        Ruling::Swap(differences) => ("swap", Some(differences), String::new()),
        Ruling::Hold(differences, why) => ("hold", Some(differences), why),
        Ruling::Reject(why) => ("refuse", None, why),
    };
    let why = why.replace(&folder.path().display().to_string(), "SUITE");
    let found = json!(differences);
    let same =
        ruling == expected.ruling && why.contains(&expected.why) && agrees(&found, &expected.differences);
    (!same).then(|| format!("{name}: {ruling}: {why}\n{found:#}"))
}

fn agrees(found: &Value, expected: &Value) -> bool {
    if let Some(reviews) = expected.get("someLeftOut") {
        let number = |key: &str| found[key].as_u64().unwrap();
        // A busy machine may leave out all reviews.
        return number("leftOut") > 0 && json!(number("leftOut") + number("reviews")) == *reviews;
    }
    let kinds = ["newlyDenied", "newlyAllowed", "changedReasons"];
    let counts = ["reviews", "leftOut", "undecided"];
    found.is_null()
        || counts.iter().all(|key| found[key] == *expected.get(key).unwrap_or(&json!(0)))
            && kinds.iter().all(|key| {
                let nothing = json!({ "reviews": 0, "examples": [] });
                let expected = expected.get(key).unwrap_or(&nothing);
                found[key]["reviews"] == expected["reviews"]
                    && (expected["examples"] == "any" || found[key]["examples"] == expected["examples"])
            })
}

pub(super) fn allows() -> Value {
    json!({ "policies": [{ "name": "p", "settings": { "images": { "*": { "outcome": "allow" } } } }] })
}

pub(super) fn denies_bad() -> Value {
    let images = json!({ "*": { "outcome": "allow" }, "bad": { "outcome": "deny" } });
    json!({ "policies": [{ "name": "p", "settings": { "images": images } }] })
}

/// Returns an ImageReview of one image with the expected result.
pub(super) fn fixture(image: &str, allowed: bool) -> String {
    let spec = json!({ "containers": [{ "image": image }] });
    json!({ "apiVersion": API_VERSION, "kind": "ImageReview", "spec": spec,
        "status": { "allowed": allowed } })
    .to_string()
}

pub(super) fn push(recent: &Recent, images: &[&str]) {
    images.iter().for_each(|image| support::remember(recent, image));
}

#[test]
fn a_candidate_that_waits_is_judged_again_when_something_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.json");
    fs::write(&path, fixture("x.io/bad", true)).unwrap();
    let (before, after, other) =
        (support::set(allows()), support::set(denies_bad()), support::scripted_set(json!({})));
    let mut gate = gate(json!({ "suites": [folder.path()], "onDifference": "Hold" }));
    assert_eq!(gate.folders(), [folder.path().to_owned()].into());
    assert!(matches!(gate.judge(&after, Some(&before)), Ruling::Reject(_)));
    // Later reviews do not change a ruling.
    fs::write(&path, fixture("x.io/bad", false)).unwrap();
    assert_eq!(gate.judge(&after, Some(&before)), Ruling::Swap(Default::default()));
    push(&gate.recent(), &["x.io/bad"]);
    assert_eq!(gate.judge(&after, Some(&before)), Ruling::Swap(Default::default()));
    // A ruling is not reused for another set in force.
    assert!(matches!(gate.judge(&after, Some(&other)), Ruling::Hold(..)));
    assert!(matches!(gate.judge(&after, Some(&before)), Ruling::Hold(..)));
    assert!(matches!(gate.judge(&before, Some(&after)), Ruling::Reject(_)));
}

#[test]
fn what_the_gate_judges_counts_nowhere() {
    let (before, after) = (support::set(allows()), support::set(denies_bad()));
    let mut gate = gate(json!({}));
    push(&gate.recent(), &["x.io/good", "x.io/bad"]);
    let Ruling::Swap(differences) = gate.judge(&after, Some(&before)) else {
        panic!("it is not asked to hold")
    };
    assert_eq!(differences.reviews, 2);
    for (set, fresh) in [(&before, support::set(allows())), (&after, support::set(denies_bad()))] {
        let seen = |set: &PolicySet| {
            let seen = set.policies[0].loaded.as_ref().unwrap().stats().snapshot();
            (seen.evaluations, seen.expected)
        };
        assert_eq!(seen(set), seen(&fresh));
        assert_eq!(seen(set).0, 0);
    }
}

/// limit: recent-bytes within, recent-bytes breaks
#[test]
fn reviews_of_late_are_limited_in_bytes() {
    let recent = Recent::default();
    recent.keep(10_000);
    let megabyte = "x".repeat(1 << 20);
    for number in 0..100 {
        push(&recent, &[&format!("{megabyte}{number}")]);
    }
    let kept = recent.newest();
    assert_eq!(kept.len(), 15, "of 1 MiB and something each");
    assert!(kept[0].images[0].ends_with("99"));
    // A review larger than the limit evicts no other.
    push(&recent, &[&megabyte.repeat(17)]);
    assert_eq!(recent.newest().len(), 15);
}

/// Returns the ruling on a candidate of the gate of a host.yaml whose suites are those of a folder.
fn ruling(folder: &std::path::Path, policies: Value) -> Ruling {
    let mut gate = Gate::default();
    let host = json!({ "gate": { "suites": [folder], "replay": 0 }, "policies": policies });
    gate.configure(&support::config(host));
    gate.judge(&support::set(denies_bad()), Some(&support::set(allows())))
}

#[test]
fn settings_in_a_folder_of_suites_are_no_fixtures() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: String| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let entry = |file: &str| json!([{ "name": "p", "module": "p.wasm", "settingsFrom": file }]);
    let suite = |key: &str, value: Value| {
        let case = json!({ "name": "none", "images": ["x"], "expect": "allow" });
        json!({ "apiVersion": "image-policy-host/v1alpha1", "kind": "Suite", key: value, "cases": [case] })
            .to_string()
    };
    write("case.json", fixture("x.io/bad", false));
    let settings = folder.path().join("settings.yaml");
    write("settings.yaml", "images: {}".to_owned());
    // No policy names the file.
    let Ruling::Reject(why) = ruling(folder.path(), json!([])) else { panic!("it is no fixture") };
    assert!(why.contains("settings.yaml"), "{why}");
    assert_eq!(
        ruling(folder.path(), json!([{ "name": "p", "settingsFrom": settings }])),
        Ruling::Swap(Default::default())
    );
    // Those of a suite's own policies, in each way to name them.
    write("suite.json", suite("policies", entry("./settings.yaml")));
    assert_eq!(ruling(folder.path(), json!([])), Ruling::Swap(Default::default()));
    write("suite.json", suite("host", json!("other.json")));
    write(
        "other.json",
        json!({ "kind": "HostConfiguration", "policies": entry("settings.yaml") }).to_string(),
    );
    assert_eq!(ruling(folder.path(), json!([])), Ruling::Swap(Default::default()));
    fs::remove_file(folder.path().join("suite.json")).unwrap();
    assert!(matches!(ruling(folder.path(), json!([])), Ruling::Reject(_)));
    write("host.yaml", json!({ "policies": entry("settings.yaml") }).to_string());
    write("below/case.json", fixture("x.io/bad", false));
    assert_eq!(ruling(folder.path(), json!([])), Ruling::Swap(Default::default()));
    // A folder without a case stays a mistake.
    fs::remove_dir_all(folder.path().join("below")).unwrap();
    fs::remove_file(folder.path().join("case.json")).unwrap();
    assert!(matches!(ruling(folder.path(), json!([])), Ruling::Reject(_)));
}
