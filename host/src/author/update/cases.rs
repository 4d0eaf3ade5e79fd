//! Updates of the expectations of cases that failed.
//!
//! A case is updated whole or not at all, since half of its new expectations may contradict the old half.
//! The rows of a matrix share one expectation. A change is made if every row wants the same one. A result
//! that looks like an error of the author is never written ([`doubt`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::doubt::doubt;
use super::{UpdateError, rewrite};
use crate::author::test::Position;
use crate::config::yaml::edit::{Change, EditError};
use crate::config::yaml::{Document, Location, Problem};
use crate::suite::{CaseReport, Failed, Suite};
use crate::text;

/// The update of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileUpdate {
    /// The file.
    pub path: PathBuf,
    /// The changed lines, as of [`diff`](super::diff).
    pub diff: String,
    /// The number of changed or added expectations.
    pub changes: usize,
    /// The indices of the reports whose cases were updated.
    pub updated: BTreeSet<usize>,
    /// A line for each expectation that stays: `FILE:LINE:COLUMN: why, and the next step`.
    pub refusals: Vec<String>,
}

/// The reports of the rows of one case, with their indices.
struct Rows<'a> {
    reports: Vec<(usize, &'a CaseReport)>,
}

/// The place and the line of an expectation that stays.
type Refused = (Location, String);

/// A file as read, with the cases that failed.
struct File<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    document: Document,
}

/// Adds the other rows of the cases of a plan, behind the plan.
pub fn add_rows(plan: &mut Vec<Position>, suites: &[Suite]) {
    let name =
        |(suite, case): &Position| Some((*suite, suites.get(*suite)?.cases.get(*case)?.id.name.as_ref()?));
    let names: BTreeSet<_> = plan.iter().filter_map(name).collect();
    let planned: BTreeSet<Position> = plan.iter().copied().collect();
    let all = suites.iter().enumerate();
    let all = all.flat_map(|(suite, of)| (0..of.cases.len()).map(move |case| (suite, case)));
    let is_missing = |position: &Position| {
        !planned.contains(position) && name(position).is_some_and(|name| names.contains(&name))
    };
    plan.extend(all.filter(is_missing));
}

/// Writes what came out into the files of cases that failed. `reports` has all rows of each case, and
/// `bytes` returns the bytes of a file as the cases were read from it. Returns the files with such cases.
pub fn update<'a>(reports: &[CaseReport], bytes: impl Fn(&Path) -> Option<&'a [u8]>) -> Vec<FileUpdate> {
    let mut files: BTreeMap<&Path, Vec<(usize, &CaseReport)>> = BTreeMap::new();
    for (index, report) in reports.iter().enumerate() {
        files.entry(&report.place.path).or_default().push((index, report));
    }
    let failed = |reports: &[(usize, &CaseReport)]| reports.iter().any(|(_, report)| !report.passed());
    let mut updates: Vec<FileUpdate> = files
        .into_iter()
        .filter(|(_, reports)| failed(reports))
        .map(|(path, reports)| {
            let bytes = bytes(path).unwrap_or_default();
            let document = Document::parse(bytes).unwrap_or_default();
            let mut cases: BTreeMap<Option<&str>, Rows<'_>> = BTreeMap::new();
            for (index, report) in reports {
                let case = cases.entry(report.id.name.as_deref());
                case.or_insert_with(|| Rows { reports: Vec::new() }).reports.push((index, report));
            }
            let cases = cases.into_values().filter(|case| failed(&case.reports)).collect();
            File { path, bytes, document }.update(cases)
        })
        .collect();
    // In the order of the reports.
    updates.sort_by_key(|update| reports.iter().position(|report| report.place.path == update.path));
    updates
}

impl File<'_> {
    fn update(&self, cases: Vec<Rows<'_>>) -> FileUpdate {
        let mut update = FileUpdate { path: self.path.to_owned(), ..FileUpdate::default() };
        let mut refusals: Vec<Refused> = Vec::new();
        let mut wanted: Vec<(Rows<'_>, Vec<Change>)> = Vec::new();
        for case in cases {
            match self.changes(&case) {
                Ok(changes) => wanted.push((case, changes)),
                Err(refused) => refusals.extend(refused),
            }
        }
        while !wanted.is_empty() {
            let changes: Vec<Change> = wanted.iter().flat_map(|(_, changes)| changes.clone()).collect();
            match rewrite(self.path, self.bytes, &changes) {
                Ok(rewritten) => {
                    update.diff = rewritten.diff;
                    update.changes = changes.len();
                    let reports = wanted.iter().flat_map(|(case, _)| &case.reports);
                    update.updated = reports.map(|(index, _)| *index).collect();
                    break;
                }
                // The cases without a refused change are tried again.
                Err(UpdateError::Edit(EditError::Refused(refused))) if !refused.is_empty() => {
                    refusals.extend(refused.iter().map(|refused| self.refused(&refused.problem)));
                    let refused = refused.iter().map(|refused| refused.change).collect();
                    retain_made(&mut wanted, &refused);
                }
                Err(UpdateError::Edit(EditError::Unreadable(error))) => {
                    refusals.extend(error.problems.iter().map(|problem| self.refused(problem)));
                    break;
                }
                Err(error) => {
                    refusals.push((Location::default(), format!("not updated: {error}")));
                    break;
                }
            }
        }
        refusals.sort();
        refusals.dedup();
        update.refusals = refusals.into_iter().map(|(_, line)| line).collect();
        update
    }

    /// Returns the changes after which every row of a case passes, or the lines of the expectations that
    /// stay.
    fn changes(&self, case: &Rows<'_>) -> Result<Vec<Change>, Vec<Refused>> {
        let (mut changes, mut refusals): (Vec<Change>, Vec<Refused>) = Default::default();
        for (_, report) in &case.reports {
            for failed in &report.failed {
                match self.change(report, failed) {
                    Ok(change) if changes.contains(change) => {}
                    Ok(change) => match self.agreed(case, change) {
                        Ok(()) => changes.push(change.clone()),
                        Err(refusal) => refusals.push(refusal),
                    },
                    Err(refusal) => refusals.push(refusal),
                }
            }
        }
        if refusals.is_empty() { Ok(changes) } else { Err(refusals) }
    }

    /// Returns the change after which a report has a difference less.
    fn change<'a>(&self, report: &CaseReport, failed: &'a Failed) -> Result<&'a Change, Refused> {
        let at_case = |why: &str| {
            let place = text::escape(&report.place.to_string());
            (report.place.at, format!("{place}: not updated: {why}"))
        };
        match failed {
            Failed::Unmet(unmet) => {
                let refused = |why: String| {
                    let span = unmet.pointer.as_ref().map(|pointer| self.document.span(pointer));
                    self.refused(&Problem::new(span.unwrap_or_else(|| report.place.at.into()), why))
                };
                let no_change =
                    || format!("no change is clear: change by hand, got {}", text::escape(&unmet.found));
                match doubt(&self.document.value, report, unmet) {
                    Some(doubt) => Err(refused(doubt.to_string())),
                    None => unmet.edit.as_ref().ok_or_else(|| refused(no_change())),
                }
            }
            Failed::Sharing { shared, .. } => Err(at_case(&format!(
                "{} is not a function of one image, so that no expectation is met each time",
                text::escape(&shared.policy)
            ))),
            Failed::Refusal { .. } => Err(at_case("`refused` is about settings: change it by hand")),
            Failed::NotRun(_) => Err(at_case("it was not judged, so that there is nothing to write")),
        }
    }

    /// Checks that each row of a case wants a change.
    fn agreed(&self, case: &Rows<'_>, change: &Change) -> Result<(), Refused> {
        let wanted = |report: &CaseReport| {
            report.failed.iter().find_map(|failed| match failed {
                Failed::Unmet(unmet) => unmet.edit.clone().filter(|edit| place(edit) == place(change)),
                _ => None,
            })
        };
        let rows: Vec<_> = case.reports.iter().map(|(_, report)| (row(report), wanted(report))).collect();
        if rows.iter().all(|(_, wanted)| wanted.as_ref() == Some(change)) {
            return Ok(());
        }
        let rows: Vec<String> = rows
            .iter()
            .map(|(row, wanted)| match wanted {
                Some(wanted) => format!("{row} wants {}", in_words(wanted)),
                None => format!("{row} does not"),
            })
            .collect();
        let span = match change {
            Change::Key { pointer, .. } => self.document.key_span(pointer),
            Change::Value { pointer, .. } | Change::Insert { parent: pointer, .. } => {
                self.document.span(pointer)
            }
        };
        let why = format!("the rows differ, {}: write a case for each, with `only`", rows.join(", "));
        Err(self.refused(&Problem::new(span, why)))
    }

    fn refused(&self, problem: &Problem) -> Refused {
        let Problem { span, message } = problem;
        (span.at, format!("{}:{span}: not updated: {message}", text::path(self.path)))
    }
}

/// Removes the cases of which a change is refused. `refused` has indices into the changes of all cases.
fn retain_made(cases: &mut Vec<(Rows<'_>, Vec<Change>)>, refused: &BTreeSet<usize>) {
    let mut first = 0;
    cases.retain(|(_, changes)| {
        let own = first..first + changes.len();
        first = own.end;
        !own.into_iter().any(|change| refused.contains(&change))
    });
}

fn row(report: &CaseReport) -> String {
    text::escape(report.id.row.as_deref().unwrap_or_default())
}

/// Returns the place that a change is about.
fn place(change: &Change) -> (&str, Option<&str>) {
    match change {
        Change::Value { pointer, .. } | Change::Key { pointer, .. } => (pointer, None),
        Change::Insert { parent, key, .. } => (parent, Some(key)),
    }
}

/// Returns the new value of a change.
fn in_words(change: &Change) -> String {
    let words = match change {
        Change::Value { value, .. } | Change::Insert { value, .. } => value.to_string(),
        Change::Key { key, value, .. } if value.is_null() => key.clone(),
        Change::Key { key, value, .. } => format!("{key}: {value}"),
    };
    text::escape_and_truncate(&words, crate::limits::TEXT.size())
}
