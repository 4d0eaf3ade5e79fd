//! Reports of `host test` of a run that problems have ended, and of one with gaps in the coverage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use host::author::reporters::{
    Broken, CaseResult, Detail, Entry, Options, Reporters, Target, Totals, Workflow,
};
use host::config::yaml::Location;
use host::suite::coverage::{ConfigCoverage, Coverage, Missing, PolicyCoverage};
use serde_json::{Value, json};

const FORMATS: [&str; 5] = ["human", "json", "junit", "tap", "github"];

fn passed() -> Entry<'static> {
    Entry {
        suite: "own".to_owned(),
        row: None,
        name: "own/a # b.yaml".to_owned(),
        path: "own/a # b.yaml".into(),
        line: 1,
        column: 1,
        place: "own/a # b.yaml".to_owned(),
        result: CaseResult::Passed,
        differences: Vec::new(),
        explained: Vec::new(),
        verdict: None,
        took: std::time::Duration::ZERO,
        again: "host test".to_owned(),
    }
}

/// Returns what a run with one case that passed writes to standard output, to a file of each format, and to
/// the summary of a step, in this order.
fn written(end: impl FnOnce(Reporters<'_>)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let targets: Vec<Target> =
        FORMATS.iter().map(|name| format!("{name}={}", at(name).display()).parse().unwrap()).collect();
    let options = Options {
        detail: Detail::Suites,
        slowest: 0,
        width: None,
        started: SystemTime::now(),
        github: Workflow { summary: Some(at("summary")), ..Workflow::default() },
    };
    let mut output = Vec::new();
    let mut reporters = Reporters::new(&targets, &options, &mut output).unwrap();
    reporters.case(&passed()).unwrap();
    end(reporters);
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    let output = String::from_utf8(output).unwrap();
    std::iter::once(output).chain(FORMATS.map(read)).chain([read("summary")]).collect()
}

#[test]
fn a_message_may_begin_with_a_place() {
    for (message, expected) in [
        ("a/host.yaml:12:5: settings/allow/0: wrong", Some(("a/host.yaml", 12, 5))),
        ("host.yaml:12:5", Some(("host.yaml", 12, 5))),
        ("C:\\x.yaml:1:2: y", Some(("C:\\x.yaml", 1, 2))),
        ("p.wasm: no file", None),
        ("a.yaml:12: wrong", None),
        ("", None),
        (":::", None),
    ] {
        let found = Broken::of_message(message);
        let place = expected.map(|(path, line, column)| (PathBuf::from(path), Location { line, column }));
        assert_eq!((found.path, found.at), place.unzip(), "{message}");
    }
}

#[test]
fn a_run_without_results_has_its_problems_in_each_report() {
    let at = Some(Location { line: 3, column: 7 });
    let [file, policy] = ["a,b.yaml", "p.wasm"].map(Path::new);
    let problems = [
        Broken { at, ..Broken::of_file(file, "a,b.yaml:3:7: no key `x`: 100 %\u{9b}31m") },
        Broken::of_file(policy, "policy p: it failed\n  error <1>"),
        Broken::new("there is no case"),
    ];
    let found = written(|reporters| reporters.broken(&problems, &Totals::default()).unwrap());
    let [output, human, document, junit, tap, github, summary] = &found[..] else { panic!("{found:?}") };
    // All formats go to files, and people at a terminal read standard error.
    assert_eq!(output, "");
    let lines = "a,b.yaml:3:7: no key `x`: 100 %\\u{9b}31m\np.wasm: policy p: it failed\n  error <1>\n\
        there is no case\n";
    assert!(human.ends_with(lines), "{human}");

    let document: Value = serde_json::from_str(document).unwrap();
    let expected = json!([
        { "file": "a,b.yaml", "line": 3, "column": 7, "message": "no key `x`: 100 %\\u{9b}31m" },
        { "file": "p.wasm", "line": null, "column": null, "message": "policy p: it failed\n  error <1>" },
        { "file": null, "line": null, "column": null, "message": "there is no case" },
    ]);
    assert_eq!(document["errors"], expected);
    assert_eq!(document["suites"][0]["cases"][0]["id"], "own/a # b.yaml");

    let expected = "TAP version 14\nok 1 - own/a \\# b.yaml\n# a,b.yaml:3:7: no key `x`: 100 %\\u{9b}31m\n\
        # p.wasm: policy p: it failed\n#   error <1>\n# there is no case\n\
        Bail out! 3 problems: a,b.yaml:3:7: no key `x`: 100 %\\u{9b}31m\n";
    assert_eq!(tap, expected);

    assert!(junit.contains("tests=\"3\" failures=\"0\" errors=\"3\""), "{junit}");
    let error = "<testcase name=\"p.wasm\" classname=\"host test\" time=\"0.000\">\n      <error \
        message=\"policy p: it failed\" type=\"broken\">p.wasm: policy p: it failed\n  error \
        &lt;1&gt;</error>\n";
    assert!(junit.contains(error), "{junit}");

    let expected = "::error file=a%2Cb.yaml,line=3,col=7,title=host test::no key `x`: 100 %25\\u{9b}31m\n\
        ::error file=p.wasm,title=host test::policy p: it failed%0A  error <1>\n\
        ::error title=host test::there is no case\nnot run: 3 problems\n";
    assert_eq!(github, expected);
    assert!(summary.starts_with("### ❌ host test: not run: 3 problems\n\n| suite "), "{summary}");
    assert!(summary.contains("there is no case"), "{summary}");
}

/// Returns the reports of a run with two gaps.
fn with_gaps(is_coverage_required: bool, is_measured: bool) -> Vec<String> {
    let policy = |name: &str, missing: Vec<Missing>| PolicyCoverage {
        missing,
        ..PolicyCoverage::of(name, [].into_iter())
    };
    let setting = Missing::Setting { place: "a/host.yaml:4:9: settings/x\u{9b}".to_owned(), value: None };
    let policies = vec![policy("whole", Vec::new()), policy("tags", vec![setting, Missing::Denial])];
    let config = ConfigCoverage { file: "host.yaml".to_owned(), policies, untried: 0 };
    let coverage = if is_measured { Coverage::Of(vec![config]) } else { Coverage::NotMeasured };
    let totals = Totals { passed: 1, coverage: Some(coverage), is_coverage_required, ..Totals::default() };
    written(|reporters| reporters.finish(&totals).unwrap())
}

#[test]
fn a_gap_in_a_required_coverage_is_a_failure_in_each_report() {
    let found = with_gaps(true, true);
    let [_, _, _, junit, tap, github, summary] = &found[..] else { panic!("{found:?}") };
    let first = "a/host.yaml:4:9: settings/x\\u{9b}: no case depends on it";

    let lines = "ok 2 - coverage › host.yaml › whole\nnot ok 3 - coverage › host.yaml › tags\n";
    assert!(tap.contains(&format!("{lines}  ---\n  message: {}\n  at: {{", json!(first))), "{tap}");
    assert!(tap.ends_with("  ...\n1..3\n"), "{tap}");

    assert!(junit.contains("tests=\"2\" failures=\"1\" errors=\"0\""), "{junit}");
    let failure = format!("<failure message=\"{first}\" type=\"coverage\">{first}\nno case makes it deny<");
    assert!(junit.contains(&failure), "{junit}");

    let expected = format!(
        "::error file=a/host.yaml,line=4,col=9,title=coverage › host.yaml › tags::{first}\n\
         ::error file=host.yaml,line=1,col=1,title=coverage › host.yaml › tags::no case makes it deny\n"
    );
    assert!(github.starts_with(&expected), "{github}");
    assert!(
        summary.starts_with("### ❌ host test: 1 passed, 0 failed in 0 µs; coverage: 2 gaps\n"),
        "{summary}"
    );

    let shown = with_gaps(false, true);
    for report in &shown[3..] {
        assert!(!report.contains("no case"), "{report}");
    }
    // After a failed case there is nothing to report.
    assert_eq!(with_gaps(true, false)[4..], shown[4..]);
}
