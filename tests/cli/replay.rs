//! `host test --replay`: the log of a running host, and limits. Other logs are cases of `cases/cli`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use host::author::replay::{self, Replay, ReplayReport};
use host::policy::PolicySet;
use host::review::Review;
use host::review::differences::Differences;
use host::telemetry::answered::{AnsweredReview, Ids};
use host::telemetry::decision_log::DecisionRecord;
use serde_json::{Value, json};

use crate::support::client::post;
use crate::support::evaluation::evaluate;
use crate::support::process::HOST;
use crate::support::{self, Installation};
use crate::telemetry::decision_files::files;
use crate::telemetry::decision_log::{connect, review};

/// Runs `host test --replay` in a folder. Returns the exit status and the output.
fn host_test(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(HOST)
        .args(["test", "--replay"])
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The log of a host that serves, in several files, agrees with its own host.yaml.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_running_host_is_replayed() {
    let log = json!({ "directory": "decisions", "fileSize": "1Mi" });
    let installation = Installation::new(json!({ "decisionLog": log }));
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let long = json!({ "a.image-policy.k8s.io/b": "x".repeat(200 << 10) });
    let images = ["registry.k8s.io/pause:3.10", "nginx", "UPPER"];
    let count = 12;
    for number in 0..count {
        let body = review("shop", long.clone(), &[images[number % images.len()]]);
        assert_eq!(connection.send(post(body)).await.unwrap().status, 200);
    }
    assert!(server.stop().await.unwrap());
    let folder = installation.path("");
    let began = std::time::Instant::now();
    let written = || files(&installation.path("decisions")).iter().map(|file| lines(file)).sum::<usize>();
    while written() < count {
        assert!(began.elapsed() < Duration::from_secs(60), "{} lines", written());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(files(&installation.path("decisions")).len() >= 2);

    let agrees = "of 12 reviews 0 newly denied, 0 newly allowed, 0 with another reason\n";
    assert_eq!(host_test(&folder, &["decisions"]), (0, agrees.to_owned(), String::new()));
    // A file counts once, however often it is named.
    let current = "decisions/decisions.jsonl";
    assert_eq!(host_test(&folder, &["decisions", current]).1, agrees);

    let settings = "{ \"allow\": [\"docker.io/**\"] }";
    installation.write("settings.yaml", settings.as_bytes());
    let other = ["--policy", "policies/trusted-registries.wasm", "--settings", "settings.yaml"];
    let (status, found, _) = host_test(&folder, &[&["decisions", "--format", "json"], &other[..]].concat());
    let differences: Differences = serde_json::from_str(&found).unwrap();
    assert_eq!((status, differences.reviews), (1, 12));
    assert_eq!((differences.newly_denied.reviews, differences.newly_allowed.reviews), (4, 4));

    // The files of a folder that others can write are read only if they are named.
    fs::set_permissions(installation.path("decisions"), Permissions::from_mode(0o777)).unwrap();
    let (status, _, said) = host_test(&folder, &["decisions"]);
    assert!(status == 2 && said.contains("others can write") && said.contains("name the files"), "{said}");
    fs::set_permissions(installation.path(current), Permissions::from_mode(0o666)).unwrap();
    let names =
        files(&installation.path("decisions")).iter().map(|path| path.display().to_string()).collect();
    let names: Vec<String> = names;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(host_test(&folder, &names), (0, agrees.to_owned(), String::new()));
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap().lines().count()
}

/// Returns a set that decides every image alike.
fn set(unjudged: &str) -> PolicySet {
    support::set(json!({ "policies": [], "allowEmpty": true, "unjudged": unjudged }))
}

/// Returns the line of a review, as decided by a set.
fn line(set: &PolicySet, review: Review) -> String {
    let verdict = evaluate(set, &review);
    let reviewed = AnsweredReview::new(&Ids::default(), Duration::ZERO, review.into(), verdict);
    serde_json::to_string(&DecisionRecord::new(&reviewed)).unwrap() + "\n"
}

/// Judges lines that were allowed by a set that denies every image.
fn replayed(lines: &str, examples: usize) -> ReplayReport {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, lines).unwrap();
    let logs = replay::open(&[PathBuf::from(file.path())]).unwrap();
    Replay { set: &set("Deny"), jobs: 2, examples }.run(logs).unwrap()
}

/// limit: replay-examples within, replay-examples breaks
#[test]
fn examples_are_limited_and_the_rest_is_counted() {
    let allowing = set("Allow");
    let limit = 1000;
    for (count, kept) in [(limit, limit), (limit + 1, limit)] {
        let line = |number| line(&allowing, support::review(&format!("n{number}"), &["nginx"]));
        let report = replayed(&(0..count).map(line).collect::<String>(), limit);
        let found = report.differences.newly_denied;
        assert_eq!((found.reviews, found.examples.len()), (count as u64, kept));
    }
}

/// The result does not depend on the number of batches.
///
/// limit: replay-batch within, replay-batch breaks
#[test]
fn a_log_larger_than_memory_is_judged_in_parts() {
    let allowing = set("Allow");
    let of = |number: usize| {
        let mut review = support::review(&format!("n{number}"), &["nginx"]);
        review.annotations.push(("a.image-policy.k8s.io/b".to_owned(), "x".repeat(200 << 10)));
        line(&allowing, review)
    };
    for mebibytes in [15, 18] {
        let distinct = mebibytes * 5;
        let once: String = (0..distinct).map(of).collect();
        let found = replayed(&once.repeat(2), 1000).differences.newly_denied;
        assert_eq!((found.reviews, found.examples.len()), (2 * distinct as u64, distinct));
        assert!(found.examples.iter().all(|example| example.reviews == 2));
    }
}

#[test]
fn lines_that_are_no_record_cost_nothing_but_themselves() {
    let line = line(&set("Allow"), support::review("shop", &["nginx"]));
    let mut unknown: Value = serde_json::from_str(&line).unwrap();
    unknown["verdict"] = "postponed".into();
    let half = line.split_at(line.len() / 2).0;
    let long = "x".repeat(3 << 20);
    let report = replayed(&format!("{line}{long}\n{line}\n{unknown}\n{half}\n{line}{long}"), 5);
    assert_eq!((report.differences.reviews, report.not_judged.no_record), (3, 5));
    let first = report.not_judged.first_no_record.unwrap();
    assert!(first.ends_with(":2: the line is longer than 1Mi"), "{first}");
    // The last line needs no line break.
    let report = replayed(line.trim_end(), 5);
    assert_eq!((report.differences.reviews, report.not_judged.no_record), (1, 0));
}
