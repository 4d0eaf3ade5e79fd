//! Reports of `host test`, read by the programs that others read them with: junitparser and the schema of
//! Jenkins, tap-parser, and GitHub's own renderer of Markdown.
//!
//! The programs come from the package registries, into `tools/` of the target folder, once for each version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use host::author::reporters::{
    Broken, CaseResult, Detail, Difference, Entry, Options, Reporters, Target, Totals, Workflow,
};
use host::suite::coverage::{ConfigCoverage, Coverage, Missing, PolicyCoverage};
use serde_json::{Value, json};

/// Packages of PyPI. pytest's sources have the schema of JUnit XML that Jenkins publishes.
const PYTHON: [&str; 3] = ["junitparser==5.0.3", "xmlschema==4.3.2", "cmarkgfm==2025.10.22"];
const SCHEMA: &str = "pytest==9.0.2";
const NODE: &str = "tap-parser@18.3.4";

/// Names that mean something in one of the formats.
const NAMES: [&str; 9] = [
    "our images run",
    "others # SKIP do \\# not",
    "<b>&amp; \"quoted\" 'x' ]]>",
    "ünïcode › 𝕏",
    "| a | `b` *c* _d_ [e](f) @g #1 ~~h~~ \\",
    "::error::100 %0A, x",
    "1..3",
    "- --- ...",
    "https://wiki.example/images",
];

/// Runs a command, and returns its standard output. A program that is missing fails the test by its name.
fn run(command: &mut Command, wanted: &str) -> String {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{name} ({wanted}) cannot be started: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} ({wanted}) failed, {}:\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a folder below `tools/` of the target folder, made by `install` unless it is there.
fn tool(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    let folder = tools.join(name);
    if !folder.is_dir() {
        let part = tools.join(format!("{name}.part"));
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part).unwrap();
        install(&part);
        fs::rename(part, &folder).unwrap();
    }
    folder
}

const WANTS_PYTHON: &str = "Python 3.11 or later, with pip: https://www.python.org";
const WANTS_NODE: &str = "Node.js 20 or later, with npm: https://nodejs.org";

/// Runs a script with the packages of Python, in a folder of reports.
fn python(script: &str, reports: &Path) -> String {
    let name = PYTHON.map(|package| package.replace("==", "-")).join("+");
    let packages = tool(&name, |part| {
        let pip = |arguments: &[&str]| {
            let options = ["--quiet", "--disable-pip-version-check", "--no-input"];
            let command = ["-m", "pip", arguments[0]];
            let mut python = Command::new("python3");
            run(python.args(command).args(options).args(&arguments[1..]), WANTS_PYTHON);
        };
        let folder = part.to_str().unwrap();
        pip(&[&["install", "--target", folder][..], &PYTHON].concat());
        pip(&["download", "--no-deps", "--no-binary", "pytest", "--dest", folder, SCHEMA]);
    });
    let mut python = Command::new("python3");
    python.args(["-c", script]).current_dir(reports).env("PYTHONPATH", packages);
    run(&mut python, WANTS_PYTHON)
}

fn node(script: &str, reports: &Path) -> String {
    let modules = tool(&NODE.replace('@', "-"), |part| {
        let options = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        run(Command::new("npm").args(options).args([part.to_str().unwrap(), NODE]), WANTS_NODE);
    });
    let mut node = Command::new("node");
    node.args(["-e", script]).current_dir(reports).env("NODE_PATH", modules.join("node_modules"));
    run(&mut node, WANTS_NODE)
}

/// Returns a case of one of two rows: every third fails, and the last is skipped.
fn entry(row: &'static str, number: usize, name: &str) -> Entry<'static> {
    let result = match number {
        8 => CaseResult::Skipped,
        number if number % 3 == 1 => CaseResult::Failed,
        _ => CaseResult::Passed,
    };
    let difference = Difference::Unmet {
        image: Some("ghcr.io/acme/web".to_owned()),
        policy: None,
        part: "outcome".to_owned(),
        expected: format!("a text that contains {name:?}"),
        found: "deny".to_owned(),
    };
    let is_failed = result == CaseResult::Failed;
    Entry {
        suite: "suites/a & b.yaml".to_owned(),
        row: Some(row.to_owned()),
        name: format!("{row} › {name}"),
        path: "suites/a & b.yaml".into(),
        line: number + 1,
        column: 3,
        place: format!("suites/a & b.yaml:{}:3", number + 1),
        result,
        differences: Vec::from_iter(is_failed.then_some(difference)),
        explained: vec!["nginx: denied".to_owned(), format!("  wrote: {name}")],
        verdict: None,
        took: Duration::from_micros(1234),
        again: "host test".to_owned(),
    }
}

/// Writes the reports of a run into a folder.
fn reports() -> tempfile::TempDir {
    written(|mut reporters| {
        for row in ["tags", "digests"] {
            for (number, name) in NAMES.iter().enumerate() {
                reporters.case(&entry(row, number, name)).unwrap();
            }
        }
        let totals = Totals { passed: 10, failed: 6, skipped: 2, ..Totals::default() };
        reporters.finish(&totals).unwrap();
    })
}

/// Writes the reports that `write` makes into a folder.
fn written(write: impl FnOnce(Reporters<'_>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let targets: Vec<Target> = [("junit", "junit.xml"), ("tap", "report.tap"), ("github", "commands")]
        .iter()
        .map(|(format, file)| format!("{format}={}", at(file).display()).parse().unwrap())
        .collect();
    let github = Workflow { summary: Some(at("summary.md")), ..Workflow::default() };
    let started = SystemTime::now();
    let options = Options { detail: Detail::Suites, slowest: 0, width: None, started, github };
    write(Reporters::new(&targets, &options, std::io::sink()).unwrap());
    folder
}

#[test]
fn problems_and_gaps_are_errors_and_failures_to_other_programs() {
    const JUNIT: &str = "
import glob, json, os, tarfile, junitparser, xmlschema
[sources] = glob.glob(os.environ['PYTHONPATH'] + '/pytest-*.tar.gz')
with tarfile.open(sources) as sources:
    [schema] = [name for name in sources.getnames() if name.endswith('/junit-10.xsd')]
    schema = sources.extractfile(schema).read().decode()
xmlschema.XMLSchema(schema).validate('junit.xml')
suites = junitparser.JUnitXml.fromfile('junit.xml')
def case(case): return [case.name, [[type(result).__name__, result.message] for result in case.result]]
print(json.dumps([
    [suite.name, suite.tests, suite.failures, suite.errors, [case(each) for each in suite]]
    for suite in suites
]))";
    const TAP: &str = "
const { Parser } = require('tap-parser');
const parser = new Parser({ strict: true }, ({ ok, count, fail, bailout }) =>
    console.log(JSON.stringify([ok, count, fail, bailout])));
parser.end(require('fs').readFileSync('report.tap', 'utf8'))";
    let read = |folder: &Path| -> [Value; 2] {
        [python(JUNIT, folder), node(TAP, folder)].map(|found| serde_json::from_str(&found).unwrap())
    };
    let broken = written(|reporters| {
        let problems = NAMES.map(|name| Broken::of_file(Path::new("a & b.yaml"), name));
        reporters.broken(&problems, &Totals::default()).unwrap();
    });
    let [junit, tap] = read(broken.path());
    assert_eq!(json!(junit[0].as_array().unwrap()[..4]), json!(["host test", 9, 0, 9]));
    for ((case, name), number) in junit[0][4].as_array().unwrap().iter().zip(NAMES).zip(1..) {
        let number = if number == 1 { String::new() } else { format!(" ({number})") };
        assert_eq!(*case, json!([format!("a & b.yaml{number}"), [["Error", name]]]));
    }
    assert_eq!(tap, json!([false, 0, 0, "9 problems: a & b.yaml: our images run"]));

    let gaps = written(|mut reporters| {
        reporters.case(&entry("tags", 0, NAMES[0])).unwrap();
        let policy = |name: &str| PolicyCoverage::of(name, [].into_iter());
        let whole = PolicyCoverage { missing: Vec::new(), ..policy("whole") };
        let setting = Missing::Setting { place: "host.yaml:4:5: settings/allow/0".to_owned(), value: None };
        let gaps = PolicyCoverage { missing: vec![setting, Missing::Denial], ..policy("gaps") };
        let config = ConfigCoverage { file: "host.yaml".to_owned(), policies: vec![whole, gaps], untried: 2 };
        let (coverage, is_coverage_required) = (Some(Coverage::Of(vec![config])), true);
        let totals = Totals { passed: 1, coverage, is_coverage_required, ..Totals::default() };
        reporters.finish(&totals).unwrap();
    });
    let [junit, tap] = read(gaps.path());
    assert_eq!(json!(junit[1].as_array().unwrap()[..4]), json!(["coverage › host.yaml", 3, 2, 0]));
    assert_eq!(junit[1][4][0], json!(["whole", []]));
    let first = "host.yaml:4:5: settings/allow/0: no case depends on it";
    assert_eq!(junit[1][4][1], json!(["gaps", [["Failure", first]]]));
    assert_eq!(tap, json!([false, 4, 2, false]));
}

#[test]
fn junit_xml_follows_the_schema_and_each_case_has_its_name() {
    const READ: &str = "
import glob, json, os, tarfile, junitparser, xmlschema
[sources] = glob.glob(os.environ['PYTHONPATH'] + '/pytest-*.tar.gz')
with tarfile.open(sources) as sources:
    [schema] = [name for name in sources.getnames() if name.endswith('/junit-10.xsd')]
    schema = sources.extractfile(schema).read().decode()
xmlschema.XMLSchema(schema).validate('junit.xml')
suites = junitparser.JUnitXml.fromfile('junit.xml')
def case(case):
    result = [[type(result).__name__, result.message, result.text] for result in case.result]
    return [case.classname, case.name, case.time, result]
print(json.dumps([
    [suite.name, suite.tests, suite.failures, suite.skipped, [case(each) for each in suite]]
    for suite in suites
]))";
    let suites: Value = serde_json::from_str(&python(READ, reports().path())).unwrap();
    let suites = suites.as_array().unwrap();
    assert_eq!(suites.len(), 2);
    let mut names = std::collections::BTreeSet::new();
    for (suite, row) in suites.iter().zip(["tags", "digests"]) {
        let head: Vec<&Value> = suite.as_array().unwrap().iter().take(4).collect();
        assert_eq!(json!(head), json!([format!("suites/a & b.yaml › {row}"), 9, 3, 1]));
        for (number, case) in suite[4].as_array().unwrap().iter().enumerate() {
            let expected = entry(row, number, NAMES[number]);
            assert_eq!(case[0], "suites/a & b.yaml");
            assert_eq!(case[1], expected.name);
            assert_eq!(case[2], 0.001);
            assert!(names.insert(case[1].to_string()), "{case} is there twice");
            let result = &case[3][0];
            let found = result[0].as_str();
            match expected.result {
                CaseResult::Passed | CaseResult::Updated => assert_eq!(found, None),
                CaseResult::Skipped => assert_eq!(found, Some("Skipped")),
                CaseResult::Failed => {
                    let first =
                        format!("ghcr.io/acme/web: expected a text that contains {:?}", NAMES[number]);
                    assert_eq!((found, result[1].as_str()), (Some("Failure"), Some(first.as_str())));
                    let text = result[2].as_str().unwrap();
                    let whole = format!("{}\n{first}\n", expected.place);
                    assert!(text.starts_with(&whole) && text.ends_with("again: host test"), "{text}");
                }
            }
        }
    }
}

#[test]
fn tap_is_read_by_another_program() {
    const READ: &str = "
const { Parser } = require('tap-parser');
const found = { extra: [], cases: [] };
const parser = new Parser({ strict: true }, results => found.results = results);
parser.on('assert', assert => found.cases.push(assert));
parser.on('extra', line => found.extra.push(line));
parser.end(require('fs').readFileSync('report.tap', 'utf8'));
console.log(JSON.stringify(found))";
    let found: Value = serde_json::from_str(&node(READ, reports().path())).unwrap();
    let results = ["count", "pass", "fail", "skip"].map(|key| &found["results"][key]);
    assert_eq!(json!(results), json!([18, 12, 6, 2]), "{found}");
    assert_eq!(found["results"]["plan"]["end"], 18);
    assert_eq!((&found["extra"], &found["results"]["failures"][0]["tapError"]), (&json!([]), &Value::Null));
    let names = ["tags", "digests"].into_iter().flat_map(|row| NAMES.map(|name| (row, name)));
    for (place, ((row, name), case)) in names.zip(found["cases"].as_array().unwrap()).enumerate() {
        let expected = entry(row, place % NAMES.len(), name);
        assert_eq!(case["name"], format!("{} › {}", expected.suite, expected.name));
        assert_eq!(case["ok"], expected.result != CaseResult::Failed);
        if expected.result == CaseResult::Failed {
            let diagnostic = &case["diag"];
            let at = json!({ "file": "suites/a & b.yaml", "line": expected.line, "column": 3 });
            assert_eq!((&diagnostic["at"], &diagnostic["again"]), (&at, &json!("host test")));
            assert_eq!(diagnostic["decisions"], json!(expected.explained));
        }
    }
}

#[test]
fn the_summary_of_a_step_is_a_table_as_github_renders_it() {
    const RENDER: &str = "
import cmarkgfm, html, json, re
page = cmarkgfm.github_flavored_markdown_to_html(
    open('summary.md').read(), cmarkgfm.cmark.Options.CMARK_OPT_UNSAFE)
def cells(row): return [html.unescape(cell) for cell in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]
rows = [cells(row) for row in re.findall(r'<tr>(.*?)</tr>', page, re.S)]
print(json.dumps([len(re.findall('<table>', page)), rows, page]))";
    let found: Value = serde_json::from_str(&python(RENDER, reports().path())).unwrap();
    let page = found[2].as_str().unwrap();
    assert_eq!(found[0], 2, "{page}");
    let rows = found[1].as_array().unwrap();
    assert_eq!(rows[1], json!(["suites/a & b.yaml", "tags", "5", "3", "1", "11 ms"]));
    let failures: Vec<&Value> =
        rows.iter().filter(|row| row.as_array().unwrap().len() == 2).skip(1).collect();
    assert_eq!(failures.len(), 6, "{page}");
    for (row, (name, number)) in failures.iter().zip([1, 4, 7].map(|number| (NAMES[number], number))) {
        let expected = entry("tags", number, name);
        assert_eq!(row[0], format!("{} › {}", expected.place, expected.name), "{page}");
        let lines: Vec<_> = row[1].as_str().unwrap().split("<br>").collect();
        let first = format!("ghcr.io/acme/web: expected a text that contains {name:?}");
        assert_eq!(lines, [first.as_str(), "got deny"], "{row}");
    }
    for tag in ["<a ", "<code", "<em", "<strong", "<del", "<b>"] {
        assert!(!page.contains(tag), "{page}");
    }
}
