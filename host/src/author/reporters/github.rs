//! Results for a workflow on GitHub: an annotation for each failure, and a summary of the step.
//!
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::entry::{CaseResult, Counts, Entry, Groups, Totals};
use super::human::{duration, summary};
use super::{ReportError, Reporter, Workflow};
use crate::text;

/// Errors of a step that GitHub shows.
const SHOWN: usize = 10;

/// Failures in the summary of a step, which GitHub limits to 1 MiB.
const IN_SUMMARY: usize = 100;

/// Maximum length of a line in the summary, in bytes.
const LINE: usize = 2048;

/// Writes a workflow command for each failure, and appends a table to the summary of the step.
pub(super) struct GitHub {
    workflow: Workflow,
    suites: Groups<()>,
    failed: usize,
    /// The rows of the table of failures.
    failures: String,
}

impl GitHub {
    pub(super) fn new(workflow: Workflow) -> GitHub {
        GitHub { workflow, suites: Groups::default(), failed: 0, failures: String::new() }
    }

    /// Returns the path of a file as GitHub shows it: from the folder of the repository.
    fn file(&self, path: &Path) -> String {
        let absolute = without_dots(&self.workflow.current.join(path));
        let workspace = self.workflow.workspace.as_ref();
        let within = workspace.and_then(|workspace| absolute.strip_prefix(workspace).ok());
        text::path(within.unwrap_or(&without_dots(path)))
    }

    /// Returns the summary of the step, in Markdown.
    fn summary(&self, totals: &Totals) -> String {
        let word = if totals.failed > 0 { "❌" } else { "✅" };
        let totals = anstream::adapter::strip_str(&summary(totals).render(None)).to_string();
        let mut text = format!("### {word} host test: {}\n\n", totals.trim_end());
        text.push_str("| suite | row | passed | failed | skipped | time |\n|---|---|--:|--:|--:|--:|\n");
        for group in &self.suites.all {
            // `--update` reports to people alone.
            let Counts { passed, failed, skipped, updated: _ } = group.counts;
            let (suite, row) = (cell(&group.suite), cell(group.row.as_deref().unwrap_or_default()));
            let took = duration(group.took);
            text.push_str(&format!("| {suite} | {row} | {passed} | {failed} | {skipped} | {took} |\n"));
        }
        if self.failed > 0 {
            text.push_str("\n| failed | differences |\n|---|---|\n");
            text.push_str(&self.failures);
        }
        if let Some(more @ 1..) = self.failed.checked_sub(IN_SUMMARY) {
            text.push_str(&format!("\n{more} more failed.\n"));
        }
        text + "\n"
    }
}

/// Returns a path without `.` and, where a folder stands before it, `..`.
fn without_dots(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for component in path.components() {
        match (component, short.components().next_back()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(short.pop()),
            (component, _) => short.push(component),
        }
    }
    short
}

/// Returns the message of a workflow command.
fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Returns a property of a workflow command.
fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

/// Returns a text for a cell of a Markdown table, in which no character has a meaning.
fn cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for character in text::truncate(text, LINE).chars() {
        match character {
            '&' => cell.push_str("&amp;"),
            '<' => cell.push_str("&lt;"),
            '\n' => cell.push_str("<br>"),
            // Of a name or an address GitHub makes a link.
            '@' | ':' | '.' => cell.push_str(&format!("&#{};", u32::from(character))),
            other if other.is_ascii_punctuation() => cell.extend(['\\', other]),
            other => cell.push(other),
        }
    }
    cell
}

impl Reporter for GitHub {
    fn case(&mut self, entry: &Entry<'_>, output: &mut dyn Write) -> io::Result<()> {
        self.suites.add(entry, ());
        if entry.result != CaseResult::Failed {
            return Ok(());
        }
        self.failed += 1;
        if self.failed <= IN_SUMMARY {
            let lines = entry.lines().iter().map(|line| cell(line.trim())).collect::<Vec<_>>().join("<br>");
            self.failures.push_str(&format!("| {} | {lines} |\n", cell(&entry.title())));
        }
        if self.failed > SHOWN {
            return Ok(());
        }
        writeln!(
            output,
            "::error file={},line={},col={},title={}::{}",
            property(&self.file(&entry.path)),
            entry.line,
            entry.column,
            property(&entry.name),
            message(&entry.body().join("\n"))
        )
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
            if let Some(more @ 1..) = self.failed.checked_sub(SHOWN) {
                // GitHub shows no further error, but a notice.
                writeln!(
                    output,
                    "::notice title=host test::{more} more failed: run `host test` to see them"
                )?;
            }
            output.write_all(summary(totals).render(None).as_bytes())
        };
        write().map_err(ReportError::StandardOutput)?;
        let Some(path) = &self.workflow.summary else { return Ok(()) };
        let append = || {
            File::options().append(true).create(true).open(path)?.write_all(self.summary(totals).as_bytes())
        };
        append().map_err(|error| ReportError::File { path: path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_end_no_command() {
        for (text, in_message, in_property) in [
            ("100 %", "100 %25", "100 %25"),
            ("a\r\nb", "a%0D%0Ab", "a%0D%0Ab"),
            ("a:b,c", "a:b,c", "a%3Ab%2Cc"),
            ("%0A", "%250A", "%250A"),
            ("::error::x", "::error::x", "%3A%3Aerror%3A%3Ax"),
        ] {
            assert_eq!((message(text).as_str(), property(text).as_str()), (in_message, in_property));
        }
    }

    #[test]
    fn a_file_is_named_from_the_folder_of_the_repository() {
        for (workspace, path, expected) in [
            (None, "suites/a.yaml", "suites/a.yaml"),
            (None, "./a.yaml", "a.yaml"),
            (Some("/repo"), "a.yaml", "policies/a.yaml"),
            (Some("/repo"), "./a.yaml", "policies/a.yaml"),
            (Some("/repo"), "../x/./a.yaml", "x/a.yaml"),
            (Some("/repo"), "../../a.yaml", "../../a.yaml"),
            (Some("/repo"), "/repo/x/a.yaml", "x/a.yaml"),
            (Some("/repo"), "/other/a.yaml", "/other/a.yaml"),
            (Some("/elsewhere"), "a.yaml", "a.yaml"),
        ] {
            let workspace = workspace.map(Into::into);
            let workflow = Workflow { workspace, summary: None, current: "/repo/policies".into() };
            assert_eq!(GitHub::new(workflow).file(Path::new(path)), expected, "{path}");
        }
    }
}
