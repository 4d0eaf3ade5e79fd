//! The webhook for ImageReview: requests of an apiserver, requests that it never sends, and the responses.
//! Every file of `cases/webhook` is a test, over HTTP/1.1 and HTTP/2; `fixtures/apiserver` holds requests of
//! real apiservers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::client::{Answer, BOTH, Body, Protocol, full, get, post as posted, review_of};
use crate::support::{Installation, assert_none, cases};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    #[expect(dead_code, reason = "for the reader of the case")]
    why: String,
    #[serde(default)]
    #[expect(dead_code, reason = "for the count of tests that every limit has")]
    limit: String,
    request: Sent,
    answer: Expected,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sent {
    #[serde(default = "post")]
    method: String,
    #[serde(default = "root")]
    path: String,
    /// Additional headers to `content-type: application/json`; null removes one.
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    #[serde(default)]
    body: Vec<Part>,
    /// Size of the pieces in which the body is sent, without a length.
    piece: Option<usize>,
}

fn post() -> String {
    "POST".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Hex { hex: String },
    Repeated { repeat: String, times: usize },
    Json { json: Value },
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Part::Text(text) => text.clone().into_bytes(),
            Part::Hex { hex } => {
                hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
            }
            Part::Repeated { repeat, times } => repeat.repeat(*times).into_bytes(),
            Part::Json { json } => json.to_string().into_bytes(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) status: u16,
    /// The verdict of an ImageReview.
    pub(super) allowed: Option<bool>,
    /// Parts of the reason, of the Status' message, or of a plain body.
    #[serde(default)]
    pub(super) says: Vec<String>,
}

impl Sent {
    fn request(&self) -> Request<Body> {
        let mut headers = BTreeMap::from([("content-type".to_owned(), Some("application/json".to_owned()))]);
        headers.extend(self.headers.clone());
        let mut request =
            Request::builder().method(self.method.as_str()).uri(format!("https://localhost{}", self.path));
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let bytes: Vec<u8> = self.body.iter().flat_map(Part::bytes).collect();
        let body = match self.piece {
            None => full(bytes),
            Some(piece) => in_pieces(&bytes, piece),
        };
        request.body(body).unwrap()
    }
}

fn in_pieces(bytes: &[u8], piece: usize) -> Body {
    let (mut sender, body) = Channel::new(1);
    let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    tokio::spawn(async move {
        for piece in pieces {
            sender.send_data(piece).await.unwrap();
        }
    });
    body.boxed()
}

/// Returns the differences from `expected`, and from the properties of every response.
pub(super) fn differences(expected: &Expected, answer: &Answer, head: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let status = answer.status.as_u16();
    check(status == expected.status, format!("status {status}, not {}", expected.status));
    check(!answer.headers.contains_key("retry-after"), "Retry-After makes apiservers retry too often".into());
    check(answer.headers.contains_key("allow") == (answer.status == 405), "Allow goes with 405".into());
    let json = answer.json();
    let line = if let Some(allowed) = expected.allowed {
        check(json["kind"] == "ImageReview", format!("kind {}", json["kind"]));
        check(json["apiVersion"] == "imagepolicy.k8s.io/v1alpha1", format!("{}", json["apiVersion"]));
        check(json["status"]["allowed"] == allowed, format!("allowed {}", json["status"]["allowed"]));
        let reason = json["status"]["reason"].as_str().unwrap_or_default();
        check(allowed == reason.is_empty(), format!("allowed {allowed}, reason {reason:?}"));
        check(json["status"]["auditAnnotations"]["generation"].is_string(), "no generation".into());
        reason.to_owned()
    } else if status >= 400 {
        check(json["kind"] == "Status" && json["apiVersion"] == "v1", format!("no Status: {json}"));
        check(json["status"] == "Failure" && json["code"] == status, format!("no failure: {json}"));
        check(json["reason"].is_string(), format!("no reason: {json}"));
        json["message"].as_str().unwrap_or_default().to_owned()
    } else {
        answer.text().to_owned()
    };
    if expected.allowed.is_some() || status >= 400 {
        check(answer.headers["content-type"] == "application/json", "not told that it is JSON".into());
        check(line.len() <= 1024, format!("{} bytes of reason", line.len()));
        let forged =
            |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
        check(!line.contains(forged), format!("not one plain line: {line:?}"));
    }
    check(!head || answer.body.is_empty(), "a body for HEAD".into());
    for part in &expected.says {
        check(line.contains(part), format!("{line:?} does not say {part:?}"));
    }
    found
}

#[tokio::test]
async fn every_case() {
    let installation = Installation::new(json!({ "limits": { "body": "1Mi" } }));
    let server = installation.serve().await;
    let cases = cases::<Case>("cases/webhook");
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut found = Vec::new();
    for protocol in BOTH {
        let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
        for (name, case) in &cases {
            match connection.send(case.request.request()).await {
                Ok(answer) => found.extend(
                    differences(&case.answer, &answer, case.request.method == "HEAD")
                        .iter()
                        .map(|difference| format!("{name}, {protocol:?}: {difference}")),
                ),
                Err(error) => {
                    found.push(format!("{name}, {protocol:?}: {error}"));
                    connection = installation.client().connect(server.address, protocol).await.unwrap();
                }
            }
        }
    }
    assert_none(&found);
}

/// A recorded kubectl command, and the requests of the apiserver that it caused.
#[derive(Deserialize)]
struct Recorded {
    exit: i32,
    requests: Vec<RecordedRequest>,
}

#[derive(Deserialize)]
struct RecordedRequest {
    path: String,
    headers: BTreeMap<String, String>,
    raw: String,
}

impl RecordedRequest {
    fn replay(&self, path: &str) -> Request<Body> {
        let mut request = Request::post(format!("https://localhost{path}"));
        for (name, value) in &self.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        request.body(full(self.raw.clone())).unwrap()
    }
}

#[tokio::test]
async fn what_apiservers_sent() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let (mut image_reviews, mut admission_reviews, mut found) = (0, 0, Vec::new());
    for version in ["v1.31.0", "v1.37.2"] {
        let mut connection = installation.client().connect(server.address, Protocol::Http1).await.unwrap();
        for (name, recorded) in cases::<Recorded>(&format!("fixtures/apiserver/{version}")) {
            for request in &recorded.requests {
                let body: Value = serde_json::from_str(&request.raw).unwrap();
                let answer = connection.send(request.replay(&request.path)).await.unwrap();
                let mut check = |answer: &Answer, expected: Expected| {
                    let differences = differences(&expected, answer, false);
                    found.extend(
                        differences.iter().map(|difference| format!("{version} {name}: {difference}")),
                    );
                };
                if body["kind"] == "ImageReview" {
                    image_reviews += 1;
                    // The recorded backend trusted `registry.k8s.io` and nothing else.
                    let allowed = Some(recorded.exit == 0);
                    check(&answer, Expected { status: 200, allowed, says: Vec::new() });
                } else {
                    admission_reviews += 1;
                    let says = vec![
                        "this webhook takes ImageReview".to_owned(),
                        "this is kind `AdmissionReview`".to_owned(),
                    ];
                    check(&answer, Expected { status: 400, allowed: None, says });
                }
            }
        }
    }
    assert_none(&found);
    assert_eq!((image_reviews, admission_reviews), (14, 11), "recordings are missing");
}

#[tokio::test]
async fn the_reason_names_each_image_that_is_refused() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let answer = connection.review("nginx").await.unwrap().json();
    let reason = answer["status"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("nginx: ") && reason.ends_with("(policy trusted-registries)"), "{reason}");
    let answer = connection.review("registry.k8s.io/pause:3.10").await.unwrap().json();
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
}

/// With `mode: audit` the host denies nothing, not even a request over a limit, and reports the denials that
/// it would have made.
#[tokio::test]
async fn a_host_in_audit_mode_only_reports() {
    let installation = Installation::new(json!({ "mode": "audit", "limits": { "body": "64Ki" } }));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    for (body, would_deny) in [
        (review_of("nginx"), "nginx: "),
        (" ".repeat(1 << 17), "limits.body"),
        (review_of("a\nb"), "a\\u{a}b: "),
    ] {
        let request = Request::post("https://localhost/").body(full(body)).unwrap();
        let answer = connection.send(request).await.unwrap().json();
        assert_eq!(answer["status"]["allowed"], true, "{answer}");
        let reported = answer["status"]["auditAnnotations"]["would-deny"].as_str().unwrap();
        assert!(reported.contains(would_deny), "{reported}");
    }
}

/// Without this a `server:` that points to another backend would not show anywhere, and `defaultAllow` would
/// decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_no_image_review_are_logged_and_shown_when_they_repeat() {
    let installation = Installation::bare(json!({}));
    let mut process = installation.start();
    let (address, admin) = process.addresses();
    let mut connection = installation.client().connect(address, Protocol::Http1).await.unwrap();
    let wrong = || {
        let uri = format!("https://localhost/validate/%1b[2J{}?timeout=30s", "x".repeat(300));
        Request::post(uri)
            .body(full(r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#))
            .unwrap()
    };
    let problems = async || -> Vec<Value> {
        let status: Value = serde_json::from_str(&get(admin, "/status").await.unwrap().1).unwrap();
        assert_eq!(status["degraded"], !status["problems"].as_array().unwrap().is_empty());
        status["problems"].as_array().unwrap().clone()
    };
    for sent in 1..=5 {
        assert_eq!(connection.send(wrong()).await.unwrap().status, 400);
        let line = process.wait_for("rejected a request with 400: POST /validate/%1b[2Jxxx");
        assert!(
            line.contains("… from 127.0.0.1:") && line.contains("this is kind `AdmissionReview`"),
            "{line}"
        );
        assert!(line.len() < 500 && !line.contains("timeout"), "{line}");
        assert_eq!(problems().await.len(), usize::from(sent >= 3), "after {sent}");
    }
    // A page of the admin listener is cached for a tenth of a second.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let problem = &problems().await[0];
    assert_eq!(problem["subject"], "requests");
    let message = problem["message"].as_str().unwrap();
    assert!(message.starts_with("5 requests since ") && message.contains("POST /validate/"), "{message}");
    assert!(message.contains("check `server` in the apiserver's kubeconfig"), "{message}");
    let (status, ready) = get(admin, "/readyz?verbose").await.unwrap();
    assert!(status == 200 && ready.contains("[-]requests failed: 5 requests since "), "{ready}");
    assert!(get(admin, "/metrics").await.unwrap().1.contains("\nimage_policy_host_problems 1"));
    assert_eq!(connection.send(posted(review_of("nginx"))).await.unwrap().status, 200);
}
