//! Components made of WebAssembly text.

use std::path::Path;

use super::project;

/// Marker of a part of a case that replaces a part of `guests/policy.wat`. The part's name follows.
const PART: &str = ";; --- ";

/// Makes the component in a file: `guests/policy.wat` with the file's parts, or the whole file if it has no
/// parts. A line `;; REPEAT N TEXT` stands for N lines of TEXT, in which `#` is the line's number.
pub(crate) fn wat_policy(file: &Path) -> Result<Vec<u8>, String> {
    let case = repeated(&std::fs::read_to_string(file).unwrap());
    let text = match case.find(PART) {
        None => case,
        Some(first) => case.split_at(first).1.split(PART).skip(1).fold(template(), |text, part| {
            let (name, part) = part.split_once('\n').unwrap();
            replaced(&text, name, part)
        }),
    };
    wat::parse_str(text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Returns a component that allows every image with this reason of eight bytes. The component is small and
/// quick to compile.
pub(crate) fn version(reason: &str) -> Vec<u8> {
    assert_eq!(reason.len(), 8);
    wat::parse_str(template().replace("judged..", reason)).unwrap()
}

/// Returns a component like [`version`]'s that denies every image.
pub(crate) fn denying(reason: &str) -> Vec<u8> {
    assert_eq!(reason.len(), 8);
    let allow = r#""\00\00\00\00" "\00\00\00\00" "\80"#;
    let text = template().replace("judged..", reason);
    assert!(text.contains(allow));
    wat::parse_str(text.replace(allow, r#""\00\00\00\00" "\01\00\00\00" "\80"#)).unwrap()
}

fn template() -> String {
    std::fs::read_to_string(project("tests/guests/policy.wat")).unwrap()
}

/// Returns `text` with `part` instead of its part `name`.
fn replaced(text: &str, name: &str, part: &str) -> String {
    let split = |text: &str, mark: String| {
        let (before, after) = text.split_once(&mark).unwrap_or_else(|| panic!("no part is called {name:?}"));
        (before.to_owned(), after.to_owned())
    };
    let (before, rest) = split(text, format!(";; MARK {name}\n"));
    let (_, after) = split(&rest, format!(";; END {name}\n"));
    format!("{before}{part}{after}")
}

fn repeated(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix(";; REPEAT ").and_then(|rest| rest.split_once(' ')) {
            None => all.extend([line, "\n"]),
            Some((times, text)) => {
                for number in 0..times.parse::<usize>().unwrap() {
                    all.extend([&text.replace('#', &number.to_string()), "\n"]);
                }
            }
        }
    }
    all
}
