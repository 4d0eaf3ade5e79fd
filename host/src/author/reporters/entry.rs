//! The result of a case, as reporters see it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder;
use crate::author::test::Filter;
use crate::config::yaml::{Document, Location};
use crate::limits;
use crate::review::verdict::Verdict;
use crate::suite::coverage::Coverage;
use crate::suite::{CaseId, CaseReport, Failed, Place};
use crate::text;

/// The result of a case. Every text but `path` is escaped.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The path of the suite's file. For a fixture that belongs to no suite file: the path of its folder.
    pub suite: String,
    /// The row of the suite's matrix.
    pub row: Option<String>,
    /// The name within the suite: `ROW › CASE`, or the path of a fixture.
    pub name: String,
    /// The file that contains the case.
    pub path: PathBuf,
    /// Line of the case, counted from 1. Of a fixture that failed: of the first expectation that is not met.
    pub line: usize,
    /// Column of the place at `line`, counted from 1.
    pub column: usize,
    /// The place of the case: `path:line:column`, or the path of a fixture.
    pub place: String,
    /// Whether the case passed.
    pub result: CaseResult,
    /// The differences of a failed case, in the order of its file.
    pub differences: Vec<Difference>,
    /// Lines with the decision of each policy, and its log. A line that begins with a space belongs to the
    /// line before.
    pub explained: Vec<String>,
    /// The verdict. None if the case did not run, or has no verdict.
    pub verdict: Option<&'a Verdict>,
    /// The duration of all evaluations.
    pub took: Duration,
    /// The command that runs the case alone.
    pub again: String,
}

/// The result of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseResult {
    /// Every expectation is met.
    Passed,
    /// An expectation is not met.
    Failed,
    /// An expectation was not met, and `--update` changed it.
    Updated,
    /// The case did not run.
    Skipped,
}

impl CaseResult {
    /// Returns the result in a word.
    pub(super) fn name(self) -> &'static str {
        match self {
            CaseResult::Passed => "passed",
            CaseResult::Failed => "failed",
            CaseResult::Updated => "updated",
            CaseResult::Skipped => "skipped",
        }
    }
}

/// A difference between a case's expectation and its result. Every text is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A part of the verdict is not as expected.
    Unmet {
        /// The image. None for the whole review.
        image: Option<String>,
        /// The policy whose decision differs.
        policy: Option<String>,
        /// The part, as a suite file names it.
        part: String,
        /// The expectation in words.
        expected: String,
        /// The part of the verdict in words.
        found: String,
    },
    /// A difference that has no two sides, on one line or more.
    Other(String),
}

/// The part of a verdict that a suite file does not name, since its outcome is the expectation itself.
const OUTCOME: &str = "outcome";

/// The part of a case that expects refused settings.
const REFUSED: &str = "refused";

impl Difference {
    fn of(failed: &Failed) -> Difference {
        match failed {
            Failed::Unmet(unmet) => Difference::Unmet {
                image: unmet.image.as_deref().map(text::escape),
                policy: unmet.policy.as_deref().map(text::escape),
                part: text::escape(&unmet.part.to_string()),
                expected: text::escape(&unmet.expected),
                found: text::escape(&unmet.found),
            },
            Failed::Refusal { policy, expected, found } => Difference::Unmet {
                image: None,
                policy: Some(text::escape(policy)),
                part: REFUSED.to_owned(),
                expected: text::escape(expected),
                found: text::escape(found),
            },
            other => {
                let lines: Vec<_> = other.to_string().lines().map(text::escape).collect();
                Difference::Other(lines.join("\n"))
            }
        }
    }

    /// Returns the subject of a difference with two sides: `image, policy: part`.
    pub(super) fn subject(&self) -> String {
        let Difference::Unmet { image, policy, part, .. } = self else { return String::new() };
        let names: Vec<_> = [image, policy].into_iter().flatten().map(String::as_str).collect();
        let names = Some(names.join(", ")).filter(|names| !names.is_empty());
        let part = Some(part.clone()).filter(|part| part != OUTCOME);
        [names, part].into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    /// Returns a line, or two of which the second has `got` below `expected`.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Difference::Other(text) => text.lines().map(str::to_owned).collect(),
            Difference::Unmet { expected, found, .. } => {
                let subject = self.subject();
                let place = if subject.is_empty() { subject } else { subject + ": " };
                let got = place.chars().count() + "expected".len();
                vec![format!("{place}expected {expected}"), format!("{:>got$} {found}", "got")]
            }
        }
    }
}

impl<'a> Entry<'a> {
    /// Returns the entry of a case that ran. `command` is the command of the run without paths and filters:
    /// `host test`.
    pub fn of(report: &'a CaseReport, command: &str) -> Entry<'a> {
        let skipped = Entry::skipped(&report.id, &report.place, command);
        let unmet = report.failed.iter().find_map(|failed| match failed {
            Failed::Unmet(unmet) => unmet.pointer.as_deref(),
            _ => None,
        });
        let at = unmet.filter(|_| skipped.is_fixture()).and_then(|unmet| location(&skipped.path, unmet));
        let Location { line, column } = at.unwrap_or(report.place.at);
        Entry {
            line,
            column,
            result: if report.passed() { CaseResult::Passed } else { CaseResult::Failed },
            differences: report.failed.iter().map(Difference::of).collect(),
            explained: report.explained().iter().map(|line| text::escape(line)).collect(),
            verdict: report.verdict.as_ref(),
            took: report.took,
            ..skipped
        }
    }

    /// Returns the entry of a case that did not run.
    pub fn skipped(id: &CaseId, place: &Place, command: &str) -> Entry<'static> {
        let suite = text::path(&id.suite);
        let name = text::escape(&id.within_suite());
        // A fixture that belongs to no suite file belongs to its folder.
        let is_fixture = id.row.is_none() && id.name.is_none();
        let filter = match is_fixture {
            true => String::new(),
            false => format!(" -f {}", quoted(&Filter::of_case(id))),
        };
        // A path that begins with `-` would be an option.
        let here = if suite.starts_with('-') { "./" } else { "" };
        Entry {
            again: format!("{command} {}{filter}", quoted(&format!("{here}{suite}"))),
            suite: if is_fixture { text::path(folder(&id.suite)) } else { suite },
            row: id.row.as_deref().map(text::escape),
            name,
            path: place.path.clone(),
            line: place.at.line,
            column: place.at.column,
            place: text::escape(&place.to_string()),
            result: CaseResult::Skipped,
            differences: Vec::new(),
            explained: Vec::new(),
            verdict: None,
            took: Duration::ZERO,
        }
    }
}

/// Returns the place of an expectation in a fixture. Returns None if the fixture was changed meanwhile.
fn location(fixture: &Path, pointer: &str) -> Option<Location> {
    let bytes = crate::fs::read(fixture, limits::FIXTURE.default).ok()?;
    Some(Document::parse(&bytes).ok()?.locate(pointer))
}

/// Returns a word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._/-+@:=".contains(character);
    // zsh replaces `=WORD` by the path of a program.
    match !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

impl Entry<'_> {
    /// Returns the name of the case in all suites: `SUITE › ROW › CASE`, or the path of a fixture.
    pub(super) fn id(&self) -> String {
        if self.is_fixture() { self.name.clone() } else { format!("{} › {}", self.suite, self.name) }
    }

    /// Returns the place and the name.
    pub(super) fn title(&self) -> String {
        if self.is_fixture() { self.place.clone() } else { format!("{} › {}", self.place, self.name) }
    }

    fn is_fixture(&self) -> bool {
        self.name == self.place
    }

    /// Returns the lines of all differences.
    pub(super) fn lines(&self) -> Vec<String> {
        self.differences.iter().flat_map(Difference::lines).collect()
    }

    /// Returns all that a failed case has to say, below its title.
    pub(super) fn body(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.extend(self.explained.iter().map(|line| format!("  {line}")));
        lines.push(format!("again: {}", self.again));
        lines
    }
}

/// Numbers of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases whose expectations `--update` changed.
    pub updated: usize,
    /// Cases that did not run.
    pub skipped: usize,
    /// Cases that the filters left out.
    pub filtered: usize,
    /// Time of the run.
    pub took: Duration,
    /// Seed of the order in which cases ran.
    pub seed: Option<u64>,
    /// Coverage of the policies, if it is wanted.
    pub coverage: Option<Coverage>,
    /// Whether a gap in the coverage fails the run.
    pub is_coverage_required: bool,
}

/// The number of cases of each result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) updated: usize,
    pub(super) skipped: usize,
}

impl Counts {
    fn add(&mut self, result: CaseResult) {
        match result {
            CaseResult::Passed => self.passed += 1,
            CaseResult::Failed => self.failed += 1,
            CaseResult::Updated => self.updated += 1,
            CaseResult::Skipped => self.skipped += 1,
        }
    }

    pub(super) fn all(self) -> usize {
        self.passed + self.failed + self.updated + self.skipped
    }
}

/// The cases of a suite, or of one row of its matrix.
#[derive(Debug)]
pub(super) struct Group<T> {
    pub(super) suite: String,
    pub(super) row: Option<String>,
    pub(super) counts: Counts,
    pub(super) took: Duration,
    pub(super) cases: Vec<T>,
}

impl<T> Group<T> {
    /// Returns a group without cases.
    pub(super) fn new(suite: String) -> Group<T> {
        let (counts, took) = (Counts::default(), Duration::ZERO);
        Group { suite, row: None, counts, took, cases: Vec::new() }
    }

    /// Returns `SUITE`, or `SUITE › ROW`.
    pub(super) fn name(&self) -> String {
        match &self.row {
            Some(row) => format!("{} › {row}", self.suite),
            None => self.suite.clone(),
        }
    }
}

/// All groups, in the order of their first cases. Rows of a suite may alternate.
#[derive(Debug)]
pub(super) struct Groups<T> {
    places: HashMap<(String, Option<String>), usize>,
    pub(super) all: Vec<Group<T>>,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Groups { places: HashMap::new(), all: Vec::new() }
    }
}

impl<T> Groups<T> {
    /// Adds a case to its group.
    pub(super) fn add(&mut self, entry: &Entry<'_>, case: T) {
        let (suite, row) = (entry.suite.clone(), entry.row.clone());
        let place = *self.places.entry((suite.clone(), row.clone())).or_insert(self.all.len());
        if place == self.all.len() {
            self.all.push(Group { row, ..Group::new(suite) });
        }
        if let Some(group) = self.all.get_mut(place) {
            group.counts.add(entry.result);
            group.took += entry.took;
            group.cases.push(case);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_run_again_by_its_name() {
        for (suite, row, name, again) in [
            ("s/a.yaml", None, Some("others do not"), "host test s/a.yaml -f '=others do not'"),
            ("s/a.yaml", Some("tags"), Some("x"), "host test s/a.yaml -f '=tags › x'"),
            ("a b.yaml", None, Some("x"), "host test 'a b.yaml' -f '=x'"),
            ("-a.yaml", None, Some("x"), "host test ./-a.yaml -f '=x'"),
            ("a.yaml", None, Some("it's"), "host test a.yaml -f '=it'\\''s'"),
            ("a.yaml", None, Some("!x.y"), "host test a.yaml -f '=!x.y'"),
            ("a.yaml", None, Some("/x/"), "host test a.yaml -f '=/x/'"),
            ("own/b.yaml", None, None, "host test own/b.yaml"),
            ("b.yaml", None, None, "host test b.yaml"),
        ] {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let id = CaseId { suite: suite.into(), row: owned(row), name: owned(name) };
            let place = Place { path: suite.into(), at: Location::default() };
            let entry = Entry::skipped(&id, &place, "host test");
            assert_eq!(entry.again, again);
            let folder = suite.rsplit_once('/').map_or(".", |(folder, _)| folder);
            assert_eq!(entry.suite, if name.is_some() { suite } else { folder });
            assert_eq!(entry.id(), id.to_string());
        }
    }

    #[test]
    fn a_difference_has_two_sides_or_is_a_sentence() {
        let policy = "spin\u{1b}".to_owned();
        let (expected, found) = ("/allow/0: x".to_owned(), "no error".to_owned());
        let failed = Failed::Refusal { policy, expected, found };
        assert_eq!(
            Difference::of(&failed).lines(),
            ["spin\\u{1b}: refused: expected /allow/0: x", "                          got no error"]
        );
        let failed = Failed::NotRun("no\u{7}".to_owned());
        assert_eq!(Difference::of(&failed).lines(), ["it was not judged: no\\u{7}"]);
    }
}
