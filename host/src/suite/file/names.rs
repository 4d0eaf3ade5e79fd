//! The names of a suite file: rows and cases have distinct ones, which every report can show as written.

use std::collections::BTreeMap;

use super::SuiteYaml;
use super::cases::{hint, is_judged};
use crate::config::yaml::{Document, Problem, quote};
use crate::text;

/// The sign between the parts of a case's name. No row has it, so that cases of two rows have two names.
const MARK: char = '›';

/// Returns the problems of the names of rows and cases, and of the rows that cases name.
pub(super) fn check(document: &Document, suite: &SuiteYaml) -> Vec<Problem> {
    let mut check = Check { document, problems: Vec::new() };
    if suite.cases.is_empty() {
        check.problem("/cases", "there is no case, so that nothing could fail");
    }
    let rows: Vec<_> = suite.matrix.iter().map(|row| row.name.as_str()).collect();
    check.distinct("matrix", &rows);
    for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.contains(MARK)) {
        let message = format!("`{MARK}` separates the row from the case: write another sign");
        check.problem(&format!("/matrix/{index}/name"), &message);
    }
    check.distinct("cases", &suite.cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>());
    check.rows(suite, &rows);
    check.problems
}

struct Check<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

impl Check<'_> {
    /// Checks the names in a list of the file.
    fn distinct(&mut self, list: &str, names: &[&str]) {
        let mut first: BTreeMap<&str, String> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let at = format!("/{list}/{index}/name");
            if let Some(wrong) = unfit(name) {
                self.problem(&at, &wrong);
            } else if let Some(other) = first.get(name) {
                let other = self.document.locate(other);
                let message = format!("the name {} is taken: the first is at {other}", quote(name));
                self.problem(&at, &message);
            } else {
                first.insert(name, at);
            }
        }
    }

    /// Checks that each case is judged in a row.
    fn rows(&mut self, suite: &SuiteYaml, rows: &[&str]) {
        for (index, case) in suite.cases.iter().enumerate() {
            let lists = [("only", case.only.as_deref().unwrap_or_default()), ("except", &case.except)];
            for (key, names) in lists {
                let names = names.iter().enumerate();
                for (item, name) in names.filter(|(_, name)| !rows.contains(&name.as_str())) {
                    let hint = hint(name, rows, "there are");
                    let message = format!("there is no row {}{hint}", quote(name));
                    self.problem(&format!("/cases/{index}/{key}/{item}"), &message);
                }
            }
            if !rows.is_empty() && !rows.iter().any(|row| is_judged(case, row)) {
                let message = "no row of the matrix judges the case, so that it cannot fail";
                self.problem(&format!("/cases/{index}"), message);
            }
        }
    }

    fn problem(&mut self, at: &str, message: &str) {
        self.problems.push(Problem::new(self.document.span(at), message));
    }
}

/// Returns the reason why reports cannot show a name as it is written.
fn unfit(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some("the name is empty: write one that tells it from the others".to_owned());
    }
    if let Some(character) = name.chars().find(|character| !text::is_plain(*character)) {
        let shown = character.escape_unicode();
        return Some(format!("the name has the invisible character `{shown}`: remove it"));
    }
    let is_padded = name.starts_with(' ') || name.ends_with(' ');
    is_padded.then(|| "the name begins or ends with a space: remove it".to_owned())
}
