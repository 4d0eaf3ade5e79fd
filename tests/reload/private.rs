//! No other user of the machine decides which code the host executes, where it writes, or with which state it
//! starts. Each folder of the host is tried with everything that another user could have put on its path or
//! into it.
//!
//! Creating files of other users takes root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::policy::Cache;
use host::reload::history::StateDirectory;
use host::telemetry::answered::{AnsweredReview, Ids};
use host::telemetry::decision_log::DecisionLog;
use serde_json::json;

use crate::support;
use crate::support::evaluation::evaluate;

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65534;

/// Opens a folder as the host does. The error is the message for people.
type Open = fn(&Path) -> Result<(), String>;

const FOLDERS: [(&str, Open); 3] = [("state", state), ("cache", cache), ("log", log)];

fn state(folder: &Path) -> Result<(), String> {
    StateDirectory::open(folder).map(drop).map_err(|error| error.to_string())
}

fn cache(folder: &Path) -> Result<(), String> {
    Cache::open(folder, 1 << 30).map(drop).map_err(|error| error.to_string())
}

fn log(folder: &Path) -> Result<(), String> {
    let log = DecisionLog::default();
    log.configure(support::config(json!({ "decisionLog": { "directory": folder } })).decision_log.as_ref());
    let set = support::set(json!({ "policies": [], "allowEmpty": true, "unjudged": "Allow" }));
    let review = support::review("default", &["nginx"]);
    let verdict = evaluate(&set, &review);
    log.log(&AnsweredReview::new(&Ids::default(), Duration::from_micros(1), review.into(), verdict));
    assert!(log.close(Duration::from_secs(60)), "the log waits");
    match log.state() {
        state if state.written == 1 => Ok(()),
        state => Err(format!("{:?}", state.trouble)),
    }
}

/// Makes a folder in a temporary one, with a mode and an owner.
fn folder(path: &Path, mode: u32, owner: u32) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    own(path, owner);
}

fn own(path: &Path, owner: u32) {
    let owned = std::os::unix::fs::lchown(path, Some(owner), Some(owner));
    owned.expect("files of other users cannot be made: run this test as root");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Makes the path to a folder of the host. Returns the folder's path.
type Way = fn(&Path) -> PathBuf;

#[test]
fn a_folder_that_another_user_can_exchange_is_refused() {
    let ways: &[(&str, Way, &str)] = &[
        (
            "of another user",
            |top| (folder(&top.join("f"), 0o700, NOBODY), top.join("f")).1,
            "belongs to another user",
        ),
        ("written by all", |top| (folder(&top.join("f"), 0o777, 0), top.join("f")).1, "chmod 0700"),
        (
            "in a folder of another user",
            |top| {
                folder(&top.join("home"), 0o755, NOBODY);
                folder(&top.join("home/f"), 0o700, 0);
                top.join("home/f")
            },
            "belongs to another user",
        ),
        (
            "made in a folder of another user",
            |top| (folder(&top.join("home"), 0o755, NOBODY), top.join("home/new/f")).1,
            "belongs to another user",
        ),
        (
            "in a folder that all can write",
            |top| {
                folder(&top.join("open/f"), 0o700, 0);
                folder(&top.join("open"), 0o777, 0);
                top.join("open/f")
            },
            "chmod go-w",
        ),
        (
            "behind a link of another user",
            |top| {
                folder(&top.join("tmp"), 0o1777, 0);
                folder(&top.join("real"), 0o700, 0);
                symlink(top.join("real"), top.join("tmp/f")).unwrap();
                own(&top.join("tmp/f"), NOBODY);
                top.join("tmp/f")
            },
            "belongs to another user",
        ),
        (
            "behind a link into a folder of another user",
            |top| {
                folder(&top.join("home"), 0o755, NOBODY);
                folder(&top.join("home/f"), 0o700, 0);
                symlink("home/f", top.join("f")).unwrap();
                top.join("f")
            },
            "belongs to another user",
        ),
        (
            "links in a circle",
            |top| (symlink("f", top.join("f")).unwrap(), top.join("f")).1,
            "too many symbolic links",
        ),
        ("a file", |top| (fs::write(top.join("f"), "").unwrap(), top.join("f")).1, "is no folder"),
        ("below a file", |top| (fs::write(top.join("f"), "").unwrap(), top.join("f/g")).1, "is no folder"),
    ];
    for (kept, open) in FOLDERS {
        for (what, way, expected) in ways {
            let top = tempfile::tempdir().unwrap();
            let path = way(top.path());
            let refused = open(&path).expect_err(&format!("{kept}: {what}"));
            assert!(refused.contains(expected), "{kept}: {what}: {refused}");
        }
    }
}

#[test]
fn a_folder_that_no_other_user_can_exchange_is_taken() {
    let ways: &[(&str, Way)] = &[
        ("made with its parents", |top| top.join("a/b/f")),
        ("in a folder with the sticky bit", |top| {
            folder(&top.join("tmp"), 0o1777, 0);
            top.join("tmp/f")
        }),
        ("behind a link of root", |top| {
            folder(&top.join("x"), 0o755, 0);
            folder(&top.join("real"), 0o700, 0);
            symlink("x/../real", top.join("f")).unwrap();
            top.join("f")
        }),
        ("that others can read", |top| (folder(&top.join("f"), 0o755, 0), top.join("f")).1),
    ];
    for (kept, open) in FOLDERS {
        for (what, way) in ways {
            let top = tempfile::tempdir().unwrap();
            let path = way(top.path());
            open(&path).unwrap_or_else(|error| panic!("{kept}: {what}: {error}"));
            let readable = kept == "log" && *what == "that others can read";
            assert_eq!(mode(&path), if readable { 0o755 } else { 0o700 }, "{kept}: {what}");
        }
    }
}

/// Ubuntu's `/var/log` belongs to the group `syslog`, which can write to it.
#[test]
fn the_parent_of_a_decision_log_may_be_written_by_a_group_of_the_system() {
    let top = tempfile::tempdir().unwrap();
    for (group, name) in [(4, "of-adm"), (0, "of-root")] {
        let parent = top.path().join(name);
        folder(&parent, 0o775, 0);
        chown(&parent, None, Some(group))
            .expect("files of other groups cannot be made: run this test as root");
        log(&parent.join("f")).unwrap();
        for (kept, open) in [("state", state as Open), ("cache", cache)] {
            let refused = open(&parent.join(kept)).expect_err(kept);
            assert!(refused.contains("chmod go-w"), "{kept}, {name}: {refused}");
        }
    }
}

/// Replaces a file by something that is no file of this user alone.
type Put = fn(&Path);

const PUT: &[(&str, Put)] = &[
    ("a symbolic link", |at| {
        let victim = at.with_extension("victim");
        fs::rename(at, &victim).unwrap();
        symlink(victim, at).unwrap();
    }),
    ("a hard link", |at| fs::hard_link(at, at.with_extension("victim")).unwrap()),
    ("a pipe", |at| {
        fs::remove_file(at).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }),
    ("a device", |at| {
        fs::remove_file(at).unwrap();
        let zero = rustix::fs::makedev(1, 5);
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            at,
            rustix::fs::FileType::CharacterDevice,
            0o600.into(),
            zero,
        );
        made.expect("devices cannot be made: run this test as root");
    }),
    ("a folder", |at| {
        fs::remove_file(at).unwrap();
        fs::create_dir(at).unwrap();
    }),
    ("a file of another user", |at| own(at, NOBODY)),
    ("a file that others can write", |at| fs::set_permissions(at, Permissions::from_mode(0o666)).unwrap()),
];

#[test]
fn a_lock_that_is_no_file_of_this_user_alone_starts_nothing_and_blocks_nothing() {
    for (what, put) in PUT {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("state");
        state(&path).unwrap();
        let lock = path.join("lock");
        assert_eq!(mode(&lock), 0o600);
        put(&lock);
        let refused = state(&path).expect_err(what);
        assert!(refused.contains("lock: it "), "{what}: {refused}");
        assert_eq!(StateDirectory::served_by(&path), None, "{what}");
    }
}

#[test]
fn a_lock_that_others_could_open_is_closed_to_them() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("state");
    folder(&path, 0o755, 0);
    fs::write(path.join("lock"), "").unwrap();
    fs::set_permissions(path.join("lock"), Permissions::from_mode(0o644)).unwrap();
    state(&path).unwrap();
    assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600));
}

#[test]
fn folders_of_a_state_directory_are_private_too() {
    for name in ["generations", "components"] {
        for (owner, mode, expected) in [
            (NOBODY, 0o700, "belongs to another user"),
            (0, 0o777, "chmod 0700"),
            (NOBODY, 0o777, "another user"),
        ] {
            let top = tempfile::tempdir().unwrap();
            let path = top.path().join("state");
            folder(&path, 0o700, 0);
            folder(&path.join(name), mode, owner);
            let refused = state(&path).expect_err(name);
            assert!(refused.contains(expected), "{name}: {refused}");
        }
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("state");
        folder(&path, 0o700, 0);
        folder(&path.join("other"), 0o700, 0);
        symlink("other", path.join(name)).unwrap();
        let refused = state(&path).expect_err(name);
        assert!(refused.contains("is no folder"), "{name}: {refused}");
    }
}

/// The decision log never writes to, truncates or changes the mode of a file that is not its own.
#[test]
fn a_decision_log_leaves_what_is_not_its_own_as_it_is() {
    for (what, put) in PUT {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("log");
        folder(&path, 0o700, 0);
        let file = path.join("decisions.jsonl");
        fs::write(&file, "whole\nunfinished").unwrap();
        put(&file);
        let victim = file.with_extension("victim");
        let shown = if victim.exists() { &victim } else { &file };
        let before = (mode(shown), fs::metadata(shown).unwrap().is_file().then(|| fs::read(shown).unwrap()));
        let refused = log(&path).expect_err(what);
        assert!(refused.contains("decisions.jsonl: it "), "{what}: {refused}");
        let after = (mode(shown), fs::metadata(shown).unwrap().is_file().then(|| fs::read(shown).unwrap()));
        assert_eq!(after, before, "{what}");
    }
}
