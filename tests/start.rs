//! A start, and what the state directory remembers for it.

use std::fs;

use host::evaluate::evaluate;
use host::reload::Started;

use crate::reload::{Installation, said};
use crate::support::{self, version};

#[test]
fn a_start_falls_back_to_the_last_good_version() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    drop(installation.start());
    installation.policy("a", b"garbage");

    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problem = "policy a: policies/a.wasm: the file is no WebAssembly: it does not begin with `\\0asm`";
    let at_start = format!("{problem} (its last good version, from the state directory, is in force)");
    assert_eq!(installation.problems(&started), [at_start.as_str()]);
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    assert_eq!(
        installation.problems(&started),
        [format!("{problem} (its last good version stays in force, as it was configured)")]
    );

    // It is there at the next start too, and the folder that it came from need not be.
    drop(started);
    fs::rename(installation.path("policies"), installation.path("elsewhere")).unwrap();
    let started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    assert!(problems[0].starts_with("policyDirectory "), "{problems:?}");
    assert!(problems[0].contains("No such file or directory"), "{problems:?}");

    // A folder that is empty for a while, perhaps not mounted yet, is no reason to forget them.
    drop(started);
    fs::create_dir(installation.path("policies")).unwrap();
    let mut started = installation.start();
    let review = support::review("default", &["x.io/a"]);
    assert!(!evaluate(&started.policies.current(), &review).allowed);
    started.reloader.reload();
    assert!(!evaluate(&started.policies.current(), &review).allowed);
    installation.policy("a", b"garbage");
    installation.policy("b", &version("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"]);
    assert_eq!(installation.problems(&started), [at_start]);
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
    let why = "the policy is not loaded: policies/a.wasm: the file is no WebAssembly: it does not begin with `\\0asm`";
    assert_eq!(reason(&started), format!("x.io/a: {why} (policy a)"));
    assert_eq!(started.problems.current().len(), 1);

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
            "x.io/a: no policy judged it in namespace default; a malfunctioned and its failurePolicy is Ignore: {why} \
             (in host.yaml, `unjudged` and `exempt.namespaces` decide what happens then)"
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
        started.reloader.reload();
    }
}

#[test]
fn what_could_not_be_kept_is_kept_later() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    // A folder where the record belongs.
    let record = installation.path("state/last-good/a.json");
    fs::remove_file(&record).unwrap();
    fs::create_dir_all(record.join("in-the-way")).unwrap();
    installation.policy("a", &version("version2"));
    for _ in 0..2 {
        started.reloader.reload();
        let problems = installation.problems(&started);
        assert!(problems[0].contains("the last good versions cannot be kept"), "{problems:?}");
    }
    fs::remove_dir_all(&record).unwrap();
    started.reloader.reload();
    assert_eq!(installation.problems(&started), [""; 0]);
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
