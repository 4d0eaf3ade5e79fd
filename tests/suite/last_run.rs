//! The failed cases of a suite's last run.

use std::time::Duration;

use host::author::test::LastRun;
use host::config::yaml::Location;
use host::suite::{CaseId, CaseReport, Failed, Place, Suite};

fn suite(path: &str) -> Suite {
    Suite {
        path: path.into(),
        subjects: Vec::new(),
        cases: Vec::new(),
        files: Vec::new(),
        texts: Default::default(),
    }
}

fn report(name: &str, has_failed: bool) -> CaseReport {
    let failed = if has_failed { vec![Failed::NotRun("out of time".to_owned())] } else { Vec::new() };
    CaseReport {
        id: CaseId { suite: "suite.yaml".into(), row: None, name: Some(name.to_owned()) },
        place: Place { path: "suite.yaml".into(), at: Location::default() },
        failed,
        verdict: None,
        took: Duration::ZERO,
    }
}

#[test]
fn failed_cases_are_known_until_they_pass() {
    let folder = tempfile::tempdir().unwrap();
    let suites = [suite("suite.yaml"), suite("other.yaml")];
    let [first, other] = &suites;
    let one = report("one", true);
    let mut last = LastRun::read(folder.path(), &suites);
    last.add(first, &one);
    last.add(first, &report("two", false));
    last.write(folder.path()).unwrap();

    let mut last = LastRun::read(folder.path(), &suites);
    assert!(last.failed(first, &one.id) && !last.failed(other, &one.id));
    assert!(!last.failed(first, &report("two", false).id));
    last.add(first, &report("one", false));
    last.write(folder.path()).unwrap();
    assert_eq!(LastRun::read(folder.path(), &suites), LastRun::default());
}

/// limit: last-run within, last-run breaks
#[test]
fn results_over_the_limit_are_not_kept() {
    let suites = [suite("suite.yaml")];
    // A list of one name has four bytes more than the name.
    for (bytes, is_kept) in [((1 << 20) - 4, true), ((1 << 20) - 3, false)] {
        let folder = tempfile::tempdir().unwrap();
        let case = report(&"n".repeat(bytes), true);
        let mut last = LastRun::default();
        last.add(&suites[0], &case);
        last.write(folder.path()).unwrap();
        assert_eq!(LastRun::read(folder.path(), &suites).failed(&suites[0], &case.id), is_kept);
    }
}
