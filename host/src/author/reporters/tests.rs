//! Whole outputs of one run in each format, and the places that they are written to.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

fn entry(row: Option<&str>, name: &str, result: CaseResult) -> Entry<'static> {
    let name = row.map_or(name.to_owned(), |row| format!("{row} › {name}"));
    Entry {
        suite: "suites/images.yaml".to_owned(),
        row: row.map(str::to_owned),
        path: "suites/images.yaml".into(),
        line: 31,
        column: 5,
        place: "suites/images.yaml:31:5".to_owned(),
        result,
        differences: Vec::new(),
        explained: Vec::new(),
        verdict: None,
        took: Duration::from_millis(2),
        again: format!("host test suites/images.yaml -f '{name}'"),
        name,
    }
}

fn failed() -> Entry<'static> {
    Entry {
        differences: vec![
            Difference::Unmet {
                image: Some("ghcr.io/acme/web".to_owned()),
                policy: None,
                part: "outcome".to_owned(),
                expected: "deny forbidden-tag".to_owned(),
                found: "deny not-pinned: it has no digest".to_owned(),
            },
            Difference::Unmet {
                image: None,
                policy: None,
                part: "reason".to_owned(),
                expected: "a text that contains \"100 %\"".to_owned(),
                found: "\"<none>\"".to_owned(),
            },
            Difference::Other("pinned-images is not a function of one image".to_owned()),
        ],
        explained: vec![
            "ghcr.io/acme/web: denied".to_owned(),
            "  pinned-images said deny: it has no digest".to_owned(),
        ],
        took: Duration::from_millis(40),
        ..entry(Some("digests"), "others do not", CaseResult::Failed)
    }
}

fn fixture() -> Entry<'static> {
    let name = "own/a # b.yaml".to_owned();
    let (path, place) = (PathBuf::from(&name), name.clone());
    let passed = entry(None, "", CaseResult::Passed);
    Entry { suite: "own".to_owned(), path, place, name, line: 1, column: 1, ..passed }
}

fn entries() -> Vec<Entry<'static>> {
    let explained = vec!["nginx: allowed".to_owned(), "  a said allow: x".to_owned()];
    vec![
        Entry { explained, ..entry(Some("tags"), "our images run", CaseResult::Passed) },
        failed(),
        entry(Some("tags"), "others do not", CaseResult::Skipped),
        fixture(),
    ]
}

fn totals() -> Totals {
    let took = Duration::from_millis(61);
    Totals { passed: 2, failed: 1, skipped: 1, filtered: 3, took, seed: Some(7), ..Totals::default() }
}

fn options() -> Options {
    Options {
        detail: Detail::Suites,
        slowest: 0,
        width: None,
        started: SystemTime::UNIX_EPOCH,
        github: Workflow::default(),
    }
}

fn run(format: &str, options: &Options, entries: &[Entry<'_>], totals: &Totals) -> String {
    let mut output = Vec::new();
    let target = format.parse().unwrap();
    let mut reporters = Reporters::new(&[target], options, StripStream::new(&mut output)).unwrap();
    for entry in entries {
        reporters.case(entry).unwrap();
    }
    reporters.finish(totals).unwrap();
    String::from_utf8(output).unwrap()
}

const FAILURE: &str = r#"FAIL suites/images.yaml:31:5 › digests › others do not
     ghcr.io/acme/web: expected deny forbidden-tag
                            got deny not-pinned: it has no digest
     reason: expected a text that contains "100 %"
                  got "<none>"
     pinned-images is not a function of one image
       ghcr.io/acme/web: denied
         pinned-images said deny: it has no digest
     again: host test suites/images.yaml -f 'digests › others do not'
"#;

const LAST: &str = "2 passed, 1 failed, 1 skipped in 61 ms; 3 filtered out; --shuffle=7\n";

#[test]
fn people_see_a_line_for_each_suite_and_failures_in_full() {
    let suites = "suites/images.yaml   tags     1 passed, 1 skipped\n\
                  suites/images.yaml   digests  1 failed\n\
                  own                  1 passed\n";
    assert_eq!(run("human", &options(), &entries(), &totals()), format!("{suites}\n{FAILURE}\n{LAST}"));

    let quiet = Options { detail: Detail::Failures, ..options() };
    assert_eq!(run("human", &quiet, &entries(), &totals()), format!("{FAILURE}\n{LAST}"));
    let passed = Totals { passed: 1, took: Duration::from_secs(12), ..Totals::default() };
    assert_eq!(run("human", &quiet, &[fixture()], &passed), "1 passed, 0 failed in 12.0 s\n");
    assert_eq!(run("human", &options(), &[], &Totals::default()), "0 passed, 0 failed in 0 µs\n");

    let slowest = Options { slowest: 2, ..quiet };
    let slow = "\nslowest\n     40 ms  suites/images.yaml › digests › others do not\n      2 ms  \
                suites/images.yaml › tags › our images run\n";
    assert_eq!(run("human", &slowest, &entries(), &totals()), format!("{FAILURE}{slow}\n{LAST}"));
}

#[test]
fn people_see_each_case_and_its_decisions_on_demand() {
    let listed = |detail| run("human", &Options { detail, ..options() }, &entries(), &totals());
    let cases = "suites/images.yaml   tags     1 passed, 1 skipped
  ok    tags › our images run  2 ms
  skip  tags › others do not
suites/images.yaml   digests  1 failed
  FAIL  digests › others do not  40 ms
own                  1 passed
  ok    own/a # b.yaml  2 ms
";
    assert_eq!(listed(Detail::Cases), format!("{cases}\n{FAILURE}\n{LAST}"));
    let run = "run  2 ms\n";
    let decisions = cases.replace(run, &format!("{run}        nginx: allowed\n          a said allow: x\n"));
    assert_eq!(listed(Detail::Decisions), format!("{decisions}\n{FAILURE}\n{LAST}"));
}

#[test]
fn a_terminal_gets_colours_and_wrapped_lines_and_a_file_neither() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.txt");
    let mut output = Vec::new();
    let options = Options { width: Some(50), ..options() };
    let targets = [Target { format: Format::Human, file: Some(file.clone()) }, "tap".parse().unwrap()];
    let mut reporters = Reporters::new(&targets, &options, &mut output).unwrap();
    reporters.case(&failed()).unwrap();
    reporters.finish(&totals()).unwrap();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.ends_with(&format!("{FAILURE}\n{LAST}")), "{text}");

    let mut output = Vec::new();
    let mut reporters = Reporters::new(&[], &options, &mut output).unwrap();
    reporters.case(&failed()).unwrap();
    reporters.finish(&totals()).unwrap();
    let text = String::from_utf8(output).unwrap();
    let coloured = "\u{1b}[32mdeny \u{1b}[0m\u{1b}[1m\u{1b}[4m\u{1b}[32mforbidden-tag\u{1b}[0m\n";
    assert!(text.contains(coloured), "{text:?}");
    let plain = anstream::adapter::strip_str(&text).to_string();
    let wrapped = "     again: host test suites/images.yaml -f\n            'digests › others do not'\n";
    assert!(plain.contains(wrapped), "{plain}");
}

#[test]
fn scripts_get_one_document() {
    let document: Value = serde_json::from_str(&run("json", &options(), &entries(), &totals())).unwrap();
    let numbers = ["passed", "failed", "skipped", "filtered", "seconds", "seed"].map(|key| &document[key]);
    assert_eq!(json!(numbers), json!([2, 1, 1, 3, 0.061, 7]));
    let suites = document["suites"].as_array().unwrap();
    let of = |suite: &Value| json!([suite["suite"], suite["row"], suite["passed"], suite["failed"]]);
    assert_eq!(
        suites.iter().map(of).collect::<Vec<_>>(),
        [
            json!(["suites/images.yaml", "tags", 1, 0]),
            json!(["suites/images.yaml", "digests", 0, 1]),
            json!(["own", null, 1, 0]),
        ]
    );
    let case = &suites[1]["cases"][0];
    let expected = json!({
        "id": "suites/images.yaml › digests › others do not",
        "name": "digests › others do not",
        "file": "suites/images.yaml",
        "line": 31,
        "column": 5,
        "result": "failed",
        "seconds": 0.04,
        "differences": [
            {
                "image": "ghcr.io/acme/web",
                "policy": null,
                "part": "outcome",
                "expected": "deny forbidden-tag",
                "found": "deny not-pinned: it has no digest",
            },
            {
                "image": null,
                "policy": null,
                "part": "reason",
                "expected": "a text that contains \"100 %\"",
                "found": "\"<none>\"",
            },
            { "message": "pinned-images is not a function of one image" },
        ],
        "again": "host test suites/images.yaml -f 'digests › others do not'",
        "verdict": null,
    });
    assert_eq!(*case, expected);
    assert_eq!(suites[2]["cases"][0]["id"], "own/a # b.yaml");
}

#[test]
fn tap_has_a_plan_and_a_diagnostic_for_each_failure() {
    let found = run("tap", &options(), &entries(), &totals());
    let head = "TAP version 14\nok 1 - suites/images.yaml › tags › our images run\n\
                not ok 2 - suites/images.yaml › digests › others do not\n  ---\n  \
                message: \"ghcr.io/acme/web: expected deny forbidden-tag\"\n";
    let tail = "  again: \"host test suites/images.yaml -f 'digests › others do not'\"\n  ...\n\
                ok 3 - suites/images.yaml › tags › others do not # SKIP\nok 4 - own/a \\# b.yaml\n\
                1..4\n# --shuffle=7\n";
    assert!(found.starts_with(head) && found.ends_with(tail), "{found}");
    assert_eq!(run("tap", &options(), &[], &Totals::default()), "TAP version 14\n1..0\n");
}

#[test]
fn github_shows_ten_failures_and_the_number_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let summary = folder.path().join("summary.md");
    fs::write(&summary, "before\n").unwrap();
    let github = Workflow { summary: Some(summary.clone()), ..Workflow::default() };
    let options = Options { github, ..options() };
    let mut all = vec![fixture()];
    all.extend((0..12).map(|_| failed()));
    let totals = Totals { passed: 1, failed: 12, ..Totals::default() };
    let found = run("github", &options, &all, &totals);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 12, "{found}");
    assert_eq!(
        lines[0],
        "::error file=suites/images.yaml,line=31,col=5,title=digests › others do not::\
         ghcr.io/acme/web: expected deny forbidden-tag%0A                       \
         got deny not-pinned: it has no digest%0A\
         reason: expected a text that contains \"100 %25\"%0A             got \"<none>\"%0A\
         pinned-images is not a function of one image%0A  ghcr.io/acme/web: denied%0A    \
         pinned-images said deny: it has no digest%0A\
         again: host test suites/images.yaml -f 'digests › others do not'"
    );
    assert_eq!(lines[10], "::notice title=host test::2 more failed: run `host test` to see them");
    assert_eq!(anstream::adapter::strip_str(lines[11]).to_string(), "1 passed, 12 failed in 0 µs");
    let text = fs::read_to_string(summary).unwrap();
    assert!(text.starts_with("before\n### ❌ host test: 1 passed, 12 failed in 0 µs\n\n| suite "), "{text}");
    assert!(text.contains("| suites\\/images&#46;yaml | digests | 0 | 12 | 0 | 480 ms |\n"), "{text}");
    assert!(text.contains(r#"got \"&lt;none\>\""#), "{text}");
}

#[test]
fn a_format_goes_to_one_place() {
    for (argument, expected) in [
        ("human", Ok((Format::Human, None))),
        ("json", Ok((Format::Json, None))),
        ("tap=-", Ok((Format::Tap, None))),
        ("junit=a=b.xml", Ok((Format::Junit, Some("a=b.xml")))),
        ("github=x", Ok((Format::Github, Some("x")))),
        ("junit=", Err(TargetError::NoFile("junit"))),
        ("JSON", Err(TargetError::Unknown("JSON".to_owned()))),
        ("", Err(TargetError::Unknown(String::new()))),
    ] {
        let expected = expected.map(|(format, file)| Target { format, file: file.map(Into::into) });
        assert_eq!(argument.parse(), expected);
    }
    for (arguments, expected) in [
        (
            vec!["json", "tap"],
            "--format json, tap: standard output carries one format: name a file for the \
                              others, such as tap=FILE",
        ),
        (vec!["json=x", "tap=x"], "--format: x is named for two formats: name a file for each"),
        (vec!["json=/nowhere/x"], "/nowhere/x: it cannot be written: there is no such folder: make it first"),
        (vec!["json=/"], "/: it cannot be written: it is a folder: name a file in it"),
    ] {
        let targets: Vec<_> = arguments.into_iter().map(|argument| argument.parse().unwrap()).collect();
        let error = Reporters::new(&targets, &options(), io::sink()).err().unwrap();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [file, link] = ["report.xml", "link.xml"].map(|name| folder.path().join(name));
    fs::write(&file, "old").unwrap();
    symlink("report.xml", &link).unwrap();
    let targets = [Target { format: Format::Junit, file: Some(link.clone()) }];
    let mut output = Vec::new();
    let mut reporters = Reporters::new(&targets, &options(), StripStream::new(&mut output)).unwrap();
    reporters.case(&failed()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    reporters.finish(&totals()).unwrap();
    assert!(fs::read_to_string(&file).unwrap().ends_with("</testsuites>\n"));
    assert!(link.is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o600, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    // People still see the result.
    assert!(String::from_utf8(output).unwrap().ends_with(LAST));

    let device = Target { format: Format::Json, file: Some("/dev/null".into()) };
    Reporters::new(&[device], &options(), io::sink()).unwrap().finish(&totals()).unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let full = Target { format: Format::Json, file: Some("/dev/full".into()) };
    let error = Reporters::new(&[full], &options(), io::sink()).unwrap().finish(&totals()).unwrap_err();
    assert!(error.to_string().starts_with("/dev/full: it cannot be written: No space left"), "{error}");
}

/// A reader of standard output that fails.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for (kind, is_error) in [(io::ErrorKind::BrokenPipe, false), (io::ErrorKind::StorageFull, true)] {
        let reporters = Reporters::new(&[], &options(), Broken(kind)).unwrap();
        assert_eq!(reporters.finish(&totals()).is_err(), is_error, "{kind}");
    }
}
