//! Starts, and the contents of the state directory for them.

use std::fs;

use host::config::Mode;
use host::reload::history::PendingReason;
use host::reload::{Command, Started};

use crate::reload::candidate::{Installation, said};
use crate::support::evaluation::evaluate;
use crate::support::{self, denying, version};

#[test]
fn a_start_falls_back_to_the_last_good_version() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    drop(installation.start());
    installation.policy("a", b"garbage");

    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problem = "policy a: policies/a.wasm: the file is no WebAssembly: it does not begin with `\\0asm`";
    assert_eq!(
        installation.problems(&started),
        [format!(
            "{problem} (its last good version, from the state directory, is in force as it was configured)"
        )]
    );
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let stays = format!("{problem} (its last good version stays in force, as it was configured)");
    assert_eq!(installation.problems(&started), [stays.as_str()]);

    // The policy is there at the next start too, without the folder that it came from.
    drop(started);
    fs::rename(installation.path("policies"), installation.path("elsewhere")).unwrap();
    let started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    assert!(problems[0].starts_with("policyDirectory "), "{problems:?}");
    assert!(problems[0].contains("No such file or directory"), "{problems:?}");

    // An empty folder, perhaps not mounted yet, is no reason to remove the policies.
    drop(started);
    fs::create_dir(installation.path("policies")).unwrap();
    let mut started = installation.start();
    let empty = "host.yaml: no policy is left, and an empty set is put in force only with `allowEmpty: true`";
    for then in ["the generation that was in force before is so again", "the generation in force stays"] {
        assert_eq!(installation.problems(&started), [format!("{empty} ({then})")]);
        assert_eq!(said(&started.policies), ["a: version1"]);
        started.reloader.reload();
    }
    assert_eq!(started.policies.current().number(), 1, "all this time it is one generation");
    installation.policy("a", b"garbage");
    installation.policy("b", &version("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    assert_eq!((problems.len(), &problems[0]), (2, &stays));
    assert!(problems[1].contains("b (added)"), "{problems:?}");
}

#[test]
fn a_start_without_a_last_good_version_malfunctions_by_the_failure_policy() {
    let entry = |more: &str| format!("policies: [{{ name: a, module: policies/a.wasm{more} }}]");
    let installation = Installation::new(&entry(""));
    installation.policy("a", b"garbage");
    let mut started = installation.start();
    let review = support::review("default", &["x.io/a"]);
    let reason =
        |started: &Started| installation.shortened(evaluate(&started.policies.current(), &review).reason);
    let why = "the policy is not loaded: policies/a.wasm: the file is no WebAssembly: it does not begin with \
        `\\0asm`";
    assert_eq!(reason(&started), format!("x.io/a: {why} (policy a)"));
    let problems = installation.problems(&started);
    assert_eq!(problems.len(), 1, "{problems:?}");

    // The reason follows the file.
    installation.policy("a", b"");
    started.reloader.reload();
    assert!(reason(&started).contains("the file is empty"), "{}", reason(&started));
    installation.policy("a", &version("version1"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);

    installation.policy("a", b"garbage");
    installation.host_yaml(&entry(", failurePolicy: Ignore"));
    let started = installation.start();
    assert_eq!(
        reason(&started),
        format!(
            "x.io/a: no policy judged it in namespace default; a malfunctioned and its failurePolicy is \
                Ignore: {why} (in host.yaml, `unjudged` and `exempt.namespaces` decide what happens then)"
        )
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_stays_told() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    fs::write(installation.path("state"), "a file").unwrap();
    let mut started = installation.start();
    for _ in 0..2 {
        let problems = installation.problems(&started);
        assert!(problems[0].starts_with("state: the state directory cannot be used"), "{problems:?}");
        assert!(
            problems[0].contains("though a rollback or a held candidate may be recorded"),
            "{problems:?}"
        );
        started.reloader.reload();
    }
}

#[test]
fn what_could_not_be_kept_is_kept_later() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    // A folder instead of the record's file.
    let record = installation.path("state/generations/2.json");
    fs::create_dir_all(record.join("in-the-way")).unwrap();
    installation.policy("a", &version("version2"));
    for _ in 0..2 {
        started.reloader.reload();
        let problems = installation.problems(&started);
        assert!(problems[0].contains("the generation in force cannot be recorded"), "{problems:?}");
        assert_eq!(said(&started.policies), ["a: version2"], "it serves all the same");
    }
    fs::remove_dir_all(&record).unwrap();
    started.reloader.reload();
    assert_eq!(installation.problems(&started), [""; 0]);
    drop(started);
    fs::write(installation.path("policies/a.wasm"), "garbage").unwrap();
    assert_eq!(said(&installation.start().policies), ["a: version2"]);
}

#[test]
fn a_start_without_its_policy_directory_has_what_was_in_force() {
    let installation = Installation::new(
        "policyDirectory: policies\nstateDirectory: state\npolicies: [{ name: a, module: policies/a.wasm }]",
    );
    installation.policy("a", &version("version1"));
    installation.start();
    fs::remove_dir_all(installation.path("policies")).unwrap();
    assert_eq!(said(&installation.start().policies), ["a: version1"]);
}

/// A policy keeps its configuration, across a restart as in a reload. A policy that is no longer configured
/// stays while its replacement cannot be loaded.
#[test]
fn a_start_weakens_nothing_that_was_in_force() {
    let more = "stateDirectory: state\npolicyDirectory: policies";
    let installation = Installation::new(&format!(
        "{more}\npolicies: [{{ name: a, module: policies/a.wasm, match: {{ namespaces: {{ exclude: [shop] }} \
            }} }}]"
    ));
    installation.policy("a", &version("version1"));
    drop(installation.start());
    installation.policy("a", b"garbage");
    installation
        .host_yaml(&format!("{more}\npolicies: [{{ name: a, module: policies/a.wasm, mode: audit }}]"));
    let started = installation.start();
    let set = started.policies.current();
    assert_eq!((set.number(), set.policies[0].placement.mode), (1, Mode::Enforce));
    assert!(!set.policies[0].placement.scope.applies("shop"));
    drop(started);

    fs::rename(installation.path("policies/a.wasm"), installation.path("policies/b.wasm")).unwrap();
    installation.host_yaml(&format!("{more}\nunjudged: Allow"));
    let started = installation.start();
    let set = started.policies.current();
    let names: Vec<_> =
        set.policies.iter().map(|entry| (entry.name.as_str(), entry.loaded.is_ok())).collect();
    assert_eq!((set.number(), names), (1, vec![("a", true)]));
    let problems = installation.problems(&started);
    assert!(problems[0].ends_with("(it is not in force)"), "{problems:?}");
    assert!(
        problems[1].contains("as long as b cannot be loaded, and these changes wait: unjudged, a (removed)")
    );
}

/// A policy that was never in force is left out by a start as by a reload, whenever an earlier generation is
/// known: also if the newest record is damaged, after a rollback, and while a candidate is held.
#[test]
fn a_broken_newcomer_stays_out_across_a_restart() {
    const GATE: &str = "\ngate: { replay: 10, onDifference: Hold }";
    let more = "policyDirectory: policies\nstateDirectory: state";
    for case in ["in force", "newest record damaged", "rolled back", "held"] {
        let installation = Installation::new(&format!("{more}{}", if case == "held" { GATE } else { "" }));
        installation.policy("a", &version("version1"));
        let mut started = installation.start();
        if case == "held" {
            support::remember(&started.recent, "x.io/a");
            installation.policy("a", &denying("version2"));
        } else {
            installation.policy("a", &version("version2"));
        }
        started.reloader.reload();
        if case == "rolled back" {
            started.reloader.execute(Command::Rollback { to: None }).unwrap();
        }
        installation.policy("new", b"garbage");
        started.reloader.reload();
        let before = (said(&started.policies), started.policies.current().number());
        drop(started);
        if case == "newest record damaged" {
            fs::write(installation.path("state/generations/2.json"), "{").unwrap();
        }

        let mut started = installation.start();
        for when in ["a start", "a reload", "another reload"] {
            let now = (said(&started.policies), started.policies.current().number());
            match case {
                "newest record damaged" => {
                    assert_eq!(now, (vec!["a: version1".to_owned()], 1), "{case}, {when}")
                }
                _ => assert_eq!(now, before, "{case}, {when}"),
            }
            let review = support::review("default", &["x.io/a"]);
            assert!(evaluate(&started.policies.current(), &review).allowed(), "{case}, {when}");
            if case == "in force" || when != "a start" {
                let problems = installation.problems(&started);
                let told = |problem: &String| {
                    problem.starts_with("policy new: ") && problem.ends_with("(it is not in force)")
                };
                assert!(problems.iter().any(told), "{case}, {when}: {problems:?}");
            }
            started.reloader.reload();
        }
        // Once the newcomer is gone, everything is as before it: it approved nothing that was pending.
        fs::remove_file(installation.path("policies/new.wasm")).unwrap();
        started.reloader.reload();
        let waits = started.status.current().candidate.as_ref().map(|candidate| candidate.state);
        match case {
            "in force" => {
                assert_eq!((said(&started.policies), waits), (vec!["a: version2".to_owned()], None))
            }
            "newest record damaged" => {
                assert_eq!((said(&started.policies), waits), (vec!["a: version2".to_owned()], None));
            }
            "rolled back" => {
                assert_eq!(
                    (said(&started.policies), waits),
                    (vec!["a: version1".to_owned()], Some(PendingReason::Pinned))
                );
            }
            _ => assert_eq!(
                (said(&started.policies), waits),
                (vec!["a: version1".to_owned()], Some(PendingReason::Held))
            ),
        }
    }
}

/// An empty `policyDirectory` may be an unmounted file system. Its policies stay, also if entries of
/// `policies` keep the set from being empty, until host.yaml says that none is wanted.
#[test]
fn an_empty_policy_directory_takes_no_policy_out_of_force() {
    let entry = "policies: [{ name: a, module: a.wasm }]\nstateDirectory: state";
    let installation = Installation::new(&format!("policyDirectory: policies\n{entry}"));
    fs::write(installation.path("a.wasm"), version("version1")).unwrap();
    installation.policy("b", &version("version2"));
    let mut started = installation.start();
    let both = ["a: version1", "b: version2"];
    assert_eq!(said(&started.policies), both);

    let empty = |more: &str| {
        fs::remove_dir_all(installation.path("policies")).unwrap();
        fs::create_dir(installation.path("policies")).unwrap();
        installation.host_yaml(&format!("{more}\n{entry}"));
    };
    empty("policyDirectory: policies\nunjudged: Allow");
    for restart in [false, true] {
        if restart {
            drop(started);
            started = installation.start();
        }
        started.reloader.reload();
        assert_eq!(said(&started.policies), both);
        let problems = installation.problems(&started);
        assert!(
            problems[0].starts_with(
                "policyDirectory policies: it has no policy, as if its file system were not mounted"
            ),
            "{problems:?}"
        );
        assert!(problems[0].contains("and b stays in force"), "{problems:?}");
        assert!(problems[1].contains("these changes wait: unjudged, b (removed)"), "{problems:?}");
    }
    for wanted in ["policyDirectory: policies\nallowEmpty: true", ""] {
        installation.host_yaml(&format!("{wanted}\n{entry}"));
        started.reloader.reload();
        assert_eq!(
            (said(&started.policies), installation.problems(&started)),
            (vec!["a: version1".to_owned()], vec![])
        );
        installation.host_yaml(&format!("policyDirectory: policies\n{entry}"));
        installation.policy("b", &version("version2"));
        started.reloader.reload();
        assert_eq!(said(&started.policies), both);
        fs::remove_file(installation.path("policies/b.wasm")).unwrap();
    }

    // An entry that is no longer in host.yaml goes, even if the folder has been empty all the time.
    installation.host_yaml(&format!("policyDirectory: policies\nallowEmpty: true\n{entry}"));
    started.reloader.reload();
    let two = entry.replace("}]", "}, { name: c, module: a.wasm }]");
    installation.host_yaml(&format!("policyDirectory: policies\n{two}"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1", "c: version1"]);
    installation.host_yaml(&format!("policyDirectory: policies\n{entry}"));
    started.reloader.reload();
    assert_eq!(
        (said(&started.policies), installation.problems(&started)),
        (vec!["a: version1".to_owned()], vec![])
    );
}
