//! The files of the decision log: limits of their size, no waiting, and no silent loss.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::telemetry::answered::{AnsweredReview, Ids};
use host::telemetry::decision_log::{DecisionLog, State};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::serve::metrics::{parse, value};
use crate::support::client::{Protocol, get, post};
use crate::support::evaluation::evaluate;
use crate::support::process::{HOST, Process};
use crate::support::{self, Installation};
use crate::telemetry::decision_log::{FILE, connect, lines, lines_of, review};

/// Returns the log's files in a folder, oldest first.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // The current file has the shortest name.
    files.sort_by_key(|file| (file.file_name().unwrap().len() == 15, file.clone()));
    files
}

/// All lines are written by the end of the process, and an incomplete line of another process is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_it_is_stopped() {
    let installation = Installation::bare(json!({ "decisionLog": { "directory": "decisions" } }));
    fs::create_dir(installation.path("decisions")).unwrap();
    fs::set_permissions(installation.path("decisions"), fs::Permissions::from_mode(0o700)).unwrap();
    installation.write(FILE, b"{\"id\":\"whole\"}\n{\"id\":\"cu");
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    for number in 0..500 {
        connection.review(&format!("image-{number}")).await.unwrap();
    }
    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    let lines = lines_of(&installation.path(FILE));
    assert_eq!((lines.len(), &lines[0]["id"]), (501, &json!("whole")));
    assert_eq!(lines[500]["images"][0]["original"], "image-499");
}

/// limit: decision-log-file within, decision-log-file breaks
/// limit: decision-log-files within, decision-log-files breaks
#[tokio::test]
async fn files_are_rotated_and_the_oldest_goes() {
    let log = json!({ "directory": "decisions", "fileSize": "1Mi", "files": 3 });
    let installation = Installation::bare(json!({ "decisionLog": log }));
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let long = json!({ "a.image-policy.k8s.io/b": "x".repeat(200 << 10) });
    let mut sent = 0;
    let mut ask = async |count: usize| {
        for _ in 0..count {
            let body = review("default", long.clone(), &[&format!("image-{sent}")]);
            assert_eq!(connection.send(post(body)).await.unwrap().status, 200);
            sent += 1;
        }
        let began = Instant::now();
        let last = format!("image-{}", sent - 1);
        while !fs::read_to_string(installation.path(FILE)).unwrap_or_default().contains(&last) {
            assert!(began.elapsed() < Duration::from_secs(60), "{last} is not written");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Five lines fit into a file.
    ask(15).await;
    assert_eq!(
        files(&installation.path("decisions")).iter().map(|file| lines_of(file).len()).collect::<Vec<_>>(),
        [5, 5, 5]
    );
    ask(1).await;
    let found = files(&installation.path("decisions"));
    assert_eq!(found.iter().map(|file| lines_of(file).len()).collect::<Vec<_>>(), [5, 5, 1]);
    assert!(found.iter().all(|file| fs::metadata(file).unwrap().len() <= 1 << 20), "{found:?}");
    assert_eq!(lines_of(&found[0])[0]["images"][0]["original"], "image-5", "the oldest is gone");
    // A rotated file has the id of the next review in its name.
    for pair in found.windows(2) {
        let next = &lines_of(&pair[1])[0]["id"];
        assert_eq!(
            pair[0].file_name().unwrap().to_str().unwrap(),
            format!("decisions-{}.jsonl", next.as_str().unwrap())
        );
    }
}

/// An incomplete line does not spoil the next one.
#[tokio::test]
async fn half_a_line_is_taken_away() {
    let installation = Installation::bare(json!({ "decisionLog": { "directory": "decisions" } }));
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    connection.review("first").await.unwrap();
    lines(&installation, 1).await;
    let mut file = OpenOptions::new().append(true).open(installation.path(FILE)).unwrap();
    file.write_all(b"{\"id\":\"cu").unwrap();
    connection.review("second").await.unwrap();
    assert_eq!(lines(&installation, 2).await[1]["images"][0]["original"], "second");
}

/// A file that is moved away, as logrotate does, is created again.
#[tokio::test]
async fn a_file_that_is_moved_away_is_made_anew() {
    let installation = Installation::bare(json!({ "decisionLog": { "directory": "decisions" } }));
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    connection.review("first").await.unwrap();
    lines(&installation, 1).await;
    fs::rename(installation.path(FILE), installation.path("decisions/taken")).unwrap();
    connection.review("second").await.unwrap();
    assert_eq!(lines(&installation, 1).await[0]["images"][0]["original"], "second");
}

/// Returns an allowed review with annotations of `bytes` bytes.
pub(crate) fn reviewed(ids: &Ids, bytes: usize) -> Arc<AnsweredReview> {
    let set = support::set(json!({ "policies": [], "allowEmpty": true, "unjudged": "Allow" }));
    let mut review = support::review("default", &["nginx"]);
    review.annotations.push(("a.image-policy.k8s.io/b".to_owned(), "x".repeat(bytes)));
    let verdict = evaluate(&set, &review);
    Arc::new(AnsweredReview::new(ids, Duration::from_micros(1), Arc::new(review), verdict))
}

/// Opens a log of its own.
pub(crate) fn open(config: Value) -> DecisionLog {
    let log = DecisionLog::default();
    log.configure(support::config(json!({ "decisionLog": config })).decision_log.as_ref());
    log
}

/// Gives `count` reviews to a log at once. Returns the number of written and of dropped lines.
fn at_once(queue: usize, count: u64, reviewed: &Arc<AnsweredReview>) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let log = open(json!({ "directory": folder.path(), "queue": queue }));
    for _ in 0..count {
        log.log(reviewed);
    }
    assert!(log.close(Duration::from_secs(60)));
    let state = log.state();
    assert_eq!((state.written + state.dropped, state.failed, state.waiting), (count, 0, 0), "{state:?}");
    let lines: usize = files(folder.path()).iter().map(|file| lines_of(file).len()).sum();
    assert_eq!(lines as u64, state.written);
    (state.written, state.dropped)
}

/// limit: decision-log-queue within, decision-log-queue breaks
#[test]
fn what_finds_the_queue_full_is_dropped_and_counted() {
    let reviewed = reviewed(&Ids::default(), 10);
    assert_eq!(at_once(1000, 1000, &reviewed), (1000, 0));
    let (_, dropped) = at_once(16, 10_000, &reviewed);
    assert!(dropped > 5000, "{dropped} of 10,000 were dropped");
}

/// The queue is limited in bytes, whatever the size of a review. Another process has the lock, so nothing is
/// written.
///
/// limit: decision-log-memory within, decision-log-memory breaks
#[test]
fn what_waits_is_limited_in_bytes() {
    let large = reviewed(&Ids::default(), 512 << 10);
    assert_eq!(at_once(65_536, 50, &large), (50, 0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let other = OpenOptions::new().create(true).append(true).open(file).unwrap();
    other.lock().unwrap();
    let log = open(json!({ "directory": folder.path(), "queue": 65_536 }));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while log.state().dropped == 0 {
                    log.log(&large);
                    let waiting = log.state().waiting;
                    assert!(waiting < 64, "{waiting} lines of half a mebibyte wait");
                    assert!(begun.elapsed() < Duration::from_secs(60), "none is dropped: {:?}", log.state());
                }
            });
        }
    });
}

/// A folder that others can write, a file instead of a folder, and a folder instead of a file are reported,
/// and every review gets its response.
#[tokio::test]
async fn what_cannot_be_written_is_loud_and_harmless() {
    let installation = Installation::bare(json!({ "decisionLog": { "directory": "decisions" } }));
    installation.write("decisions", b"a file");
    let server = installation.serve().await;
    let mut connection = connect(&installation, &server).await;
    let check = async |part: &str| {
        let began = Instant::now();
        loop {
            let (status, ready) = get(server.admin, "/readyz?verbose").await.unwrap();
            assert_eq!(status, 200);
            if ready.lines().any(|line| line.contains("]decision-log ") && line.contains(part)) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{part}:\n{ready}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    check("[-]decision-log failed: ").await;
    assert_eq!(connection.review("nginx").await.unwrap().json()["status"]["allowed"], true);
    check("is no folder: remove what stands there, or name another").await;
    fs::remove_file(installation.path("decisions")).unwrap();
    fs::create_dir(installation.path("decisions")).unwrap();
    fs::set_permissions(installation.path("decisions"), fs::Permissions::from_mode(0o777)).unwrap();
    connection.review("nginx").await.unwrap();
    check("others can write ").await;
    let (_, status) = get(server.admin, "/status").await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["degraded"], &status["decisionLog"]["written"]), (&json!(true), &json!(0)));
    assert!(status["decisionLog"]["failed"].as_u64().unwrap() >= 1, "{status}");
    fs::set_permissions(installation.path("decisions"), fs::Permissions::from_mode(0o700)).unwrap();
    connection.review("written").await.unwrap();
    check("[+]decision-log ok").await;
    let began = Instant::now();
    while lines(&installation, 1).await.last().unwrap()["images"][0]["original"] != "written" {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not written");
    }
}

/// A disk that is full in the middle of a line, and has space again later. (The limit is of file sizes, which
/// fails in the same place.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_loud_and_harmless() {
    let installation = Installation::bare(json!({ "decisionLog": { "directory": "decisions" } }));
    let mut command = std::process::Command::new("sh");
    // The signal of the limit kills a process that does not ignore it.
    let script = format!(
        "trap '' XFSZ; exec {HOST} serve --log-format text --config {}",
        installation.path("host.yaml").display()
    );
    let mut process = Process::start(command.args(["-c", &script]));
    let (address, admin) = process.addresses();
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    connection.review("first").await.unwrap();
    lines(&installation, 1).await;
    let id = Pid::from_raw(process.id().try_into().unwrap());
    let size = |most: Option<u64>| {
        prlimit(id, Resource::Fsize, Rlimit { current: most, maximum: None }).unwrap();
    };
    size(Some(20_000));
    for _ in 0..200 {
        let answer = connection.review("nginx").await.unwrap();
        assert_eq!(answer.json()["status"]["allowed"], true);
    }
    let line = process.wait_for("decision log: ");
    assert!(line.contains("ERROR") && line.contains("File too large"), "{line}");
    let (_, ready) = get(admin, "/readyz?verbose").await.unwrap();
    assert!(ready.contains("[-]decision-log failed: ") && ready.contains("File too large"), "{ready}");
    let page = parse(&get(admin, "/metrics").await.unwrap().1);
    let count = |result| value(&page, "image_policy_host_decision_log_lines_total", &[("result", result)]);
    assert!(count("failed") > 0.0);
    assert!(fs::metadata(installation.path(FILE)).unwrap().len() <= 20_000);

    size(None);
    connection.review("after").await.unwrap();
    let line = process.wait_for("decision log: lines are written again");
    assert!(line.contains("were lost"), "{line}");
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
    let written = lines_of(&installation.path(FILE));
    assert_eq!(written.last().unwrap()["images"][0]["original"], "after");
}

/// A log belongs to one process. Another one reports that, and its reviews do not wait.
#[test]
fn a_log_is_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let other =
        OpenOptions::new().create(true).append(true).open(folder.path().join("decisions.jsonl")).unwrap();
    other.lock().unwrap();
    let config = json!({ "directory": folder.path(), "fileSize": "1Mi", "files": 2, "queue": 1024 });
    let (log, ids) = (open(config), Ids::default());
    log.log(&reviewed(&ids, 100));
    let until = |what: &str, holds: &dyn Fn(State) -> bool| {
        let begun = Instant::now();
        while !holds(log.state()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {:?}", log.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    until("told", &|state| {
        state
            .trouble
            .is_some_and(|trouble| trouble.contains("another process writes decisions.jsonl: give each host"))
    });
    other.unlock().unwrap();
    log.log(&reviewed(&ids, 100));
    until("written", &|state| state.written > 0 && state.trouble.is_none());
}
