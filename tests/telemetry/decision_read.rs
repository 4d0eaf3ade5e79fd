//! Reading the decision log back for a replay: all records come, the newest first, within the limits of a
//! reading. Lines without a record are cases of `cases/gate`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use host::telemetry::answered::{Ids, ReviewId};
use host::telemetry::decision_log::{DecisionRecord, ReadLimits, Records};
use serde_json::json;

use crate::support::logged;
use crate::telemetry::decision_files::{files, open, reviewed};
use crate::telemetry::decision_log::lines_of;

/// Returns limits that a busy machine can meet.
fn patient() -> ReadLimits {
    ReadLimits { time: Duration::from_secs(60), ..ReadLimits::default() }
}

/// Returns the ids of a log, the newest first.
fn ids(folder: &Path, limits: ReadLimits) -> Vec<ReviewId> {
    Records::open(folder, limits).unwrap().map(|record| record.id).collect()
}

/// Returns a line, and the id of its review.
fn line() -> (ReviewId, String) {
    let reviewed = reviewed(&Ids::default(), 10);
    (reviewed.id, serde_json::to_string(&DecisionRecord::new(&reviewed)).unwrap() + "\n")
}

/// Writes a log of one review and `rest` after it.
fn log_before(rest: &str) -> (tempfile::TempDir, ReviewId) {
    let folder = tempfile::tempdir().unwrap();
    let (id, line) = line();
    fs::write(folder.path().join("decisions.jsonl"), line + rest).unwrap();
    (folder, id)
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(json!({ "directory": folder.path(), "fileSize": "1Mi", "queue": 1024 }));
    let ids = Ids::default();
    let written: Vec<_> = (0..60).map(|_| reviewed(&ids, 40_000)).collect();
    written.iter().for_each(|reviewed| log.log(reviewed));
    assert!(log.close(Duration::from_secs(60)));
    let files = files(folder.path());
    assert_eq!(files.len(), 3);

    let lines: Vec<_> = files.iter().flat_map(|file| lines_of(file)).collect();
    let records: Vec<_> = Records::open(folder.path(), patient()).unwrap().collect();
    assert_eq!(records.len(), written.len());
    for ((record, line), reviewed) in records.iter().zip(lines.iter().rev()).zip(written.iter().rev()) {
        assert_eq!(json!(record), *line);
        assert_eq!(record.id, reviewed.id);
        assert_eq!(record.review().as_ref(), Some(&*reviewed.review));
    }
}

#[test]
fn a_log_without_files_has_no_records() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(ids(folder.path(), patient()), []);
    fs::write(folder.path().join("decisions.jsonl"), "").unwrap();
    assert_eq!(ids(folder.path(), patient()), []);
    // The first line of the file is still being written.
    fs::write(folder.path().join("decisions.jsonl"), line().1.trim_end()).unwrap();
    assert_eq!(ids(folder.path(), patient()), []);
}

/// limit: replay-file within, replay-file breaks
#[test]
fn of_each_file_only_the_end_is_read() {
    let garbage = "x".repeat(1023) + "\n";
    for (mebibytes, found) in [(15, true), (17, false)] {
        let (folder, id) = log_before(&garbage.repeat(mebibytes << 10));
        let (older, line) = line();
        fs::write(folder.path().join("decisions-0.jsonl"), line).unwrap();
        let expected = if found { vec![id, older] } else { vec![older] };
        assert_eq!(ids(folder.path(), patient()), expected, "{mebibytes} MiB");
    }
}

/// limit: replay-lines within, replay-lines breaks
#[test]
fn lines_that_hold_nothing_count() {
    for (lines, found) in [(49_999, true), (50_000, false)] {
        let (folder, id) = log_before(&"{}\n".repeat(lines));
        assert_eq!(ids(folder.path(), patient()), Vec::from_iter(found.then_some(id)), "{lines} lines");
    }
}

/// limit: replay-time within, replay-time breaks
#[test]
fn reading_ends_in_time() {
    let (folder, id) = log_before("");
    assert_eq!(ReadLimits::default().time, Duration::from_secs(2));
    for (time, found) in [(ReadLimits::default().time, true), (Duration::ZERO, false)] {
        let limits = ReadLimits { time, ..ReadLimits::default() };
        assert_eq!(ids(folder.path(), limits), Vec::from_iter(found.then_some(id)), "{time:?}");
    }
}

/// A line over the limit is skipped, wherever it stands; the lines around it are read.
#[test]
fn a_line_over_its_bound_is_skipped() {
    let long = "x".repeat(3 << 20);
    let (folder, first) = log_before(&(long.clone() + "\n"));
    let (second, line) = line();
    let file = folder.path().join("decisions.jsonl");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{long}\n{before}{line}{long}")).unwrap();
    assert_eq!(ids(folder.path(), patient()), [second, first]);
}

/// A file that another user can write, or a folder instead of a file, is left out and reported in the log.
#[test]
fn a_file_that_is_not_the_hosts_alone_is_not_read() {
    let (folder, id) = log_before("");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("decisions-0.jsonl")).unwrap();
    fs::write(at("decisions-1.jsonl"), line().1).unwrap();
    fs::set_permissions(at("decisions-1.jsonl"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(at("elsewhere"), line().1).unwrap();
    symlink("elsewhere", at("decisions-2.jsonl")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("decisions-3.jsonl"), 0o600.into()).unwrap();
    let told = logged(|| assert_eq!(ids(folder.path(), patient()), [id]));
    for part in [
        "decisions-1.jsonl",
        "can be written by others",
        "decisions-2.jsonl",
        "symbolic link",
        "decisions-3.jsonl",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Records::open(folder.path(), patient()).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("others can write"), "{refused}");
}

/// The newest file is the current one, and then the one with the greatest name.
#[test]
fn files_are_read_in_the_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    let ids_of_files = Ids::default();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let (id, line) = line();
        let next = ids_of_files.next(SystemTime::now());
        fs::write(folder.path().join(format!("decisions-{next}.jsonl")), line).unwrap();
        expected.insert(0, id);
    }
    let (id, line) = line();
    fs::write(folder.path().join("decisions.jsonl"), line).unwrap();
    expected.insert(0, id);
    assert_eq!(ids(folder.path(), patient()), expected);
}
