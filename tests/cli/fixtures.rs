//! Folders of fixtures, without a suite: ImageReviews whose `status` is the expected response.
//!
//! The reviews are those that kube-apiservers sent (`fixtures/apiserver`), in other namespaces, orders and
//! notations, and the fixtures of `cases/cli` as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::cases::root;
use crate::support::client::{Protocol, post};
use crate::support::process::HOST;
use crate::support::{Installation, cases};

const COUNT: usize = 200;

/// Folders of `cases/cli` whose fixtures pass if `registry.k8s.io/**` is trusted.
const WRITTEN: [&str; 7] = [
    "test-passes",
    "test-one-file",
    "test-fixture-crlf",
    "test-json",
    "test-config/suite",
    "test-several/one/nested/deep",
    "test-audit-annotations/passes.yaml",
];

const NAMESPACES: [&str; 5] = ["default", "shop", "kube-system", "team-a", "0-9"];

/// A review, and whether a host that trusts `registry.k8s.io/**` allows it.
#[derive(Clone)]
struct Reviewed {
    spec: Value,
    allowed: bool,
}

/// Returns the ImageReviews that kube-apiservers sent to a backend that trusts `registry.k8s.io` alone.
fn recorded() -> Vec<Reviewed> {
    let versions = ["v1.31.0", "v1.37.2"].map(|version| format!("fixtures/apiserver/{version}"));
    let mut reviews = Vec::new();
    for (_, recording) in versions.iter().flat_map(|folder| cases::<Value>(folder)) {
        for request in recording["requests"].as_array().unwrap() {
            let body: Value = serde_json::from_str(request["raw"].as_str().unwrap()).unwrap();
            if body["kind"] == "ImageReview" {
                reviews.push(Reviewed { spec: body["spec"].clone(), allowed: recording["exit"] == 0 });
            }
        }
    }
    reviews
}

/// Returns a number of reviews that differ from each other.
fn reviews(count: usize) -> Vec<Reviewed> {
    let recorded = recorded();
    let of = |number: usize| {
        let mut review = recorded[number % recorded.len()].clone();
        let round = number / recorded.len();
        let containers = review.spec["containers"].as_array_mut().unwrap();
        let first = round % containers.len();
        containers.rotate_left(first);
        if round % 3 == 2 {
            let again = containers[0].clone();
            containers.push(again);
        }
        review.spec["namespace"] = json!(NAMESPACES[round % NAMESPACES.len()]);
        if round % 2 == 1 {
            review.spec["annotations"]["number.image-policy.k8s.io/text"] =
                json!(format!("{number} \u{1f4e6}"));
        }
        review
    };
    (0..count).map(of).collect()
}

/// Returns a part of the reason for which a host that trusts `registry.k8s.io/**` denies a review.
fn reason(review: &Reviewed) -> &'static str {
    let images = review.spec["containers"].as_array().unwrap();
    let has =
        |beginning: &str| images.iter().any(|one| one["image"].as_str().unwrap().starts_with(beginning));
    if has("HTTP:") {
        return "HTTP://Evil.example/Not a Reference: not an image reference";
    }
    match has("evil.example/") {
        true => "registry evil.example is not trusted",
        false => "registry docker.io is not trusted",
    }
}

/// Returns the name and the text of a fixture, in one of the notations in which people write them.
fn fixture(number: usize, review: &Reviewed, status: &Value) -> (String, String) {
    let Reviewed { spec, .. } = review;
    let whole = json!({
        "apiVersion": host::review::API_VERSION, "kind": "ImageReview", "spec": spec, "status": status,
    });
    let (extension, text) = match number % 4 {
        0 => ("json", whole.to_string()),
        1 => ("json", serde_json::to_string_pretty(&whole).unwrap()),
        2 => ("yaml", whole.to_string()),
        _ => {
            let head =
                format!("# Review {number}\napiVersion: {}\nkind: ImageReview\n", host::review::API_VERSION);
            let containers = spec["containers"].as_array().unwrap().iter();
            let containers =
                containers.map(|one| format!("  - image: {}\n", one["image"])).collect::<String>();
            let annotations = match &spec["annotations"] {
                Value::Null => String::new(),
                annotations => format!("  annotations: {annotations}\n"),
            };
            let namespace = &spec["namespace"];
            let spec = format!("spec:\n  namespace: {namespace}\n{annotations}  containers:\n{containers}");
            ("yml", format!("{head}{spec}status: {status}\n"))
        }
    };
    let folder = NAMESPACES[number % NAMESPACES.len()];
    (format!("{folder}/review{number:03}.{extension}"), text)
}

/// Copies the fixtures of [`WRITTEN`] byte for byte. Returns their number.
fn copy_written(to: &Path) -> usize {
    let mut count = 0;
    for (number, name) in WRITTEN.iter().enumerate() {
        let path = root().join("tests/cases/cli").join(name);
        let files: Vec<PathBuf> = match fs::read_dir(&path) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![path],
        };
        let is_fixture = |file: &&PathBuf| {
            let name = file.file_name().unwrap();
            name != "host.yaml" && file.extension().is_some_and(|of| of == "json" || of == "yaml")
        };
        let folder = to.join(format!("written{number}"));
        fs::create_dir_all(&folder).unwrap();
        for file in files.iter().filter(is_fixture) {
            fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
            count += 1;
        }
    }
    count
}

fn write(folder: &Path, (name, text): (String, String)) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Runs `host test` in a folder, without anything on standard error. Returns the exit status and the output.
fn host_test(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(HOST);
    command.arg("test").args(arguments).current_dir(folder);
    let output = command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Returns the last line without the time.
fn totals(said: &str) -> &str {
    let last = said.lines().last().unwrap_or_default();
    last.split_once(" in ").unwrap_or_else(|| panic!("no totals:\n{said}")).0
}

#[test]
fn two_hundred_fixtures_pass_as_they_are_and_a_wrong_one_among_them_fails() {
    let installation = Installation::new(json!({}));
    let folder = installation.path("");
    let fixtures = installation.path("fixtures");
    let written = copy_written(&fixtures);
    assert!(written >= 8, "only {written} written fixtures are there");
    let reviews = reviews(COUNT - written);
    assert!(reviews.iter().any(|review| review.allowed) && reviews.iter().any(|review| !review.allowed));
    let of = |number: usize, allowed: bool| {
        let review: &Reviewed = &reviews[number];
        let mut status = json!({ "allowed": allowed });
        if !review.allowed && !number.is_multiple_of(3) {
            status["reason"] = json!(reason(review));
        }
        if review.allowed && number.is_multiple_of(2) {
            let annotations =
                json!({ "trusted-registries.pattern": "registry.k8s.io/**", "decided-by": "policies" });
            status["auditAnnotations"] = annotations;
        }
        fixture(number, review, &status)
    };
    (0..reviews.len()).for_each(|number| write(&fixtures, of(number, reviews[number].allowed)));
    let (status, said) = host_test(&folder, &["fixtures"]);
    assert_eq!((status, totals(&said)), (0, "200 passed, 0 failed"), "{said}");

    for number in [0, 120] {
        let allowed = reviews[number].allowed;
        let wrong = of(number, !allowed);
        let title = format!("FAIL fixtures/{}\n", wrong.0);
        write(&fixtures, wrong);
        let (status, said) = host_test(&folder, &["fixtures", "-q"]);
        assert_eq!((status, totals(&said)), (1, "199 passed, 1 failed"), "{said}");
        let [expected, got] = if allowed { ["deny", "allow"] } else { ["allow", "deny"] };
        let difference = format!("     expected {expected}\n          got {got} ");
        let told = said.strip_prefix(&title).unwrap_or_else(|| panic!("{title}\n{said}"));
        assert!(told.starts_with(&difference), "{said}");
        write(&fixtures, of(number, allowed));
    }
}

/// The command and the server do not disagree: the server's response to a review is the `status` with which a
/// fixture of the review passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_of_a_server_are_fixtures_that_pass() {
    let installation = Installation::new(json!({ "policies": [
        {
            "name": "trusted-registries", "module": "policies/trusted-registries.wasm",
            "settings": { "allow": ["registry.k8s.io/**"] },
        },
        {
            "name": "pinned-images", "module": "policies/pinned-images.wasm",
            "settings": { "requireDigest": false },
            "match": { "namespaces": { "exclude": ["shop"] } },
        },
    ]}));
    let fixtures = installation.path("fixtures");
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http1).await.unwrap();
    for (number, review) in reviews(COUNT).iter().enumerate() {
        let body = json!({
            "apiVersion": host::review::API_VERSION, "kind": "ImageReview", "spec": review.spec,
        });
        let answer = connection.send(post(body.to_string())).await.unwrap().json();
        let mut status = answer["status"].clone();
        assert_eq!(status["allowed"], review.allowed, "{answer}");
        assert_eq!(status["reason"].is_string(), !review.allowed, "{answer}");
        // Only a server numbers its generations and reviews.
        let annotations = status["auditAnnotations"].as_object_mut().unwrap();
        assert!(annotations.remove("generation").is_some(), "{answer}");
        assert_eq!(annotations.remove("review").is_some(), !review.allowed, "{answer}");
        write(&fixtures, fixture(number, review, &status));
    }
    assert!(server.stop().await.unwrap());
    let (status, said) = host_test(&installation.path(""), &["fixtures"]);
    assert_eq!((status, totals(&said)), (0, "200 passed, 0 failed"), "{said}");
}
