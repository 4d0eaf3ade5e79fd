//! Tests of expectations, as tables.

mod edit;
mod read;
mod unmet;

use super::{Expect, Known};
use crate::config::yaml::{Document, Problem};
use crate::config::{Mode, PolicyName};

/// Reads an expectation, of a review or of images, with the names that tests know.
fn read_in(mode: Mode, yaml: &str, images: bool) -> Result<Expect, Vec<Problem>> {
    let document = Document::parse(yaml.as_bytes()).unwrap();
    // The second `nginx` is of another container.
    let names = ["nginx", "ghcr.io/acme/web:1", "nginx"].map(str::to_owned);
    let policies = ["trusted-registries", "pinned-images"].map(|name| PolicyName::try_from(name).unwrap());
    let known = Known { images: &names, policies: &policies, mode, is_update: false };
    if images { Expect::read_images(&document, "", &known) } else { Expect::read(&document, "", &known) }
}

/// Reads an expectation of a review.
fn read(yaml: &str) -> Result<Expect, Vec<Problem>> {
    read_in(Mode::Enforce, yaml, false)
}

/// Returns the problems of an expectation as lines.
fn lines(result: &Result<Expect, Vec<Problem>>) -> Vec<String> {
    let problems = result.as_ref().err().into_iter().flatten();
    problems.map(Problem::to_string).collect()
}

/// Returns the rows of a table, between empty lines: an expectation, and lines after `> `, whose line breaks
/// and indentation do not count.
fn rows(table: &str) -> Vec<(String, String)> {
    let row = |row: &str| {
        let yaml: Vec<&str> = row.lines().filter(|line| !line.starts_with("> ")).collect();
        let expected: Vec<&str> = row.lines().filter_map(|line| line.strip_prefix("> ")).collect();
        (yaml.join("\n").trim().to_owned(), in_one_line(&expected.join(" ")))
    };
    table.split("\n\n").map(row).collect()
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
