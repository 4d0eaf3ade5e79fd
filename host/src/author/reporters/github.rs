//! Results for a workflow on GitHub: an annotation for each failure, and a summary of the step.
//!
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::broken::{Broken, counted};
use super::coverage::{Gap, findings};
use super::entry::{CaseResult, Counts, Entry, Groups, Totals};
use super::human::{duration, summary};
use super::{ReportError, Reporter, Workflow};
use crate::text;

/// Title of annotations that belong to no case.
const TITLE: &str = "host test";

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
    /// The rows of the table of failures, and of the gaps in the coverage.
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

    /// Writes the annotation of a failure, unless GitHub would not show it. `place` is a property of the
    /// command: the file, the line and the column.
    fn annotate(&mut self, place: &str, title: &str, text: &str, output: &mut dyn Write) -> io::Result<()> {
        self.failed += 1;
        if self.failed > SHOWN {
            return Ok(());
        }
        writeln!(output, "::error {place}title={}::{}", property(title), message(text))
    }

    /// Returns the properties of a place.
    fn place(&self, path: &Path, line: usize, column: usize) -> String {
        format!("file={},line={line},col={column},", property(&self.file(path)))
    }

    /// Adds a row to the table of failures.
    fn add_row(&mut self, title: &str, lines: impl Iterator<Item = String>) {
        if self.failed < IN_SUMMARY {
            let lines = lines.map(|line| cell(line.trim())).collect::<Vec<_>>().join("<br>");
            self.failures.push_str(&format!("| {} | {lines} |\n", cell(title)));
        }
    }

    fn gap(&mut self, title: &str, gap: &Gap, output: &mut dyn Write) -> io::Result<()> {
        let Gap { path, at, message } = gap;
        let place = match path.as_os_str().is_empty() {
            true => String::new(),
            false => self.place(path, at.line, at.column),
        };
        self.add_row(title, std::iter::once(message.clone()));
        self.annotate(&place, title, message, output)
    }

    fn problem(&mut self, problem: &Broken, output: &mut dyn Write) -> io::Result<()> {
        let place = match (&problem.path, problem.at) {
            (Some(path), Some(at)) => self.place(path, at.line, at.column),
            (Some(path), None) => format!("file={},", property(&self.file(path))),
            (None, _) => String::new(),
        };
        let title = problem.place().unwrap_or_else(|| TITLE.to_owned());
        self.add_row(&title, problem.without_place().lines().map(str::to_owned));
        self.annotate(&place, TITLE, problem.without_place(), output)
    }

    /// Writes the number of failures that GitHub does not show.
    fn tell_more(&self, output: &mut dyn Write) -> io::Result<()> {
        match self.failed.checked_sub(SHOWN) {
            // GitHub shows no further error, but a notice.
            Some(more @ 1..) => {
                writeln!(output, "::notice title={TITLE}::{more} more failed: run `host test` to see them")
            }
            _ => Ok(()),
        }
    }

    /// Appends the summary of the step, whose heading is `totals`.
    fn append_summary(&self, totals: &str) -> Result<(), ReportError> {
        let Some(path) = &self.workflow.summary else { return Ok(()) };
        let append = || {
            File::options().append(true).create(true).open(path)?.write_all(self.summary(totals).as_bytes())
        };
        append().map_err(|error| ReportError::File { path: path.clone(), error })
    }

    /// Returns the summary of the step, in Markdown.
    fn summary(&self, totals: &str) -> String {
        let word = if self.failed > 0 { "❌" } else { "✅" };
        let mut text = format!("### {word} host test: {totals}\n\n");
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
        self.add_row(&entry.title(), entry.lines().into_iter());
        let place = self.place(&entry.path, entry.line, entry.column);
        self.annotate(&place, &entry.name, &entry.body().join("\n"), output)
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let mut write = || {
            let mut gaps = 0;
            for finding in findings(totals) {
                gaps += finding.gaps.len();
                finding.gaps.iter().try_for_each(|gap| self.gap(&finding.id(), gap, output))?;
            }
            self.tell_more(output)?;
            let line = summary(totals).render(None);
            output.write_all(line.as_bytes())?;
            let gaps = match gaps {
                0 => String::new(),
                1 => "; coverage: 1 gap".to_owned(),
                more => format!("; coverage: {more} gaps"),
            };
            Ok(anstream::adapter::strip_str(&line).to_string().trim_end().to_owned() + &gaps)
        };
        let totals = write().map_err(ReportError::StandardOutput)?;
        self.append_summary(&totals)
    }

    fn broken(&mut self, problems: &[Broken], _: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let totals = format!("not run: {}", counted(problems));
        let mut write = || {
            problems.iter().try_for_each(|problem| self.problem(problem, output))?;
            self.tell_more(output)?;
            writeln!(output, "{totals}")
        };
        write().map_err(ReportError::StandardOutput)?;
        self.append_summary(&totals)
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
