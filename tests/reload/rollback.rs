//! Rollbacks: the content that they restore and keep, and their messages.

use std::fs;

use host::policy::manifest::{Cause, Change};
use host::reload::history::PendingReason;
use host::reload::{Command, Started};

use serde_json::json;

use crate::reload::candidate::{Installation, said};
use crate::support::{denying, remember, version};

const STATE: &str = "policyDirectory: policies\nstateDirectory: state";

/// Starts a host with `count` generations, the last one of `version{count}`.
fn after(installation: &Installation, count: u64) -> Started {
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    for number in 2..=count {
        swap(installation, &mut started, &format!("version{number}"));
    }
    assert_eq!(started.policies.current().number(), count);
    started
}

fn swap(installation: &Installation, started: &mut Started, reason: &str) {
    installation.policy("a", &version(reason));
    started.reloader.reload();
}

fn back(to: Option<u64>) -> Command {
    Command::Rollback { to }
}

#[test]
fn what_is_put_back_stays_until_it_is_released() {
    let installation = Installation::new(STATE);
    let mut started = after(&installation, 3);
    let digest = |started: &Started| started.policies.current().digest().to_owned();
    let third = digest(&started);

    let done = started.reloader.execute(back(None)).unwrap();
    assert_eq!(
        done.message,
        "what generation 2 was made of is in force again, until `host rollback --release`"
    );
    assert_eq!(done.generation, started.policies.current().generation());
    let set = started.policies.current();
    assert_eq!((set.number(), &set.publication().cause), (4, &Cause::RolledBack { to: 2 }));
    assert_eq!(said(&started.policies), ["a: version2"]);
    let told = "rollback: it stays in force whatever files change, until `host rollback --release`";
    assert_eq!(installation.problems(&started), [told]);

    // The files' candidate is pending, and a newer one replaces it.
    started.reloader.reload();
    assert_eq!(started.status.current().candidate.as_ref().unwrap().digest, third);
    swap(&installation, &mut started, "version4");
    let status = started.status.current();
    let candidate = status.candidate.clone().unwrap();
    assert_eq!((candidate.state, candidate.why.as_str()), (PendingReason::Pinned, "a rollback is in force"));
    assert_ne!(candidate.digest, third);
    assert_eq!(candidate.changes.iter().map(Change::to_string).collect::<Vec<_>>(), ["a (component)"]);
    assert_eq!(said(&started.policies), ["a: version2"]);
    let digest = candidate.digest;
    assert_eq!(
        installation.problems(&started),
        [format!(
            "rollback: it stays in force, and the files' candidate {digest} waits, until `host rollback \
                --release`"
        )]
    );
    let refused =
        started.reloader.execute(Command::Approve { digest: digest.clone() }).unwrap_err().to_string();
    assert!(refused.contains("`host rollback --release` puts it in force"), "{refused}");

    // Errors in the files are reported meanwhile.
    installation.policy("a", b"garbage");
    started.reloader.reload();
    assert!(installation.problems(&started)[0].contains("is no WebAssembly"));
    assert_eq!(started.status.current().candidate, None, "what stands in for it is what is in force");

    // The rollback outlives the process.
    drop(started);
    swap_files(&installation, "version4");
    let mut started = installation.start();
    assert_eq!(started.policies.current().generation(), done.generation);
    assert_eq!(said(&started.policies), ["a: version2"]);
    assert!(started.status.current().pinned);
    started.reloader.reload();
    assert_eq!(started.status.current().candidate.as_ref().unwrap().digest, digest);
    assert_eq!(started.policies.current().generation(), done.generation);

    let released = started.reloader.execute(Command::Release).unwrap();
    assert_eq!(released.generation, format!("5-{digest}"));
    assert_eq!(said(&started.policies), ["a: version4"]);
    assert_eq!(started.policies.current().publication().cause, Cause::Released);
    assert_eq!(installation.problems(&started), [""; 0]);
    let again = started.reloader.execute(Command::Release).unwrap_err().to_string();
    assert_eq!(again, "no rollback is in force: files decide already");
    drop(started);
    let mut started = installation.start();
    assert_eq!((started.policies.current().number(), started.status.current().pinned), (5, false));

    let history = started.status.current().history.clone();
    let causes: Vec<_> = history.iter().map(|summary| summary.publication.cause.to_string()).collect();
    let expected = [
        "start",
        "files changed",
        "files changed",
        "rolled back to generation 2",
        "released after a rollback",
    ];
    assert_eq!(causes, expected);
    let none = started.reloader.execute(Command::Approve { digest }).unwrap_err().to_string();
    assert_eq!(none, "no candidate is held");
}

fn swap_files(installation: &Installation, reason: &str) {
    installation.policy("a", &version(reason));
}

#[test]
fn further_back_and_to_any_generation() {
    let installation = Installation::new(STATE);
    let mut started = after(&installation, 4);
    for (command, expected) in [
        (back(None), "version3"),
        (back(None), "version2"),
        (back(Some(4)), "version4"),
        (back(None), "version3"),
    ] {
        started.reloader.execute(command).unwrap();
        assert_eq!(said(&started.policies), [format!("a: {expected}")]);
    }
    assert_eq!(started.policies.current().number(), 8, "numbers only grow");
    started.reloader.execute(back(Some(1))).unwrap();
    let none = started.reloader.execute(back(None)).unwrap_err().to_string();
    assert_eq!(none, "there is no earlier generation to go back to than 1");
    assert_eq!(said(&started.policies), ["a: version1"]);

    // After a release another rollback leads to the generation that was restored before.
    started.reloader.execute(Command::Release).unwrap();
    assert_eq!(said(&started.policies), ["a: version4"]);
    started.reloader.execute(back(None)).unwrap();
    assert_eq!(said(&started.policies), ["a: version1"]);
}

/// A whole generation comes back: rules, limits, and every policy as it was configured.
#[test]
fn a_generation_comes_back_whole() {
    let installation =
        Installation::new(&format!("{STATE}\nlimits: {{ images: 7, concurrentReviews: 3 }}\nmode: audit"));
    installation.policy("a", &version("version1"));
    installation.policy("b", &version("version1"));
    let mut started = installation.start();
    let first = started.policies.current();
    fs::remove_file(installation.path("policies/b.wasm")).unwrap();
    installation.host_yaml(&format!(
        "{STATE}\nexempt: {{ namespaces: [kube-system] }}\npolicies: [{{ name: a, module: policies/a.wasm, \
            mode: audit }}]"
    ));
    started.reloader.reload();
    let changes: Vec<_> = started.status.current().history[1].changes.iter().map(Change::to_string).collect();
    assert_eq!(changes, ["mode, exempt.namespaces, limits", "a (mode)", "b (removed)"]);
    started.reloader.execute(back(None)).unwrap();
    let set = started.policies.current();
    assert_eq!(set.content(), first.content());
    assert_eq!((set.number(), set.digest()), (3, first.digest()));
}

#[test]
fn what_cannot_be_put_back_changes_nothing() {
    let installation = Installation::new("policyDirectory: policies");
    installation.policy("a", &version("version1"));
    let none = installation.start().reloader.execute(back(None)).unwrap_err().to_string();
    assert!(none.contains("set `stateDirectory` in host.yaml"), "{none}");

    let installation = Installation::new(STATE);
    installation.policy("a", b"garbage");
    let mut started = installation.start();
    swap(&installation, &mut started, "version2");
    swap(&installation, &mut started, "version3");
    let before = started.policies.current().generation();
    let damaged = started.reloader.execute(back(Some(2))).is_ok();
    assert!(damaged);
    started.reloader.execute(Command::Release).unwrap();
    for component in fs::read_dir(installation.path("state/components")).unwrap() {
        fs::write(component.unwrap().path(), "damaged").unwrap();
    }
    let generation = started.policies.current().generation();
    assert_ne!(before, generation);
    for (to, why) in [
        (Some(1), "generation 1 is no way back: one of its policies was not loaded"),
        (Some(2), "generation 2 cannot be put back: policy a: its component "),
        (Some(99), "generation 99 is not recorded: `host status` shows those that are"),
    ] {
        let refused = started.reloader.execute(back(to)).unwrap_err().to_string();
        assert!(refused.starts_with(why), "{refused}");
        assert_eq!(started.policies.current().generation(), generation);
        assert!(!started.status.current().pinned);
    }
}

/// A candidate that the gate holds needs an approval, also after a restart, which forgets the reviews that it
/// was compared with.
#[test]
fn what_is_held_waits_for_leave() {
    let gated = format!("{STATE}\ngate: {{ replay: 10, onDifference: Hold }}");
    let installation = Installation::new(&gated);
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    remember(&started.recent, "x.io/a");
    installation.policy("a", &denying("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let held = started.status.current().candidate.clone().unwrap();
    assert_eq!(held.state, PendingReason::Held);
    assert!(held.differences.is_some());
    let problem = format!("candidate {0}: it is held until `host approve {0}`: ", held.digest);
    assert!(
        installation.problems(&started)[0].starts_with(&problem),
        "{:?}",
        installation.problems(&started)
    );

    drop(started);
    let mut started = installation.start();
    for _ in 0..2 {
        assert_eq!(
            (said(&started.policies), started.policies.current().number()),
            (vec!["a: version1".to_owned()], 1)
        );
        started.reloader.reload();
        // As it is shown: times have milliseconds.
        let shown = json!(started.status.current().candidate);
        assert_eq!(shown, json!(held));
    }
    let other =
        started.reloader.execute(Command::Approve { digest: "other".to_owned() }).unwrap_err().to_string();
    assert!(other.contains("not other"), "{other}");
    started.reloader.execute(Command::Approve { digest: held.digest.clone() }).unwrap();
    assert_eq!(said(&started.policies), ["a: version2"]);
    let status = started.status.current();
    let last = status.history.last().unwrap();
    assert_eq!((&last.publication.cause, &last.differences), (&Cause::Approved, &held.differences));
    assert_eq!((status.candidate.clone(), installation.problems(&started)), (None, Vec::new()));
    started.reloader.reload();
    assert_eq!((started.policies.current().number(), installation.problems(&started)), (2, Vec::new()));

    // When the files go back nothing is pending, and a host.yaml without `onDifference: Hold` puts the
    // candidate in force.
    remember(&started.recent, "x.io/a");
    installation.policy("a", &version("version3"));
    started.reloader.reload();
    assert!(started.status.current().candidate.is_some());
    installation.policy("a", &denying("version2"));
    started.reloader.reload();
    assert_eq!(started.status.current().candidate, None);
    installation.policy("a", &version("version3"));
    started.reloader.reload();
    installation.host_yaml(STATE);
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version3"]);
}

/// Neither a rollback nor a start during it approves a held candidate.
#[test]
fn what_is_held_outlives_a_rollback() {
    let installation = Installation::new(&format!("{STATE}\ngate: {{ replay: 10, onDifference: Hold }}"));
    let mut started = after(&installation, 2);
    remember(&started.recent, "x.io/a");
    installation.policy("a", &denying("version3"));
    started.reloader.reload();
    let held = started.status.current().candidate.clone().unwrap();
    assert_eq!(held.state, PendingReason::Held);

    started.reloader.execute(back(None)).unwrap();
    started.reloader.reload();
    assert_eq!(started.status.current().candidate.as_ref().unwrap().state, PendingReason::Pinned);
    drop(started);
    let mut started = installation.start();
    started.reloader.reload();
    started.reloader.execute(Command::Release).unwrap();
    for _ in 0..2 {
        assert_eq!(said(&started.policies), ["a: version1"]);
        let still = started.status.current().candidate.clone().unwrap();
        assert_eq!((&still.digest, still.state, &still.why), (&held.digest, PendingReason::Held, &held.why));
        started.reloader.reload();
    }
    started.reloader.execute(Command::Approve { digest: held.digest }).unwrap();
    assert_eq!(said(&started.policies), ["a: version3"]);
}

#[test]
fn a_rollback_that_cannot_be_recorded_says_so_and_is_done() {
    let installation = Installation::new(STATE);
    let mut started = after(&installation, 2);
    let record = installation.path("state/generations/3.json");
    fs::create_dir_all(record.join("in-the-way")).unwrap();
    let done = started.reloader.execute(back(None)).unwrap();
    assert_eq!(said(&started.policies), ["a: version1"]);
    assert!(done.message.contains("; but the generation in force cannot be recorded"), "{}", done.message);
}

/// limit: generations within, generations breaks
#[test]
fn the_last_generations_are_kept() {
    const KEPT: u64 = 32;
    let installation = Installation::new(STATE);
    installation.policy("a", &version("version0"));
    let mut started = installation.start();
    for number in 2..=KEPT + 2 {
        installation.host_yaml(&format!("{STATE}\nlimits: {{ images: {number} }}"));
        if number > KEPT {
            swap_files(&installation, "version1");
        }
        started.reloader.reload();
    }
    let files = |folder: &str| fs::read_dir(installation.path(folder)).unwrap().count() as u64;
    assert_eq!((files("state/generations"), files("state/components")), (KEPT, 2));
    let history = started.status.current().history.clone();
    assert_eq!((history.len() as u64, history[0].publication.number), (KEPT, 3));
    assert!(started.reloader.execute(back(Some(2))).is_err());
    started.reloader.execute(back(Some(3))).unwrap();
    assert_eq!(said(&started.policies), ["a: version0"]);

    // A component is removed with the last generation that has it.
    started.reloader.execute(Command::Release).unwrap();
    for number in 1..=KEPT {
        installation.host_yaml(&format!("{STATE}\nlimits: {{ images: {} }}", number + 100));
        started.reloader.reload();
    }
    assert_eq!((files("state/generations"), files("state/components")), (KEPT, 1));
    drop(started);
    assert_eq!(installation.start().status.current().history.len() as u64, KEPT);
}
