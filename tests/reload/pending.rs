//! Candidates that are pending: held, rejected, approved, and judged again.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use host::reload::gate::{Gate, Ruling};
use host::reload::history::PendingReason;
use host::reload::watch::Watcher;
use host::reload::{Command, PassCounts, Started};
use host::review::differences::Differences;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::gate::{allows, denies_bad, fixture, gate, line, logged_gate, push};
use crate::reload::candidate;
use crate::serve::control::{host, status};
use crate::support::client::Protocol;
use crate::support::process::HOST;
use crate::support::{self, Installation, scripted, version};

/// Changes the registries that the policy trusts.
fn trust(installation: &Installation, allow: &[&str]) {
    let mut host: Value = serde_json::from_slice(&fs::read(installation.path("host.yaml")).unwrap()).unwrap();
    host["policies"][0]["settings"]["allow"] = json!(allow);
    installation.replace("host.yaml", host.to_string().as_bytes());
}

fn until(installation: &Installation, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let status = status(installation);
        if holds(&status) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A change without any reviews to compare comes into force, and its record says so.
#[test]
fn a_change_without_reviews_to_try_it_on_says_so() {
    let gate = json!({ "replay": 10, "onDifference": "Hold" });
    let installation = Installation::new(json!({ "stateDirectory": "state", "gate": gate }));
    let mut process = installation.start();
    process.addresses();
    trust(&installation, &["docker.io/**"]);
    let unknown = "differences: not known, since there were no reviews to try it on";
    process.wait_for(&format!("in force (files changed); {unknown}"));
    until(&installation, "told", |status| {
        status["history"].as_array().unwrap().last().unwrap()["differences"]["reviews"] == 0
    });
    let (code, said) = host(&installation, "status");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(unknown), "{said}");
}

/// End to end: a review is remembered, a change is tried on it, held, shown and approved; another change
/// fails its suite.
#[tokio::test]
async fn a_candidate_is_held_and_approved_and_another_refused() {
    let installation = Installation::new(json!({
        "stateDirectory": "state", "gate": { "suites": ["suite"], "onDifference": "Hold" },
    }));
    fs::create_dir(installation.path("suite")).unwrap();
    let (ours, theirs) = ("registry.k8s.io/pause:3.10", "docker.io/library/nginx:1.27");
    installation.write("suite/ours.json", fixture(ours, true).as_bytes());
    let mut process = installation.start();
    let (webhook, _) = process.addresses();
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    let mut allows = async |image: &str| {
        let answer = connection.review(image).await.unwrap();
        answer.json()["status"]["allowed"].as_bool().unwrap()
    };
    assert!(allows(ours).await && !allows(theirs).await);
    assert!(!allows(theirs).await);

    trust(&installation, &["registry.k8s.io/**", "docker.io/library/*"]);
    let held = until(&installation, "held", |status| status["candidate"]["state"] == "held");
    assert_eq!(held["degraded"], true);
    let differences = &held["candidate"]["differences"];
    assert_eq!(differences["reviews"], 3, "{held:#}");
    assert_eq!(differences["newlyAllowed"]["reviews"], 2);
    assert_eq!(differences["newlyAllowed"]["examples"][0]["images"], json!([theirs]));
    assert!(!allows(theirs).await, "it waits");
    let (code, said) = host(&installation, "status");
    assert_eq!(code, 1);
    let digest = held["candidate"]["digest"].as_str().unwrap();
    assert!(said.contains(&format!("is held until `host approve {digest}`")), "{said}");
    assert!(
        said.contains("2 newly allowed, 0 with another reason; such as docker.io/library/nginx:1.27"),
        "{said}"
    );

    let (code, said) = host(&installation, "approve");
    assert_eq!(code, 2, "only what is named is approved: {said}");
    let (code, said) = host(&installation, &format!("approve {digest}"));
    assert_eq!(code, 0, "{said}");
    assert!(allows(theirs).await);
    let approved = status(&installation);
    assert_eq!(approved["generation"]["cause"]["kind"], "approved");
    let last = approved["history"].as_array().unwrap().last().unwrap();
    assert_eq!(last["differences"]["newlyAllowed"]["reviews"], 2);

    trust(&installation, &["docker.io/**"]);
    let refused = until(&installation, "refused", |status| status["candidate"]["state"] == "refused");
    let why = refused["candidate"]["why"].as_str().unwrap();
    assert!(why.starts_with("1 of 1 cases of its suites fail: ") && why.contains("ours.json"), "{why}");
    let digest = refused["candidate"]["digest"].as_str().unwrap();
    let (code, said) = host(&installation, &format!("approve {digest}"));
    assert_eq!(code, 1, "{said}");
    assert!(allows(ours).await);
    // The suite's expectation decides, so another suite gives another ruling; here the files go back.
    trust(&installation, &["registry.k8s.io/**", "docker.io/library/*"]);
    until(&installation, "as configured again", |status| status["degraded"] == false);
    assert!(allows(ours).await && allows(theirs).await);
}

/// A failure to run suites says nothing about them: they run again, although nothing has changed, and after a
/// pause.
#[test]
fn suites_that_could_not_be_run_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.json");
    let images = json!({ "*": { "outcome": "allow" }, "late": { "spin": true } });
    let slow = json!({ "name": "p", "settings": { "images": images }, "limits": { "deadline": "3s" } });
    let (before, after) = (support::set(allows()), support::set(json!({ "policies": [slow] })));
    let mut gate = gate(json!({ "suites": [folder.path()], "budget": "200ms" }));
    let then = SystemTime::UNIX_EPOCH;
    let mut rule = |image: &str, allowed: bool| {
        fs::write(&path, fixture(image, allowed)).unwrap();
        // The modification time stays the same, as if nothing had changed.
        fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        let ruling = gate.judge(&after, Some(&before));
        (ruling, gate.take_retry().map(|retry| retry.saturating_duration_since(Instant::now())))
    };
    let (late, again) = rule("x.io/late", true);
    assert!(
        matches!(&late, Ruling::Reject(why) if why.ends_with("(gate.budget); it is tried again")),
        "{late:?}"
    );
    let again = again.expect("nobody tries again");
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&again), "{again:?}");
    let (early, left) = rule("x.io/good", true);
    assert!(matches!(&early, Ruling::Reject(why) if why.ends_with("it is tried again")), "{early:?}");
    let left = left.expect("the pause goes on");
    assert!(left <= again, "{left:?}");
    std::thread::sleep(left);
    assert!(matches!(rule("x.io/good", true).0, Ruling::Swap(_)));
}

/// A start serves whatever its suites say. A set that fails them judges nothing, and everything is denied.
#[test]
fn a_first_set_that_fails_its_suites_is_not_in_force() {
    let installation = candidate::Installation::with_a();
    let gate =
        "policyDirectory: policies\nstateDirectory: state\ngate: { suites: [suite], onDifference: Hold }";
    installation.host_yaml(gate);
    fs::create_dir(installation.path("suite")).unwrap();
    let suite = |allowed| fs::write(installation.path("suite/case.json"), fixture("nginx", allowed)).unwrap();
    for gone in [false, true] {
        suite(false);
        if gone {
            fs::rename(installation.path("policies"), installation.path("gone")).unwrap();
        }
        let mut started = installation.start();
        let said = |started: &Started| candidate::said(&started.policies).join("; ");
        if gone {
            assert!(said(&started).contains("it cannot be read"), "{}", said(&started));
            fs::rename(installation.path("gone"), installation.path("policies")).unwrap();
        } else {
            let told = said(&started);
            assert!(told.contains("the first policy set: 1 of 1 cases of its suites fail"), "{told}");
        }
        // A denial in this state is no reason to hold a candidate.
        push(&started.recent, &["nginx"]);
        for _ in 0..2 {
            started.reloader.reload();
            let candidate = started.status.current().candidate.clone().unwrap();
            assert_eq!(candidate.state, PendingReason::Rejected);
            assert!(candidate.why.starts_with("1 of 1 cases of its suites fail: "), "{}", candidate.why);
            assert!(said(&started).starts_with("policies: "), "{}", said(&started));
        }
        let digest = started.status.current().candidate.clone().unwrap().digest;
        assert!(started.reloader.execute(Command::Approve { digest }).is_err());
        suite(true);
        started.reloader.reload();
        assert_eq!(said(&started), "a: version1");
        assert_eq!(installation.problems(&started), [""; 0]);
        drop(started);
        // The set that was in force is so again, whatever the suite says by then.
        suite(false);
        assert_eq!(said(&installation.start()), "a: version1");
        fs::remove_dir_all(installation.path("state")).unwrap();
    }
}

/// A candidate that was too slow to compare stays held across a restart, after which there are no reviews to
/// compare.
#[test]
fn what_nothing_is_known_of_stays_held() {
    let installation = Installation::new(json!({
        "stateDirectory": "state", "gate": { "onDifference": "Hold", "budget": "100ms" },
        "policies": [{ "name": "p", "module": scripted(),
            "settings": { "images": { "*": { "outcome": "allow" } } } }],
    }));
    let start = || host::reload::start(&installation.path("host.yaml"), HOST.into()).unwrap();
    let mut started = start();
    push(&started.recent, &["nginx"]);
    let mut host: Value = serde_json::from_slice(&fs::read(installation.path("host.yaml")).unwrap()).unwrap();
    host["policies"][0]["settings"]["images"] = json!({ "*": { "spin": true } });
    host["policies"][0]["limits"] = json!({ "deadline": "3s" });
    installation.write("host.yaml", host.to_string().as_bytes());
    started.reloader.reload();
    let held = |started: &Started| started.status.current().candidate.clone().unwrap();
    let before = held(&started);
    assert!(
        before.state == PendingReason::Held && before.why.contains(", 1 more were left out"),
        "{}",
        before.why
    );
    drop(started);
    let mut started = start();
    started.reloader.reload();
    assert_eq!(held(&started).why, before.why);
    started.reloader.execute(Command::Approve { digest: before.digest }).unwrap();
    assert_eq!(started.status.current().candidate, None);
}

/// A log that another user can exchange is not read, and the host's log says so. The next candidate finds it
/// repaired.
#[test]
fn a_decision_log_that_cannot_be_opened_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (support::set(allows()), support::set(denies_bad()));
    let bad = Arc::new(support::review("default", &["x.io/bad"]));
    let line = line(&before, support::review_id(), &bad);
    fs::write(folder.path().join("decisions.jsonl"), line).unwrap();
    let mut gate = logged_gate(json!({ "onDifference": "Hold" }), json!({ "directory": folder.path() }));
    let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    let told = support::logged(|| {
        assert_eq!(gate.judge(&after, Some(&before)), Ruling::Swap(Differences::default()));
    });
    assert!(
        told.contains("the replay is without the reviews of the decision log")
            && told.contains("others can write"),
        "{told}"
    );
    mode(0o700);
    assert!(matches!(gate.judge(&before, Some(&after)), Ruling::Hold(..)));
}

/// The log is read if memory has too few reviews: once, and again if more are needed or its place has
/// changed.
#[test]
fn the_decision_log_is_read_once() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (before, after) = (support::set(allows()), support::set(denies_bad()));
    let log = |folder: &tempfile::TempDir, image: &str| {
        let review = Arc::new(support::review("default", &[image]));
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("decisions.jsonl"))
            .unwrap();
        file.write_all(line(&before, support::review_id(), &review).as_bytes()).unwrap();
    };
    let configured = |gate: &mut Gate, replay: usize, folder: &tempfile::TempDir| {
        let log = json!({ "directory": folder.path() });
        gate.configure(&support::config(json!({ "gate": { "replay": replay }, "decisionLog": log })));
    };
    let mut gate = Gate::default();
    // Another set in force each time, so that no ruling is reused.
    let mut sets = [(&after, &before), (&before, &after)].into_iter().cycle();
    let mut reviews = |gate: &mut Gate| {
        let (candidate, current) = sets.next().unwrap();
        let Ruling::Swap(differences) = gate.judge(candidate, Some(current)) else {
            panic!("it holds nothing")
        };
        differences.reviews
    };
    log(&folder, "a");
    configured(&mut gate, 2, &folder);
    assert_eq!(reviews(&mut gate), 1);
    log(&folder, "b");
    assert_eq!(reviews(&mut gate), 1, "it is not read again");
    configured(&mut gate, 3, &folder);
    assert_eq!(reviews(&mut gate), 2, "more are wanted");
    log(&other, "c");
    configured(&mut gate, 3, &other);
    assert_eq!(reviews(&mut gate), 3, "it stands elsewhere");
    configured(&mut gate, 0, &other);
    assert_eq!(reviews(&mut gate), 0);
    configured(&mut gate, 1, &other);
    assert_eq!(reviews(&mut gate), 1);
}

/// End to end across a restart: memory is empty, and the decision log has the review that a change would
/// deny.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_change_is_tried_on_the_decision_log() {
    let installation = Installation::new(json!({
        "stateDirectory": "state", "decisionLog": { "directory": "decisions" },
            "gate": { "onDifference": "Hold" },
    }));
    let image = "registry.k8s.io/pause:3.10";
    let mut process = installation.start();
    let (webhook, _) = process.addresses();
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    let answer = connection.review(image).await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true);
    process.signal(Signal::TERM);
    let (ended, said) = process.end();
    assert_eq!(ended.code(), Some(0), "{said}");
    let log = installation.path("decisions/decisions.jsonl");
    fs::File::options().append(true).open(&log).unwrap().write_all(b"garbage\n{\"id\":\"cu").unwrap();

    let mut process = installation.start();
    process.addresses();
    trust(&installation, &["docker.io/**"]);
    let held = until(&installation, "held", |status| status["candidate"]["state"] == "held");
    let differences = &held["candidate"]["differences"];
    assert_eq!(
        (&differences["reviews"], &differences["newlyDenied"]["reviews"]),
        (&json!(1), &json!(1)),
        "{held:#}"
    );
    assert_eq!(differences["newlyDenied"]["examples"][0]["images"], json!([image]));
}

/// The reload retries a candidate whose suites cannot be run, although no file changes, and stops when the
/// candidate is gone.
#[test]
fn the_reload_looks_again_only_while_suites_cannot_be_run() {
    let installation = candidate::Installation::with_a();
    let started = installation.start();
    fs::create_dir(installation.path("suite")).unwrap();
    installation.host_yaml("policyDirectory: policies\ngate: { suites: [suite], budget: 100ms }");
    let (watcher, stop) = Watcher::new();
    let status = started.status.clone();
    let running = std::thread::spawn(move || started.reloader.run(watcher));
    let results = || status.current().results;
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {:?}", results());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    installation.policy("a", &version("version2"));
    until("refused", &|| status.current().candidate.is_some());
    let why = status.current().candidate.clone().unwrap().why;
    assert!(
        why.contains("there is no case for the policies of this host in ")
            && why.ends_with("; it is tried again"),
        "{why}"
    );
    let looks = results().waiting;
    until("looked at again", &|| results().waiting >= looks + 2);
    installation.policy("a", &version("version1"));
    until("as it was", &|| status.current().candidate.is_none());
    let looks =
        |results: PassCounts| results.published + results.unchanged + results.waiting + results.failed;
    let before = looks(results());
    // More than two retry pauses of the gate.
    std::thread::sleep(Duration::from_secs(3));
    assert!(looks(results()) <= before + 2, "{} looks for nothing", looks(results()) - before);
    drop(stop);
    running.join().unwrap();
}
