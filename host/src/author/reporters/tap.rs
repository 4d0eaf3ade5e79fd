//! Results as version 14 of the Test Anything Protocol.
//!
//! <https://testanything.org/tap-version-14-specification.html>

use std::io::{self, Write};

use serde_json::{Value, json};

use super::broken::{Broken, counted};
use super::coverage::{Finding, findings};
use super::entry::{CaseResult, Entry, Totals};
use super::{ReportError, Reporter};
use crate::text;

/// Writes each result at once, and the plan at the end.
#[derive(Default)]
pub(super) struct Tap {
    cases: usize,
}

/// Returns a description: `#` would begin a directive, and `\` an escape.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('#', "\\#")
}

/// Returns the lines of a diagnostic. Its values are JSON, which is YAML as well.
fn diagnostic(entry: &Entry<'_>) -> String {
    let lines = entry.lines();
    let at = json!({ "file": text::path(&entry.path), "line": entry.line, "column": entry.column });
    let fields: [(&str, Value); 5] = [
        ("message", json!(lines.first())),
        ("at", at),
        ("differences", json!(lines)),
        ("decisions", json!(entry.explained)),
        ("again", json!(entry.again)),
    ];
    let fields: String = fields.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
    format!("  ---\n{fields}  ...\n")
}

/// Returns the lines of the diagnostic of gaps.
fn gaps(finding: &Finding) -> String {
    let at = finding
        .gaps
        .first()
        .map(|gap| json!({ "file": text::path(&gap.path), "line": gap.at.line, "column": gap.at.column }));
    let gaps: Vec<_> = finding.gaps.iter().map(|gap| gap.message.as_str()).collect();
    format!(
        "  ---\n  message: {}\n  at: {}\n  gaps: {}\n  ...\n",
        json!(gaps.first()),
        json!(at),
        json!(gaps)
    )
}

impl Tap {
    /// Returns the number of the next case. The version precedes the first.
    fn number(&mut self, output: &mut dyn Write) -> io::Result<usize> {
        if self.cases == 0 {
            writeln!(output, "TAP version 14")?;
        }
        self.cases += 1;
        Ok(self.cases)
    }

    fn finding(&mut self, finding: &Finding, output: &mut dyn Write) -> io::Result<()> {
        let (number, name) = (self.number(output)?, escape(&finding.id()));
        match finding.gaps.is_empty() {
            true => writeln!(output, "ok {number} - {name}"),
            false => write!(output, "not ok {number} - {name}\n{}", gaps(finding)),
        }
    }
}

impl Reporter for Tap {
    fn case(&mut self, entry: &Entry<'_>, output: &mut dyn Write) -> io::Result<()> {
        let (number, name) = (self.number(output)?, escape(&entry.id()));
        match entry.result {
            CaseResult::Passed | CaseResult::Updated => writeln!(output, "ok {number} - {name}"),
            CaseResult::Skipped => writeln!(output, "ok {number} - {name} # SKIP"),
            CaseResult::Failed => write!(output, "not ok {number} - {name}\n{}", diagnostic(entry)),
        }
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
            findings(totals).iter().try_for_each(|finding| self.finding(finding, output))?;
            if self.cases == 0 {
                writeln!(output, "TAP version 14")?;
            }
            writeln!(output, "1..{}", self.cases)?;
            if let Some(seed) = totals.seed {
                writeln!(output, "# --shuffle={seed}")?;
            }
            Ok(())
        };
        write().map_err(ReportError::StandardOutput)
    }

    fn broken(&mut self, problems: &[Broken], _: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
            if self.cases == 0 {
                writeln!(output, "TAP version 14")?;
            }
            for problem in problems {
                problem.line().lines().try_for_each(|line| writeln!(output, "# {line}"))?;
            }
            let first = problems.first().map(Broken::line).unwrap_or_default();
            let first = first.lines().next().unwrap_or_default();
            writeln!(output, "Bail out! {}: {first}", counted(problems))
        };
        write().map_err(ReportError::StandardOutput)
    }
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_description_holds_no_directive() {
        for (text, escaped) in
            [("a # SKIP b", "a \\# SKIP b"), ("a \\# b", "a \\\\\\# b"), ("plain › ü", "plain › ü"), ("", "")]
        {
            assert_eq!(escape(text), escaped);
        }
    }
}
