//! The records of the state directory at a start: damaged, lost, locked, and files that are none.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use host::policy::digest;
use host::policy::manifest::{Cause, Change};
use host::reload::Command;
use host::reload::history::PendingReason;

use crate::reload::candidate::{Installation, said};
use crate::support::process::HOST;
use crate::support::{self, denying, version};

#[test]
fn generations_are_counted_across_restarts() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let first = installation.start().policies.current().publication().clone();
    assert_eq!((first.number, &first.cause), (1, &Cause::Start));

    // The same content is the same generation.
    let mut started = installation.start();
    assert_eq!(started.policies.current().number(), 1);
    installation.policy("a", &version("version2"));
    started.reloader.reload();
    assert_eq!(started.policies.current().publication().cause, Cause::FilesChanged);
    drop(started);

    installation.policy("a", &version("version3"));
    let started = installation.start();
    let set = started.policies.current();
    assert_eq!((set.number(), &set.publication().cause), (3, &Cause::Start));
    let history = started.status.current().history.clone();
    let told: Vec<_> = history
        .iter()
        .map(|summary| {
            let changes: Vec<_> = summary.changes.iter().map(Change::to_string).collect();
            (summary.publication.number, summary.publication.cause.to_string(), changes.join(", "))
        })
        .collect();
    let expected = [(1, "start", ""), (2, "files changed", "a (component)"), (3, "start", "a (component)")];
    assert_eq!(told, expected.map(|(number, cause, change)| (number, cause.to_owned(), change.to_owned())));
    assert_eq!(history[0].publication.number, first.number);
    assert!(history[0].publication.published <= history[1].publication.published);
}

#[test]
fn a_damaged_record_is_told_and_the_one_before_counts() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    installation.policy("a", &version("version2"));
    started.reloader.reload();
    drop(started);
    fs::write(installation.path("state/generations/2.json"), "{").unwrap();
    fs::write(installation.path("policies/a.wasm"), "garbage").unwrap();
    let started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    let told = "state: generation 2 is of no use, its record is damaged: state/generations/2.json: ";
    let problem = problems.iter().find(|problem| problem.starts_with(told));
    let problem = problem.unwrap_or_else(|| panic!("{problems:?}"));
    for part in [
        "(generation 1 took its place; ",
        "if it was a rollback, or held a candidate,",
        "--to NUMBER`; told until the next start)",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(started.policies.current().number(), 1);

    // Its number was in responses, and is not used for another.
    drop(started);
    let mut started = installation.start();
    installation.policy("a", &version("version3"));
    started.reloader.reload();
    assert_eq!(started.policies.current().number(), 3);
    drop(started);
    let problems = installation.problems(&installation.start());
    assert!(
        problems.len() == 1
            && problems[0].ends_with("(there are later ones: remove the file; told until the next start)"),
        "{problems:?}"
    );

    for number in [1, 3] {
        fs::write(installation.path(&format!("state/generations/{number}.json")), "{").unwrap();
    }
    let problems = installation.problems(&installation.start());
    assert!(
        problems[2]
            .contains("(there is no other, so what is configured is in force, also where it was held "),
        "{problems:?}"
    );
}

/// A candidate that may have been held needs an approval: a damaged record puts nothing in force.
#[test]
fn what_may_have_been_held_is_held() {
    let installation = Installation::new(
        "policyDirectory: policies\nstateDirectory: state\ngate: { replay: 10, onDifference: Hold }",
    );
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    installation.policy("a", &version("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version2"]);
    support::remember(&started.recent, "x.io/a");
    installation.policy("a", &denying("version3"));
    started.reloader.reload();
    drop(started);
    fs::write(installation.path("state/generations/2.json"), "{").unwrap();

    let why = "the record of generation 2 is damaged, so nobody knows whether this was held";
    let mut digest = String::new();
    for _ in 0..2 {
        let mut started = installation.start();
        started.reloader.reload();
        assert_eq!(said(&started.policies), ["a: version1"]);
        let held = started.status.current().candidate.clone().unwrap();
        assert_eq!((held.state, held.why.as_str()), (PendingReason::Held, why));
        digest = held.digest;
    }
    // Removing the file is no approval either.
    fs::remove_file(installation.path("state/generations/2.json")).unwrap();
    let mut started = installation.start();
    started.reloader.reload();
    assert_eq!(started.status.current().candidate.clone().unwrap().why, why);
    started.reloader.execute(Command::Approve { digest }).unwrap();
    assert_eq!(said(&started.policies), ["a: version3"]);
    installation.policy("a", &version("version4"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version4"], "what is known to be new is judged by the gate");
}

/// A policy that could not be restored at a start is restored as soon as possible, and the restored ones stay
/// unchanged.
#[test]
fn what_could_not_be_restored_comes_later() {
    let more = "policyDirectory: policies\nstateDirectory: state\ngate: { replay: 1 }";
    let installation = Installation::new(more);
    installation.policy("a", &version("version1"));
    installation.policy("b", &version("version2"));
    drop(installation.start());
    let component = format!("state/components/{}.wasm", digest(&version("version2")));
    let (component, elsewhere) = (installation.path(&component), installation.path("elsewhere"));
    fs::rename(&component, &elsewhere).unwrap();
    // The file's own version does not help: the version that was in force comes first.
    installation.policy("b", b"garbage");

    let mut started = installation.start();
    let before = started.policies.current();
    let loaded: Vec<_> = before.policies.iter().map(|entry| entry.loaded.is_ok()).collect();
    assert_eq!(loaded, [true, false]);
    assert!(installation.problems(&started)[0].contains("is missing in the state directory"));
    fs::rename(&elsewhere, &component).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"]);
    let [old, new] =
        [&before, &started.policies.current()].map(|set| set.policies[0].loaded.clone().unwrap());
    assert!(Arc::ptr_eq(&old, &new), "what is in force is not loaded again");
}

/// An unexpected folder there does no harm.
#[test]
fn a_folder_among_the_components_is_left_alone() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let folder = installation.path("state/components/old.wasm/more");
    fs::create_dir_all(&folder).unwrap();
    let started = installation.start();
    assert_eq!(installation.problems(&started), [""; 0]);
    assert!(folder.exists());
}

#[test]
fn a_file_with_a_number_that_no_generation_has_is_not_counted() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    drop(installation.start());
    for number in ["18446744073709551615", "18446744073709551614", "9007199254740992"] {
        fs::write(installation.path(&format!("state/generations/{number}.json")), "{").unwrap();
    }
    let mut started = installation.start();
    for number in 2..4 {
        installation.policy("a", &version(&format!("version{number}")));
        started.reloader.reload();
        assert_eq!(started.policies.current().number(), number);
    }
    let told = "state/generations/18446744073709551615.json: no generation has such a number, so no host \
        wrote it: remove it (generations are counted on without it; told until the next start)";
    assert!(
        installation.problems(&started).contains(&told.to_owned()),
        "{:?}",
        installation.problems(&started)
    );
    drop(started);
    assert_eq!(installation.start().policies.current().number(), 3);
}

#[test]
fn a_state_directory_is_of_one_host() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    let started = installation.start();
    let second = host::reload::start(&installation.path("host.yaml"), HOST.into());
    let error = installation.shortened(second.err().unwrap());
    assert_eq!(
        error,
        format!(
            "state: another host serves with this state directory (process {}): stop it first, or give each \
                host a `stateDirectory` of its own",
            std::process::id()
        )
    );
    drop(started);
    installation.start();
}

/// The files of the state directory are read within limits, whatever they are.
///
/// limit: record within, record breaks
#[test]
fn a_state_directory_full_of_traps_holds_nobody_up() {
    let installation = Installation::new("policyDirectory: policies\nstateDirectory: state");
    installation.policy("a", &version("version1"));
    drop(installation.start());
    let generations = installation.path("state/generations");
    let pipe = |path: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    };
    pipe(&generations.join("90.json"));
    std::os::unix::fs::symlink("/dev/zero", generations.join("91.json")).unwrap();
    // A valid record, except for its size.
    let mut large = fs::read(generations.join("1.json")).unwrap();
    large.resize(32 << 20, b' ');
    fs::write(generations.join("1.json"), &large).unwrap();
    large = String::from_utf8(large).unwrap().replacen("\"number\":1", "\"number\":92", 1).into_bytes();
    large.push(b' ');
    fs::write(generations.join("92.json"), large).unwrap();
    fs::write(generations.join("18446744073709551615.json"), "{").unwrap();
    for number in 100..140 {
        fs::write(generations.join(format!("{number}.json")), "{").unwrap();
    }
    for entry in fs::read_dir(installation.path("state/cache")).unwrap() {
        let path = entry.unwrap().path();
        fs::remove_file(&path).unwrap();
        pipe(&path);
    }

    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    assert_eq!(problems.len(), 9, "{problems:#?}");
    assert_eq!(problems[8], "state: 36 more records are damaged");
    // Damaged records are removed first, and the fallback of a start is never removed.
    started.reloader.reload();
    let left: Vec<_> = fs::read_dir(&generations).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 32, "{left:?}");
    assert!(left.contains(&"1.json".into()), "{left:?}");
    drop(started);
    fs::write(installation.path("policies/a.wasm"), "garbage").unwrap();
    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1"]);

    // A file that is no component any more is no good version, and does not block a start either.
    let component =
        fs::read_dir(installation.path("state/components")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&component).unwrap();
    pipe(&component);
    let error = started.reloader.execute(Command::Rollback { to: Some(1) }).unwrap_err().to_string();
    assert!(error.contains("is missing in the state directory, or damaged"), "{error}");
}
