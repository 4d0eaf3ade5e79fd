//! Results as version 14 of the Test Anything Protocol.
//!
//! <https://testanything.org/tap-version-14-specification.html>

use std::io::{self, Write};

use serde_json::{Value, json};

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

impl Reporter for Tap {
    fn case(&mut self, entry: &Entry<'_>, output: &mut dyn Write) -> io::Result<()> {
        if self.cases == 0 {
            writeln!(output, "TAP version 14")?;
        }
        self.cases += 1;
        let (number, name) = (self.cases, escape(&entry.id()));
        match entry.result {
            CaseResult::Passed | CaseResult::Updated => writeln!(output, "ok {number} - {name}"),
            CaseResult::Skipped => writeln!(output, "ok {number} - {name} # SKIP"),
            CaseResult::Failed => write!(output, "not ok {number} - {name}\n{}", diagnostic(entry)),
        }
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
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
