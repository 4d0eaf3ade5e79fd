//! The reload thread: it reports and survives a panic, and does nothing without a reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use host::policy::PolicyReader;
use host::reload::watch::{StopWatching, Watcher};
use host::reload::{Started, StatusReader};
use serde_json::{Value, json};

use crate::reload::candidate::{Installation, said, scripted_yaml};
use crate::support;
use crate::support::client::get;

/// Time limit of events that must happen but may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running reload thread.
struct Following {
    policies: PolicyReader,
    status: StatusReader,
    stop: StopWatching,
    thread: JoinHandle<()>,
}

impl Following {
    fn start(started: Started, before: impl FnOnce() + Send + 'static) -> Following {
        let Started { reloader, policies, status, .. } = started;
        let (watcher, stop) = Watcher::new();
        let thread = spawn(move || {
            before();
            reloader.run(watcher);
        });
        Following { policies, status, stop, thread }
    }

    fn problems(&self) -> Vec<String> {
        self.status.current().problems.iter().map(ToString::to_string).collect()
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_look_that_panics_is_told_and_not_the_last_one() {
    let settings = |reason: &str| {
        format!(
            "    configure: {{ run: {{ log: [hello] }} }}\n    images: {{ '*': {{ outcome: allow, reason: \
                {reason} }} }}"
        )
    };
    let installation = Installation::new(&scripted_yaml(&settings("before")));
    let defect = Arc::new(AtomicBool::new(true));
    let panics = Arc::clone(&defect);
    let following = Following::start(installation.start(), move || {
        support::at_each_line(move |line| {
            assert!(!line.contains("hello") || !panics.load(Ordering::Relaxed), "a defect");
        });
    });
    installation.host_yaml(&scripted_yaml(&settings("after")));
    let told = "reload: looking at the files panicked (the generation in force stays";
    until("it is told", || following.problems().iter().any(|problem| problem.starts_with(told)));
    assert_eq!(said(&following.policies), ["s: before"]);
    assert!(following.status.current().results.failed > 0);
    assert!(following.status.reload_lives());

    defect.store(false, Ordering::Relaxed);
    installation.host_yaml(&scripted_yaml(&settings("after")));
    until("files are followed", || said(&following.policies) == ["s: after"]);
    until("all is well again", || following.problems().is_empty());
    let status = following.status.clone();
    following.stop();
    assert!(!status.reload_lives());
}

#[tokio::test]
async fn a_reload_that_has_ended_is_seen_from_outside() {
    let installation = support::Installation::bare(json!({}));
    let server = installation.serve().await;
    assert_eq!(get(server.admin, "/livez").await.unwrap().0, 200);
    drop(server.reloader);
    assert_eq!(get(server.admin, "/livez").await.unwrap().0, 500);
    let (ready, lines) = get(server.admin, "/readyz?verbose").await.unwrap();
    assert_eq!(ready, 200, "it still denies what it has to");
    assert!(lines.contains("[-]reload failed: it has ended by a defect"), "{lines}");
    let status: Value = serde_json::from_str(&get(server.admin, "/status").await.unwrap().1).unwrap();
    assert_eq!((&status["degraded"], &status["problems"][0]["subject"]), (&json!(true), &json!("reload")));
}
