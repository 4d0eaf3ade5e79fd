//! The tests that `cases/complaints.yaml` names for the complaints of users of other tools.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use host::config::yaml::Document;
use serde::Deserialize;

use super::cases::root;
use crate::support::assert_none;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Complaint {
    /// One sentence.
    complaint: String,
    /// The tools and the numbers of their issues.
    of: Vec<String>,
    /// Folders of `cases/cli`.
    #[serde(default)]
    cases: Vec<String>,
    /// Test functions.
    #[serde(default)]
    functions: Vec<String>,
}

/// Returns the names of all tests of this program.
fn functions() -> BTreeSet<String> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn each_complaint_has_tests_that_exist() {
    let file = fs::read(root().join("tests/cases/complaints.yaml")).unwrap();
    let complaints: Vec<Complaint> = serde_json::from_value(Document::parse(&file).unwrap().value).unwrap();
    assert!(complaints.len() >= 13, "only {} complaints", complaints.len());
    let functions = functions();
    assert!(functions.contains("cli::complaints::each_complaint_has_tests_that_exist"), "{functions:?}");
    let mut problems = Vec::new();
    let mut sources = BTreeSet::new();
    for Complaint { complaint, of, cases, functions: named } in &complaints {
        let cases =
            cases.iter().filter(|case| !root().join("tests/cases/cli").join(case).join("command").is_file());
        problems.extend(cases.map(|case| format!("{complaint} There is no case {case}")));
        let named_wrongly = named.iter().filter(|name| !functions.contains(*name));
        problems.extend(named_wrongly.map(|name| format!("{complaint} There is no test {name}")));
        if of.is_empty() || !complaint.ends_with('.') {
            problems.push(format!("{complaint}: a complaint is a sentence, of a tool"));
        }
        problems
            .extend(of.iter().filter(|of| !sources.insert(*of)).map(|of| format!("{of} is listed twice")));
    }
    let without = complaints.iter().filter(|one| one.cases.is_empty() && one.functions.is_empty());
    problems.extend(without.map(|one| format!("{} It has no test", one.complaint)));
    assert_none(&problems);
}
