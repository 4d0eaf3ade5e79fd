//! Replays every file of `fuzz/corpus` in the target of its folder's name, so that a finding stays a test.
//! `fuzz/run` searches for more.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;

use crate::support::project;

#[test]
fn every_input_of_the_corpora_holds() {
    let mut failed = Vec::new();
    for (name, target) in targets::TARGETS {
        let folder = project("tests/fuzz/corpus").join(name);
        let inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for path in inputs {
            let input = fs::read(&path).unwrap();
            if catch_unwind(|| target(&input)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let folders = fs::read_dir(project("tests/fuzz/corpus")).unwrap().count();
    assert_eq!(folders, targets::TARGETS.len(), "each folder of tests/fuzz/corpus is a target's");
}
