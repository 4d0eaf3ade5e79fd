//! The log of a server: the fields of a line, and the limits of the number of lines.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::serve::metrics::{parse, value};
use crate::support::client::{Connection, Protocol, get, post, review_in};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, scripted};

/// Starts a host whose log is JSON.
fn start(installation: &Installation) -> Process {
    let mut command = Command::new(HOST);
    command.arg("serve").arg("--config").arg(installation.path("host.yaml"));
    Process::start(&mut command)
}

/// Waits for a line that contains `part`. Returns its fields.
fn line(process: &mut Process, part: &str) -> Value {
    let line = process.wait_for(part);
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn connect(installation: &Installation, process: &mut Process) -> Connection {
    let (address, _) = process.addresses();
    installation.client().connect(address, Protocol::Http2).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_a_line_that_says_all() {
    let images = json!({
        "library/bad": { "outcome": "deny", "code": "bad", "reason": "it is bad", "log": ["a word"] },
        "library/broken": { "error": "no answer" },
    });
    let policy = |name: &str, mode: &str| {
        json!({ "name": name, "module": scripted(), "mode": mode,
        "settings": { "images": images } })
    };
    let installation =
        Installation::new(json!({ "policies": [policy("one", "enforce"), policy("watched", "audit")] }));
    let mut process = start(&installation);
    let mut connection = connect(&installation, &mut process).await;
    let answer = connection.send(post(review_in("a\nnamespace\u{202e}", "bad"))).await.unwrap().json();
    let annotations = &answer["status"]["auditAnnotations"];

    let said = line(&mut process, "a word");
    assert_eq!((&said["policy"], &said["target"]), (&json!("one"), &json!("policy")));
    assert_eq!(said["review"], annotations["review"]);
    let audit = line(&mut process, "would deny, but for mode audit of the policy");
    assert_eq!((&audit["policy"], &audit["reason"]), (&json!("watched"), &json!("it is bad")));
    let denied = line(&mut process, r#""denied""#);
    assert_eq!(denied["level"], "INFO");
    assert_eq!(denied["image"], "bad");
    assert_eq!(denied["policy"], "one");
    assert_eq!(denied["reason"], "it is bad (policy one)");
    assert_eq!(denied["namespace"], "a\\u{a}namespace\\u{202e}");
    assert_eq!(denied["generation"], annotations["generation"]);
    assert_eq!(denied["review"], annotations["review"]);
    assert_eq!(denied["review"].as_str().unwrap().len(), 36);

    // A denial by no policy has no `policy`, and forged text stays within its field.
    connection.send(post(review_in("default", "forged\n{\"level\":\"ERROR\"}"))).await.unwrap();
    let denied = line(&mut process, r#""denied""#);
    assert_eq!(denied["image"], "forged\\u{a}{\"level\":\"ERROR\"}");
    assert_eq!(denied.get("policy"), None);
    assert!(denied["reason"].as_str().unwrap().starts_with("not an image reference: "), "{denied}");

    connection.review("broken").await.unwrap();
    let malfunction = line(&mut process, "malfunction: it reported: no answer");
    assert_eq!((&malfunction["level"], &malfunction["counts_as"]), (&json!("WARN"), &json!("deny")));

    connection
        .send(post(r#"{"kind":"ImageReview","apiVersion":"imagepolicy.k8s.io/v1alpha1"}"#))
        .await
        .unwrap();
    let refused = line(&mut process, "denied as a whole");
    assert_eq!(refused["reason"], "malformed ImageReview: it has no `spec`");
    assert_eq!(refused.get("image"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_for_people() {
    let installation = Installation::new(json!({}));
    let mut process = installation.start();
    let mut connection = connect(&installation, &mut process).await;
    connection.review("nginx").await.unwrap();
    let line = process.wait_for("denied");
    assert!(
        line.contains(
            r#" INFO denied image="nginx" policy="trusted-registries" reason="registry docker.io "#
        ),
        "{line}"
    );
    assert!(!line.contains('\u{1b}'), "colours are for terminals: {line:?}");
}

/// limit: lines within, lines breaks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_denials_is_some_lines_and_one_that_counts_the_rest() {
    const FLOOD: u64 = 2000;
    let installation = Installation::bare(json!({ "unjudged": "Deny" }));
    let mut process = start(&installation);
    let (address, admin) = process.addresses();
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    for number in 0..40 {
        connection.review(&format!("few-{number}")).await.unwrap();
    }
    for number in 0..40 {
        process.wait_for(&format!(r#""few-{number}""#));
    }
    // The second may change during the flood.
    for _ in 0..FLOOD {
        connection.review("many").await.unwrap();
    }
    let page = get(admin, "/metrics").await.unwrap().1;
    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0));
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let written = lines.iter().filter(|line| line["image"] == "many").count() as u64;
    let told: Vec<u64> = lines.iter().filter_map(|line| line["left_out"].as_u64()).collect();
    assert_eq!(written + told.iter().sum::<u64>(), FLOOD, "{told:?}");
    assert!(!told.is_empty() && written < FLOOD, "{written} lines were written");
    let left_out = lines.iter().find(|line| line["left_out"].is_u64()).unwrap();
    let message = left_out["message"].as_str().unwrap();
    assert!(
        message.ends_with("more denials were left out of the log, which takes 200 of them a second"),
        "{message}"
    );
    let left_out = value(&parse(&page), "image_policy_host_log_lines_left_out_total", &[("kind", "denial")]);
    assert_eq!(left_out, (FLOOD - written) as f64);
}

/// A reader of the log that stops reading delays no review.
/// limit: log-buffer within, log-buffer breaks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let installation = Installation::bare(json!({}));
    let mut command = Command::new(HOST);
    command.arg("serve").arg("--config").arg(installation.path("host.yaml")).env("RUST_LOG", "host=debug");
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let (address, admin) = loop {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(&mut stderr, &mut line).unwrap(), 0, "it never served");
        if let Some(addresses) = crate::support::process::addresses(&line) {
            break addresses;
        }
    };
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    let lost = "image_policy_host_log_lines_lost_total";
    let page = async || parse(&get(admin, "/metrics").await.unwrap().1);
    for _ in 0..1000 {
        assert_eq!(connection.review("nginx").await.unwrap().status, 200);
    }
    assert_eq!(value(&page().await, lost, &[]), 0.0, "a reader may be late");
    for _ in 0..9000 {
        let review = tokio::time::timeout(Duration::from_secs(20), connection.review("nginx"));
        assert_eq!(review.await.expect("held up by the log").unwrap().status, 200);
    }
    assert!(value(&page().await, lost, &[]) > 0.0);
    child.kill().unwrap();
    child.wait().unwrap();
}
