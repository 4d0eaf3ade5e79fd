//! State that survives a killed host, and memory after a swap.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use host::config::{HostLimits, PolicyLimits, Rules, Scope};
use host::policy::manifest::{Cause, Content, Publication};
use host::policy::{Component, Policy, digest};
use host::reload::Started;
use host::reload::history::{Record, StateDirectory, Summary};
use serde_json::{Value, json};

use crate::reload::candidate;
use crate::support::client::{Connection, Protocol};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, denying, scripted, version};

/// Time limit of events that must happen but may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes an installation whose policies are `a` and `b`.
fn installation() -> Installation {
    let changes = json!({ "stateDirectory": "state", "policyDirectory": "more", "allowEmpty": false });
    let installation = Installation::bare(changes);
    fs::create_dir(installation.path("more")).unwrap();
    step(&installation, 0);
    installation
}

/// Replaces both policies by ones that deny with the number of the step.
fn step(installation: &Installation, step: u64) {
    for name in ["a", "b"] {
        installation.replace(&format!("more/{name}.wasm"), &denying(&format!("v{step:07}")));
    }
}

/// The content of a response: its generation, and the step of each policy.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Answered {
    generation: u64,
    a: u64,
    b: u64,
}

impl Answered {
    fn is_older_than(self, other: Answered) -> bool {
        self.generation < other.generation || self.a < other.a || self.b < other.b
    }
}

/// Sends a review. Returns None if the host has gone.
async fn ask(connection: &mut Connection) -> Option<Answered> {
    let answer = connection.review("x.io/a").await.ok()?.json();
    let status = &answer["status"];
    let generation = status["auditAnnotations"]["generation"].as_str().unwrap();
    let reason = status["reason"].as_str().unwrap();
    let step = |policy: &str| {
        let said = reason.split("; ").find(|said| said.ends_with(policy));
        let (_, step) = said.unwrap_or_else(|| panic!("{answer}")).split_once(": v").unwrap();
        step.get(..7).unwrap().parse().unwrap()
    };
    let generation = generation.split('-').next().unwrap().parse().unwrap();
    Some(Answered { generation, a: step("(policy a)"), b: step("(policy b)") })
}

/// The moment of a kill.
#[derive(Debug)]
enum Moment {
    /// This time after the files were replaced.
    After(Duration),
    /// A new entry in a folder of the state directory, complete or not, and this much time after it.
    New(&'static str, Duration),
}

impl Moment {
    /// Returns one of three kinds in turn, each a little later than the one before.
    fn of(kill: u64) -> Moment {
        let (kind, step) = (kill % 3, u32::try_from(kill / 3).unwrap());
        match kind {
            0 => Moment::After(Duration::from_millis(30) + step * Duration::from_millis(40)),
            1 => Moment::New("state/components", step * Duration::from_millis(1)),
            _ => Moment::New("state/generations", step * Duration::from_micros(700)),
        }
    }

    fn wait(&self, installation: &Installation, before: &[PathBuf]) {
        let (moment, begun) = match self {
            Moment::After(time) => (time, Instant::now()),
            Moment::New(folder, time) => {
                let begun = Instant::now();
                while files(installation, folder).iter().all(|file| before.contains(file)) {
                    assert!(begun.elapsed() < PATIENCE, "nothing new comes into {folder}");
                }
                (time, Instant::now())
            }
        };
        while begun.elapsed() < *moment {
            std::hint::spin_loop();
        }
    }
}

fn files(installation: &Installation, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(installation.path(folder)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The host is killed at many points of a swap and of its writes. Each time the files are broken before the
/// restart: the host serves a recorded generation, which is complete, and no older than that of its
/// responses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_knows_what_it_answered_by() {
    const KILLS: u64 = 30;
    let installation = installation();
    let client = installation.client();
    let mut last = Answered { generation: 0, a: 0, b: 0 };
    let (mut newer, mut unfinished) = (0, 0);
    for kill in 0..KILLS {
        let moment = Moment::of(kill);
        let mut process = installation.start();
        let (webhook, _) = process.addresses();
        let mut connection = client.connect(webhook, Protocol::Http1).await.unwrap();
        let first = ask(&mut connection).await.unwrap();
        assert!(!first.is_older_than(last), "{first:?} after {last:?} and a kill before {moment:?}");
        newer += u64::from(first != last);

        let before =
            ["state/components", "state/generations"].map(|folder| files(&installation, folder)).concat();
        step(&installation, kill + 1);
        let asking = tokio::spawn(async move {
            let mut last = first;
            while let Some(answered) = ask(&mut connection).await {
                assert!(!answered.is_older_than(last), "{answered:?} after {last:?}");
                last = answered;
            }
            last
        });
        tokio::task::block_in_place(|| moment.wait(&installation, &before));
        drop(process);
        last = asking.await.unwrap();
        for name in ["a", "b"] {
            installation.replace(&format!("more/{name}.wasm"), b"garbage");
        }
        for path in
            ["state/generations", "state/components"].iter().flat_map(|folder| files(&installation, folder))
        {
            unfinished += u64::from(is_unfinished(&path));
            assert!(
                is_unfinished(&path) || is_whole(&path),
                "{} is not whole after {moment:?}",
                path.display()
            );
        }
    }
    println!(
        "{KILLS} kills over {} generations: {unfinished} while a file was written, {newer} starts with more \
            than was answered last",
        last.generation
    );
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(".unfinished-")
}

/// Returns whether a file of the state directory is complete.
fn is_whole(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_slice::<Record>(&bytes).is_ok(),
        _ => digest(&bytes) == path.file_stem().unwrap().to_str().unwrap(),
    }
}

/// A replaced policy is freed when the last review that began with it is over.
#[test]
fn what_was_replaced_is_gone() {
    const SWAPS: u64 = 40;
    let installation = candidate::Installation::new("policyDirectory: policies\nstateDirectory: state");
    let mut started = {
        installation.policy("a", &version("version0"));
        installation.start()
    };
    let policies = |started: &Started| -> Vec<Weak<Policy>> {
        let set = started.policies.current();
        set.policies.iter().filter_map(|entry| Some(Arc::downgrade(entry.loaded.as_ref().ok()?))).collect()
    };
    let mut weak = policies(&started);
    let review = started.policies.current();
    for swap in 1..=SWAPS {
        installation.policy("a", &version(&format!("version{}", swap % 5)));
        started.reloader.reload();
        weak.extend(policies(&started));
    }
    assert_eq!(weak.len() as u64, SWAPS + 1);
    let alive = || weak.iter().filter(|policy| policy.upgrade().is_some()).count();
    // A snapshot of a replaced policy may still be in progress.
    until("only what is in force and under review is left", || alive() == 2);
    drop(review);
    until("only what is in force is left", || alive() == 1);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The native code of replaced policies leaves the address space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_was_replaced_is_unmapped() {
    const SWAPS: u64 = 30;
    let installation = installation();
    let mut process = installation.start();
    let (webhook, _) = process.addresses();
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    ask(&mut connection).await.unwrap();
    let before = executable(&process);
    for number in 1..=SWAPS {
        step(&installation, number);
        let begun = Instant::now();
        while ask(&mut connection).await.unwrap().b < number {
            assert!(begun.elapsed() < PATIENCE, "step {number} is never in force");
        }
    }
    // Snapshots of the last ones may still be in progress.
    until("replaced code is unmapped", || executable(&process) <= before + 4);
}

/// Returns the size of a process's executable mappings without a file: native code (proc_pid_maps(5)).
fn executable(process: &Process) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.id())).unwrap();
    maps.lines().filter(|line| line.contains(" r-xp ") && !line.contains('/') && !line.contains('[')).count()
}

/// With a read-only state directory a start uses the records, and a change comes into force and is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_that_is_read_only_is_read() {
    let installation = installation();
    installation.start().addresses();
    step(&installation, 1);
    installation.replace("more/a.wasm", b"garbage");
    let script = "mount --bind state state; mount -o remount,bind,ro state; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-euc", script, "sh", HOST]);
    command.args(["serve", "--config", "host.yaml"]).current_dir(installation.path("."));
    let mut process = Process::start(&mut command);
    process.wait_for(
        "the generation in force cannot be recorded in state, so the next start may not know \
        it: Read-only file system",
    );
    process.wait_for("there is no control socket");
    let (webhook, _) = process.addresses();
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    let first = ask(&mut connection).await.unwrap();
    assert_eq!((first.a, first.b), (0, 0));
    step(&installation, 2);
    let begun = Instant::now();
    while ask(&mut connection).await.unwrap().a < 2 {
        assert!(begun.elapsed() < PATIENCE, "step 2 is never in force");
    }
}

/// Returns a policy under many names that rejects its settings with messages as long as the contract allows.
fn refusing(names: usize) -> Vec<Value> {
    let mistake = json!({ "pointer": "\u{202e}".repeat(130), "message": "\n\u{202e}".repeat(130) });
    let settings = json!({ "configure": { "errors": vec![mistake; 3] } });
    let entry = |number| {
        let nowhere = json!({ "namespaces": { "include": ["nowhere"] } });
        json!({ "name": format!("r{number}"), "module": scripted(), "match": nowhere, "settings": settings })
    };
    (0..names).map(entry).collect()
}

/// limit: problem within, problem breaks, problems within, problems breaks
/// limit: recorded-problems within, recorded-problems breaks, load-error within, load-error breaks
#[test]
fn problems_are_told_and_recorded_within_their_limits() {
    let installation = candidate::Installation::new("");
    let start = |refusing: Vec<Value>, missing: usize| {
        let missing =
            (0..missing).map(|number| json!({ "name": format!("m{number}"), "module": "missing.wasm" }));
        let policies: Vec<_> = refusing.into_iter().chain(missing).collect();
        installation.host_yaml(&format!(
            "stateDirectory: state{}\npolicies: {}",
            policies.len(),
            json!(policies)
        ));
        installation.start()
    };
    let status = start(refusing(2), 0).status.current();
    assert_eq!((status.problems.len(), status.history.last().unwrap().problems.len()), (2, 2));

    let started = start(refusing(2), 298);
    let status = started.status.current();
    assert_eq!(status.problems.len(), 257);
    assert_eq!(
        status.problems[256].what,
        "44 more problems are not listed: mend those that are, and look again"
    );
    let instead = "(no good version is known, so it malfunctions by its failurePolicy)";
    for problem in &status.problems[..256] {
        assert!(problem.message().len() <= 4096 && problem.message().ends_with(instead), "{problem}");
        assert!(!problem.message().contains(char::is_control));
    }
    for problem in &status.problems[..2] {
        assert!(
            problem.message().len() > 4000 && problem.message().ends_with(&format!("… {instead}")),
            "{problem}"
        );
    }
    let recorded = &status.history.last().unwrap().problems;
    assert_eq!((recorded.len(), recorded[32].starts_with("problems: ")), (33, true));
    let errors: Vec<_> =
        started.policies.current().policies.iter().filter_map(|entry| entry.loaded.clone().err()).collect();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(errors.len() == 300 && errors.iter().all(|error| error.len() <= 1024), "{errors:?}");
    assert!(errors[0].len() > 1000 && errors[0].ends_with('…'));
    let record = fs::read(installation.path("state300/generations/1.json")).unwrap();
    assert!(record.len() < 1 << 20, "{} bytes", record.len());
}

/// Returns a record of a generation with one policy and these problems.
fn record(number: u64, problems: Vec<String>, settings: Value) -> Record {
    let module = Component::new(b"module".to_vec());
    let policy = json!({
        "name": "p", "scope": Scope::default(), "mode": "enforce", "failurePolicy": "Fail",
        "loaded": { "Ok": { "component": module.digest, "settings": settings,
            "limits": PolicyLimits::default() } },
    });
    let publication =
        Publication { number, published: SystemTime::UNIX_EPOCH, cause: Cause::RolledBack { to: 1 } };
    Record {
        summary: Summary {
            publication,
            digest: "abc".to_owned(),
            pinned: true,
            whole: true,
            changes: Vec::new(),
            differences: None,
            problems,
        },
        content: Content {
            rules: Rules::default(),
            limits: HostLimits::default(),
            policies: vec![serde_json::from_value(policy).unwrap()],
        },
        remembered: Vec::new(),
        held: None,
    }
}

/// limit: record within, record breaks
#[test]
fn what_is_recorded_can_be_read_back_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = StateDirectory::open(folder.path()).unwrap();
    let settings = json!({ "allow": ["x"] });
    let small = record(1, vec!["small".to_owned()], settings.clone());
    state.append(small.clone(), Vec::new()).unwrap();
    assert_eq!((state.record(1).unwrap(), state.left_out()), (small, None));

    // The next start knows the rollback, but not its problems.
    state.append(record(2, vec!["x".repeat(1 << 20); 35], settings.clone()), Vec::new()).unwrap();
    let left_out = state.left_out().unwrap();
    assert!(left_out.starts_with("the record of generation 2 leaves out its problems"), "{left_out}");
    assert_eq!(state.record(2).unwrap(), record(2, Vec::new(), settings));

    // Too large, and nested more deeply than a record may be.
    let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
    for (number, settings) in [(3, json!("x".repeat(33 << 20))), (4, nested)] {
        let error = state.append(record(number, Vec::new(), settings), Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("its record could not be read back, so it is not written"),
            "{error}"
        );
    }
    drop(state);
    let state = StateDirectory::open(folder.path()).unwrap();
    assert_eq!(
        state.newest().map(|newest| (newest.summary.publication.number, newest.summary.pinned)),
        Some((2, true))
    );
    assert!(state.damaged().is_empty());
}
