//! Results as one JSON document, in which no character can control a terminal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::broken::Broken;
use super::coverage;
use super::entry::{Counts, Difference, Entry, Group, Groups, Totals};
use super::{ReportError, Reporter};
use crate::review::VerdictDocument;
use crate::text;

/// Collects results, and writes one document at the end.
#[derive(Default)]
pub(super) struct Json {
    suites: Groups<Value>,
}

/// A case. The names of fields are those of `host review --format json` where they mean the same.
#[derive(Serialize)]
struct CaseDocument<'a> {
    id: String,
    name: &'a str,
    file: String,
    line: usize,
    column: usize,
    result: &'static str,
    seconds: f64,
    differences: Vec<DifferenceDocument<'a>>,
    again: &'a str,
    /// None if the case did not run, or has no verdict.
    verdict: Option<VerdictDocument<'a>>,
}

/// A difference with two sides, or a sentence.
#[derive(Serialize)]
#[serde(untagged)]
enum DifferenceDocument<'a> {
    Unmet {
        image: Option<&'a str>,
        policy: Option<&'a str>,
        part: &'a str,
        expected: &'a str,
        found: &'a str,
    },
    Other {
        message: &'a str,
    },
}

impl<'a> DifferenceDocument<'a> {
    fn of(difference: &'a Difference) -> DifferenceDocument<'a> {
        match difference {
            Difference::Other(message) => DifferenceDocument::Other { message },
            Difference::Unmet { image, policy, part, expected, found } => DifferenceDocument::Unmet {
                image: image.as_deref(),
                policy: policy.as_deref(),
                part,
                expected,
                found,
            },
        }
    }
}

fn suite(group: Group<Value>) -> Value {
    // `--update` reports to people alone.
    let Counts { passed, failed, skipped, updated: _ } = group.counts;
    json!({
        "suite": group.suite,
        "row": group.row,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "cases": group.cases,
    })
}

/// Returns a problem that kept cases from being judged.
fn error(problem: &Broken) -> Value {
    json!({
        "file": problem.path.as_ref().map(|path| text::path(path)),
        "line": problem.at.map(|at| at.line),
        "column": problem.at.map(|at| at.column),
        "message": problem.without_place(),
    })
}

impl Reporter for Json {
    fn case(&mut self, entry: &Entry<'_>, _: &mut dyn Write) -> io::Result<()> {
        let document = CaseDocument {
            id: entry.id(),
            name: &entry.name,
            file: text::path(&entry.path),
            line: entry.line,
            column: entry.column,
            result: entry.result.name(),
            seconds: entry.took.as_secs_f64(),
            differences: entry.differences.iter().map(DifferenceDocument::of).collect(),
            again: &entry.again,
            verdict: entry.verdict.map(VerdictDocument::of),
        };
        self.suites.add(entry, serde_json::to_value(document)?);
        Ok(())
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        self.write(totals, &[], output)
    }

    fn broken(
        &mut self,
        problems: &[Broken],
        totals: &Totals,
        output: &mut dyn Write,
    ) -> Result<(), ReportError> {
        self.write(totals, problems, output)
    }
}

impl Json {
    fn write(
        &mut self,
        totals: &Totals,
        problems: &[Broken],
        output: &mut dyn Write,
    ) -> Result<(), ReportError> {
        let suites = std::mem::take(&mut self.suites).all;
        let document = json!({
            "passed": totals.passed,
            "failed": totals.failed,
            "skipped": totals.skipped,
            "filtered": totals.filtered,
            "seconds": totals.took.as_secs_f64(),
            "seed": totals.seed,
            "errors": problems.iter().map(error).collect::<Vec<_>>(),
            "coverage": totals.coverage.as_ref().map(coverage::document),
            "suites": suites.into_iter().map(suite).collect::<Vec<_>>(),
        });
        let document = text::escape_json(&format!("{document:#}"));
        writeln!(output, "{document}").map_err(ReportError::StandardOutput)
    }
}
