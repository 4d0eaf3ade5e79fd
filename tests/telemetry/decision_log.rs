//! The decision log: the content of a line, another evaluation of a review by its line, and the selection of
//! logged reviews. Tests of its files are in `decision_files`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::review::Review;
use serde_json::{Value, json};

use crate::support::client::{Connection, Protocol, get, post};
use crate::support::evaluation::evaluate;
use crate::support::{self, Installation, scripted};

pub(crate) const FILE: &str = "decisions/decisions.jsonl";

/// Reads the lines of a file.
pub(crate) fn lines_of(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{}: the last line is cut", file.display());
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// Waits until the log has `count` lines.
pub(crate) async fn lines(installation: &Installation, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(installation.path(FILE)).unwrap_or_default();
        if text.lines().count() >= count && text.ends_with('\n') {
            return lines_of(&installation.path(FILE));
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{count} lines, but:\n{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn connect(installation: &Installation, server: &support::Server) -> Connection {
    installation.client().connect(server.address, Protocol::Http2).await.unwrap()
}

fn policies() -> Value {
    let images = json!({
        "library/good": { "outcome": "allow", "code": "good", "reason": "it is good" },
        "library/bad": { "outcome": "deny", "code": "bad", "reason": "it is bad" },
        "library/broken": { "error": "no answer" },
        "library/noted": { "annotation": ["a.image-policy.k8s.io/b", "allow"] },
    });
    let policy = |name: &str, mode: &str| {
        json!({ "name": name, "module": scripted(), "mode": mode,
        "settings": { "images": images } })
    };
    json!([policy("one", "enforce"), policy("watched", "audit")])
}

pub(crate) fn review(namespace: &str, annotations: Value, images: &[&str]) -> String {
    let containers: Vec<_> = images.iter().map(|image| json!({ "image": image })).collect();
    json!({
        "kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1",
        "spec": { "namespace": namespace, "annotations": annotations, "containers": containers },
    })
    .to_string()
}

/// Returns the line with the parts that differ from run to run replaced.
fn steady(mut line: Value) -> Value {
    for (field, is) in [
        ("id", line["id"].as_str().is_some_and(|id| id.len() == 36)),
        ("time", line["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z'))),
        ("generation", line["generation"].as_str().is_some_and(|generation| generation.starts_with("1-"))),
        ("microseconds", line["microseconds"].as_u64().is_some_and(|microseconds| microseconds > 0)),
    ] {
        assert!(is, "{field}: {line}");
        line.as_object_mut().unwrap().remove(field);
    }
    line
}

#[tokio::test]
async fn a_line_says_all_of_a_review() {
    let changes = json!({ "decisionLog": { "directory": "decisions" }, "policies": policies() });
    let installation = Installation::new(changes);
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let noted = json!({ "a.image-policy.k8s.io/b": "yes\u{202e}" });
    let mut answers = Vec::new();
    for body in [
        review("default", json!({}), &["good"]),
        review("shop", json!({}), &["good", "bad:1", "good"]),
        review("shop", noted, &["noted", "broken", "UPPER"]),
        r#"{"kind":"ImageReview","apiVersion":"imagepolicy.k8s.io/v1alpha1"}"#.to_owned(),
    ] {
        answers.push(connection.send(post(body)).await.unwrap().json());
    }
    let written = lines(&installation, 4).await;

    let said = |mode: &str, policy: &str, outcome: &str, code: &str, reason: &str| {
        json!({ "policy": policy,
        "mode": mode, "outcome": outcome, "code": code, "reason": reason })
    };
    let both = |outcome: &str, code: &str, reason: &str| {
        [said("enforce", "one", outcome, code, reason), said("audit", "watched", outcome, code, reason)]
    };
    let image = |original: &str, name: &str, tag: &str, allowed: bool, decisions: Value| {
        json!({
            "original": original, "registry": "docker.io", "repository": format!("library/{name}"),
                "tag": tag,
            "allowed": allowed, "decidedBy": "policies", "decisions": decisions,
        })
    };
    let good = image("good", "good", "latest", true, json!(both("allow", "good", "it is good")));
    assert_eq!(
        steady(written[0].clone()),
        json!({ "namespace": "default", "annotations": {}, "verdict": "allowed", "decidedBy": "policies",
            "images": [good] })
    );
    let bad = image("bad:1", "bad", "1", false, json!(both("deny", "bad", "it is bad")));
    assert_eq!(
        steady(written[1].clone()),
        json!({
            "namespace": "shop", "annotations": {}, "verdict": "denied",
            "decidedBy": "policies", "reason": "bad:1: it is bad (policy one)", "images": [good, bad],
        })
    );
    let third = &written[2];
    assert_eq!(third["annotations"], json!({ "a.image-policy.k8s.io/b": "yes\u{202e}" }));
    assert_eq!(third["images"][1]["decisions"][0]["malfunction"], "reported");
    assert_eq!(third["images"][1]["decisions"][0]["outcome"], "deny");
    assert_eq!(third["images"][1]["decisions"][0]["reason"], "it reported: no answer");
    assert_eq!(third["decidedBy"], "reference");
    let by: Vec<_> = third["images"].as_array().unwrap().iter().map(|image| &image["decidedBy"]).collect();
    assert_eq!(by, ["policies", "failure-policy", "reference"]);
    assert_eq!(third["images"][2]["registry"], Value::Null);
    assert!(third["images"][2]["error"].as_str().unwrap().contains("upper-case"), "{third}");
    assert_eq!(written[3]["verdict"], "refused");
    assert_eq!(written[3]["decidedBy"], "request");
    assert_eq!(written[3]["reason"], answers[3]["status"]["reason"]);

    // The line and the response agree.
    for (answer, line) in answers.iter().zip(&written) {
        assert_eq!(answer["status"]["auditAnnotations"]["decided-by"], line["decidedBy"]);
        assert_eq!(answer["status"]["auditAnnotations"]["generation"], line["generation"]);
    }
    // A denial names its line, and lines are in the order of their ids.
    for (answer, line) in answers.iter().zip(&written) {
        let id = &answer["status"]["auditAnnotations"]["review"];
        let denied = answer["status"]["allowed"] == false;
        assert_eq!(id, if denied { &line["id"] } else { &Value::Null }, "{answer}");
    }
    let ids: Vec<_> = written.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    // The file has no characters that deceive a reader.
    let text = fs::read_to_string(installation.path(FILE)).unwrap();
    assert!(
        text.contains("yes\\u202e")
            && text.bytes().all(|byte| byte.is_ascii_graphic() || b" \n".contains(&byte))
    );
}

/// The line has everything that a replay needs: the same set gives the same verdict.
#[tokio::test]
async fn a_review_can_be_judged_again_by_its_line() {
    let changes = json!({ "decisionLog": { "directory": "decisions" }, "policies": policies() });
    let installation = Installation::new(changes);
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let noted = json!({ "a.image-policy.k8s.io/b": "\n\"\\\u{7f}\u{1f600}" });
    for (annotations, images) in [
        (json!({}), vec!["good"]),
        (noted.clone(), vec!["noted", "good", "noted"]),
        (json!({}), vec!["noted", "x\u{202e}\u{1f600}y", ""]),
        (json!({}), vec!["good", "bad@sha256:1"]),
        (json!({}), vec![]),
    ] {
        connection.send(post(review("shop", annotations, &images))).await.unwrap();
    }
    let set = support::set(json!({ "policies": policies() }));
    for line in lines(&installation, 5).await {
        let annotations: BTreeMap<String, String> =
            serde_json::from_value(line["annotations"].clone()).unwrap();
        let images = line["images"].as_array().unwrap();
        let review = Review {
            namespace: line["namespace"].as_str().unwrap().to_owned(),
            annotations: annotations.into_iter().collect(),
            images: images.iter().map(|image| image["original"].as_str().unwrap().to_owned()).collect(),
        };
        let verdict = evaluate(&set, &review);
        assert_eq!(verdict.allowed(), line["verdict"] == "allowed", "{line}");
        assert_eq!(verdict.reason, line["reason"].as_str().unwrap_or_default(), "{line}");
    }
}

#[tokio::test]
async fn a_host_in_mode_audit_logs_what_it_would_deny() {
    let changes = json!({ "mode": "audit", "decisionLog": { "directory": "decisions", "sample": 0 } });
    let installation = Installation::new(changes);
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let answer = connection.review("nginx").await.unwrap().json();
    let line = &lines(&installation, 1).await[0];
    assert_eq!(line["verdict"], "would-deny");
    assert_eq!(line["reason"], answer["status"]["auditAnnotations"]["would-deny"]);
    assert_eq!(line["id"], answer["status"]["auditAnnotations"]["review"]);
}

/// Denials and failures are always written. The sampling of other reviews can be changed while the host runs.
#[tokio::test]
async fn allowed_reviews_can_be_sampled() {
    let changes =
        json!({ "decisionLog": { "directory": "decisions", "sample": 0.0 }, "policies": policies() });
    let installation = Installation::new(changes);
    let mut server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    for image in ["good", "bad", "good", "broken", "good"] {
        connection.review(image).await.unwrap();
    }
    let originals = |lines: &[Value]| -> Vec<String> {
        lines.iter().map(|line| line["images"][0]["original"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(originals(&lines(&installation, 2).await), ["bad", "broken"]);

    let host_yaml = fs::read_to_string(installation.path("host.yaml")).unwrap();
    installation.write("host.yaml", host_yaml.replace(r#""sample":0.0"#, r#""sample":0.25"#).as_bytes());
    server.reloader.reload();
    for _ in 0..400 {
        connection.review("good").await.unwrap();
    }
    connection.review("bad").await.unwrap();
    let began = Instant::now();
    let sampled = loop {
        let found = originals(&lines(&installation, 3).await);
        if found[2..].contains(&"bad".to_owned()) {
            break found.len() - 3;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{found:?}");
    };
    assert!((50..150).contains(&sampled), "{sampled} of 400 for a quarter");
}

#[tokio::test]
async fn it_comes_moves_and_goes_with_host_yaml() {
    let installation = Installation::bare(json!({}));
    let mut server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let host_yaml: Value =
        serde_json::from_slice(&fs::read(installation.path("host.yaml")).unwrap()).unwrap();
    let status = async |server: &support::Server| -> Value {
        let (_, status) = get(server.admin, "/status").await.unwrap();
        serde_json::from_str::<Value>(&status).unwrap()["decisionLog"].clone()
    };
    connection.review("unseen").await.unwrap();
    assert_eq!(status(&server).await, Value::Null);
    for (directory, image) in [("decisions", "first"), ("elsewhere", "second"), ("decisions", "third")] {
        let mut changed = host_yaml.clone();
        changed["decisionLog"] = json!({ "directory": directory });
        installation.write("host.yaml", changed.to_string().as_bytes());
        server.reloader.reload();
        connection.review(image).await.unwrap();
        let file = installation.path(directory).join("decisions.jsonl");
        let began = Instant::now();
        while !fs::read_to_string(&file).unwrap_or_default().contains(image) {
            assert!(began.elapsed() < Duration::from_secs(60), "{image} is not in {}", file.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(status(&server).await["trouble"], Value::Null);
    }
    installation.write("host.yaml", host_yaml.to_string().as_bytes());
    server.reloader.reload();
    connection.review("unseen").await.unwrap();
    assert_eq!(status(&server).await, Value::Null);
    assert_eq!(lines(&installation, 2).await.len(), 2);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(installation.path("decisions")), mode(installation.path(FILE))), (0o700, 0o600));
}

/// limit: decision-log-line within, decision-log-line breaks
#[tokio::test]
async fn a_line_over_its_bound_leaves_out_what_it_can() {
    let log = json!({ "directory": "decisions" });
    let limits = json!({ "images": 10_000, "annotations": "1Mi", "body": "8Mi" });
    let images = json!({ "*": { "outcome": "allow", "reason": "r".repeat(700) } });
    let policy = json!({ "name": "one", "module": scripted(), "settings": { "images": images } });
    let installation =
        Installation::new(json!({ "decisionLog": log, "limits": limits, "policies": [policy] }));
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    for (count, length) in [(100, 10), (1500, 10), (9000, 150)] {
        let names: Vec<_> = (0..count).map(|number| format!("{number}-{}", "x".repeat(length))).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let answer = connection.send(post(review("shop", json!({}), &names))).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let lines = lines(&installation, 3).await;
    let left_out: Vec<_> = lines.iter().map(|line| line["leftOut"].as_str()).collect();
    assert_eq!(left_out, [None, Some("decisions"), Some("request")]);
    let images: Vec<_> = lines.iter().map(|line| line["images"].as_array().unwrap().len()).collect();
    assert_eq!(images, [100, 1500, 0]);
    assert_eq!(lines[1]["images"][0]["decisions"], json!([]));
    assert_eq!(lines[1]["namespace"], "shop");
    assert!(lines.iter().all(|line| line.to_string().len() < 1 << 20));
}
