//! The limits of expectations.

use host::config::Mode;
use host::config::yaml::Document;
use host::suite::{Expect, Known};

/// Returns the messages about an expectation of a review's reason.
fn problems(reason: &str) -> Vec<String> {
    let document = Document::parse(format!("reason: {reason}").as_bytes()).unwrap();
    let known = Known { images: &[], policies: &[], mode: Mode::Enforce, is_update: false };
    let problems = Expect::read(&document, "", &known).err().unwrap_or_default();
    problems.into_iter().map(|problem| problem.to_string()).collect()
}

fn expressions(count: usize) -> String {
    format!("[{}]", vec!["/digest/"; count].join(", "))
}

/// limit: expressions within, expression-size within
#[test]
fn usual_expressions_are_accepted() {
    assert!(problems(&expressions(64)).is_empty());
    for expression in [r"\w{20} \d+ [^\s]+", r"(?i)^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,9}:\d+$"] {
        assert_eq!(problems(&format!("'/{expression}/'")), [""; 0], "{expression}");
    }
}

/// limit: expressions breaks
#[test]
fn an_expectation_with_many_expressions_is_refused() {
    assert_eq!(
        problems(&expressions(65)),
        ["1:650: an expectation has at most 64 regular expressions: split the case"]
    );
}

/// limit: expression-size breaks
#[test]
fn a_large_expression_is_refused() {
    for expression in [r"\w{1000}", "((a{100}){100}){100}"] {
        let expected = format!(
            "1:9: the regular expression `{expression}`: it needs more than 1048576 bytes when compiled: \
             shorten its repetitions"
        );
        assert_eq!(problems(&format!("'/{expression}/'")), [expected]);
    }
}
