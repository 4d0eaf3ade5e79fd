//! Rules for the sources that can be checked by reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::cases::root;

/// A source file: its path from the top of the project, and its text.
type Source = (String, String);

/// Returns the files below `folder` with an extension, sorted.
fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let top = root();
    let mut folders = vec![top.join(folder)];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let built = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !built {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&top).unwrap().display().to_string();
        (name, fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// Returns all Rust files of the project.
fn rust() -> Vec<Source> {
    ["host", "plugins", "tests"].iter().flat_map(|folder| sources(folder, "rs")).collect()
}

/// Returns each line of code that has one of `words`, as `path:line: text`. Comments are no code.
fn lines_with(files: &[Source], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| has_word(code, word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

/// Returns whether `code` contains `word` as a whole name.
fn has_word(code: &str, word: &str) -> bool {
    let name = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, rest) = code.split_at(at);
        let after = rest.trim_start_matches(word);
        let longer = before.ends_with(name) || word.ends_with(name) && after.starts_with(name);
        !longer
    })
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_place() {
    let host = sources("host/src", "rs");
    let found = lines_with(&host, &["unsafe_code", "unsafe"]);
    let places: Vec<_> = found.iter().map(|line| line.split(':').next().unwrap()).collect();
    // The expectation and the block.
    assert_eq!(
        places, ["host/src/policy/sandbox/native.rs"; 2],
        "unsafe only where compiled code is loaded: {found:#?}"
    );
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"deny\""), "the workspace denies unsafe code");
    let host = fs::read_to_string(root().join("host/Cargo.toml")).unwrap();
    assert!(
        host.contains(
            "[lints]
workspace = true"
        ),
        "host takes the lints of the workspace"
    );
}

#[test]
fn each_library_is_named_in_its_own_part() {
    let host = sources("host/src", "rs");
    for (libraries, parts) in [
        (["wasmtime", "wasmtime_wasi"], &["policy"][..]),
        (["wasmparser", "wasmtime_wizer"], &["policy"]),
        (["landlock", "seccompiler"], &["policy"]),
        (["axum", "hyper"], &["serve"]),
        (["notify", "inotify"], &["reload/watch"]),
        (["rustls", "tokio_rustls"], &["tls", "install", "serve"]),
        (["rcgen", "x509_parser"], &["tls", "install"]),
        (["clap", "tracing_subscriber"], &["cli"]),
        (["anstream", "anstyle"], &["author/reporters", "cli"]),
        (["prometheus_client", "tracing_appender"], &["serve", "cli"]),
    ] {
        let inside = |path: &str| {
            parts.iter().any(|part| {
                let module = format!("host/src/{part}");
                path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
            })
        };
        let outside: Vec<Source> = host.iter().filter(|(path, _)| !inside(path)).cloned().collect();
        let paths: Vec<String> = libraries.iter().map(|library| format!("{library}::")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        none(lines_with(&outside, &paths), &format!("{libraries:?} only in {parts:?}"));
    }
}

#[test]
fn the_core_is_pure() {
    let mut core: Vec<Source> = sources("host/src/review", "rs");
    core.extend(sources("host/src/limits", "rs"));
    let pure = ["host/src/text.rs", "host/src/problem.rs"];
    core.extend(sources("host/src", "rs").into_iter().filter(|(path, _)| pure.contains(&path.as_str())));
    core.extend(sources("host/image-reference/src", "rs"));
    let io = [
        "async",
        "await",
        "std::fs",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "std::env",
        "std::io",
        "std::process",
        "std::thread",
        "tokio",
        "tracing",
        "Instant",
        "SystemTime",
        "rand",
        "static mut",
        "thread_local",
    ];
    none(lines_with(&core, &io), "the core has no I/O, no clock and no chance");
}

#[test]
fn every_module_says_what_it_is() {
    let silent = rust().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path);
    none(silent.collect(), "a file begins with a line `//! …` that says what is in it");
}

#[test]
fn nothing_is_left_undone() {
    // In two parts, so that this file does not find itself.
    let words = ["TO\u{44}O", "FIX\u{4d}E", "XX\u{58}", "to\u{64}o!", "unimplemented\u{21}"];
    let mut found = Vec::new();
    for (path, text) in rust() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none(found, "what is left to do stands in an issue, not in the code");
    let ignored = rust()
        .into_iter()
        .filter(|(_, text)| text.lines().any(|line| line.trim_start().starts_with("#[ignore")));
    none(ignored.map(|(path, _)| path).collect(), "a test that is ignored holds nothing");
}

#[test]
fn no_generated_code_is_checked_in() {
    let all = ["rs", "c", "h", "go", "js", "py"]
        .iter()
        .flat_map(|extension| ["host", "plugins", "tests"].map(|folder| sources(folder, extension)))
        .flatten();
    let generated = all.filter(|(_, text)| text.lines().take(5).any(|line| line.contains("DO NOT EDIT")));
    none(generated.map(|(path, _)| path).collect(), "generated code is made below target/ when it is needed");
}

#[test]
fn nothing_strange_stands_at_the_top() {
    let known = ["CONTRIBUTING.md", "Cargo.lock", "Cargo.toml", "LICENSE", "README.md"];
    let folders = ["host", "plugins", "target", "tests", "wit"];
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let strange = names.filter(|name| {
        !name.starts_with('.') && !known.contains(&name.as_str()) && !folders.contains(&name.as_str())
    });
    none(strange.collect(), "a file at the top belongs into a folder, or below target/");
}

#[test]
fn the_contract_is_documented() {
    let mut undocumented = Vec::new();
    for (path, text) in sources("wit", "wit") {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let before = number.checked_sub(1).map_or("", |before| lines[before]);
            if is_item(line) && !before.starts_with("///") {
                undocumented.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    none(undocumented, "every item of the contract has a doc comment right above it");
}

#[test]
fn the_sdk_has_the_contract() {
    let own = |folder: &str| {
        let files = sources(folder, "wit").into_iter();
        files.map(|(path, text)| (path.trim_start_matches(folder).to_owned(), text)).collect::<Vec<_>>()
    };
    assert_eq!(own("plugins/sdk/wit"), own("wit"), "cp wit/*.wit plugins/sdk/wit/");
}

/// Returns whether a line of WIT begins an item, a field, a case or a function, which need documentation.
/// (`enum` cases on their enum's line are documented with it.)
fn is_item(line: &str) -> bool {
    let keywords =
        ["package", "interface", "world", "record", "enum", "variant", "flags", "resource", "type"];
    let first = line.split_whitespace().next().unwrap_or_default();
    let field = line.split_once(':').is_some_and(|(name, _)| is_name(name));
    let case = line.strip_suffix(',').is_some_and(is_name);
    keywords.contains(&first) || field || case
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
}

#[test]
fn cases_are_whole() {
    for case in fs::read_dir(root().join("tests/cases/cli")).unwrap() {
        let case = case.unwrap().path();
        assert!(Path::new(&case).join("command").is_file(), "{}: it has no `command`", case.display());
    }
}

/// Words that this project has replaced by the field's, in comments and messages of the host.
const REPLACED: [&str; 12] = [
    "wh\u{6f}ever",
    "an\u{65}w",
    "how-manieth",
    "d\u{6f}or",
    "b\u{6f}und",
    "b\u{6f}unds",
    "is t\u{6f}ld",
    "are t\u{6f}ld",
    "is \u{61}sked",
    "so m\u{61}ny",
    "comes t\u{6f}",
    "let g\u{6f}",
];

/// Returns the number of columns that a line takes on a screen.
fn columns(line: &str) -> usize {
    line.chars().count()
}

#[test]
fn the_prose_is_plain() {
    let mut found = Vec::new();
    for (path, text) in rust() {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{path}:{}: {}", number + 1, line.trim());
            let doc = line.trim_start();
            let doc = doc.strip_prefix("///").or_else(|| doc.strip_prefix("//!")).map(str::trim_start);
            if doc.is_some_and(|doc| doc.starts_with("What ")) {
                found.push(place.clone());
            }
            // A row of a table cannot be broken.
            if columns(line) > 110 && !doc.is_some_and(|doc| doc.starts_with('|')) {
                found.push(format!("{} columns: {place}", columns(line)));
            }
            let prose = line.split_once("//").map_or("", |(_, comment)| comment);
            if path.starts_with("host/src/") && REPLACED.iter().any(|word| has_word(prose, word)) {
                found.push(place);
            }
        }
    }
    none(found, "plain technical English (CONTRIBUTING.md, Prose)");

    let (mut words, mut what) = (0_usize, 0_usize);
    for (_, text) in rust() {
        for line in text.lines() {
            let Some((_, comment)) = line.split_once("//") else { continue };
            words += comment.split_whitespace().count();
            what += comment
                .split(|c: char| !c.is_alphabetic())
                .filter(|word| word.eq_ignore_ascii_case("what"))
                .count();
        }
    }
    println!("comments: {words} words, {what} times \"what\"");
    assert!(what * 1000 <= words * 2, "{what} times \"what\" in {words} words of comments: name the thing");
}

/// Returns the functions of a formatted file with more than 60 lines, with their lengths.
fn long_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let head = line.trim_start();
        let Some((before, name)) = head.split_once("fn ") else { continue };
        let modifiers = ["pub", "async", "const", "unsafe", "extern"];
        let is_head =
            before.split_whitespace().all(|word| modifiers.iter().any(|modifier| word.starts_with(modifier)));
        if !is_head || head.starts_with("//") {
            continue;
        }
        let end = format!("{indent}}}");
        let Some(length) = lines.iter().skip(start).position(|line| *line == end) else { continue };
        if length + 1 > 60 {
            long.push((name.split(['(', '<']).next().unwrap_or_default().to_owned(), length + 1));
        }
    }
    long
}

#[test]
fn files_and_functions_fit_a_reader() {
    let mut found = Vec::new();
    for (path, text) in rust() {
        let lines = text.lines().count();
        if lines > 500 {
            found.push(format!("{path}: {lines} lines"));
        }
        let is_test = path.starts_with("tests/") || path.contains("/tests/");
        let long = if is_test { Vec::new() } else { long_functions(&text) };
        found.extend(long.into_iter().map(|(name, lines)| format!("{path}: {name} has {lines} lines")));
    }
    none(found, "a file has at most 500 lines, and a function that is no test at most 60");
}

#[test]
fn errors_are_types() {
    let mut found = Vec::new();
    for folder in ["host/src", "host/image-reference/src", "plugins"] {
        for (path, text) in sources(folder, "rs") {
            // Tests stand at the end of a file.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let error = line.split_once("Result<").and_then(|(_, rest)| rest.split_once(", String>"));
                // `evaluate` of the contract (`wit/policy.wit`) has a text as its error.
                if error.is_some_and(|(ok, _)| !ok.contains([';', '{', '=']) && ok != "Decision") {
                    found.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    none(found, "an error is a type of its module, not a string");
    let host = sources("host/src", "rs");
    none(
        lines_with(&host, &["std::sync::Mutex", "std::sync::RwLock", "PoisonError"]),
        "locks are those of parking_lot, which do not poison",
    );
}

/// Returns the rows of a table in `lib.rs`: the lines between its head, of two words, and the end of the
/// block. A row is split after its first word.
fn rows(head: [&str; 2]) -> Vec<(String, String)> {
    let lib = fs::read_to_string(root().join("host/src/lib.rs")).unwrap();
    let is_head = |line: &str| line.split_whitespace().skip(1).eq(head);
    let lines = lib.lines().skip_while(|line| !is_head(line)).skip(1);
    let rows = lines.take_while(|line| *line != "//! ```").map(|line| {
        let (first, rest) = line.trim_start_matches("//! ").split_once(' ').unwrap_or((line, ""));
        (first.to_owned(), rest.trim().to_owned())
    });
    rows.collect()
}

/// Reads the table of folders in `lib.rs`: each folder, and the folders that it may use.
fn table() -> Vec<(String, Vec<String>)> {
    let names = |uses: &str| uses.split_whitespace().filter(|name| *name != "-").map(str::to_owned).collect();
    rows(["folder", "uses"]).into_iter().map(|(folder, uses)| (folder, names(&uses))).collect()
}

#[test]
fn every_folder_has_a_purpose() {
    let purposes = rows(["folder", "purpose"]);
    let folders = |rows: Vec<String>| rows.join("\n");
    assert_eq!(
        folders(purposes.iter().map(|(folder, _)| folder.clone()).collect()),
        folders(table().into_iter().map(|(folder, _)| folder).collect()),
        "both tables in host/src/lib.rs have the same folders, in the same order"
    );
    none(
        purposes.into_iter().filter(|(_, purpose)| purpose.is_empty()).map(|(folder, _)| folder).collect(),
        "host/src/lib.rs says the purpose of each folder",
    );
}

#[test]
fn the_files_of_changes_exist() {
    let rows = rows(["change", "file"]);
    assert!(rows.len() > 10, "{rows:?}");
    let mut wrong = Vec::new();
    for (first, rest) in rows {
        let files: Vec<&str> = rest.split_whitespace().filter(|word| word.ends_with(".rs")).collect();
        let exist = files.iter().all(|file| root().join("host/src").join(file).is_file());
        if files.is_empty() || !exist {
            wrong.push(format!("{first} {rest}"));
        }
    }
    none(wrong, "each row of the table in host/src/lib.rs names files that exist");
}

/// Returns the folders or files at the top of `host/src` that each of them uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources("host/src", "rs") {
        let top = path.trim_start_matches("host/src/").split('/').next().unwrap();
        let used = uses.entry(top.trim_end_matches(".rs").to_owned()).or_default();
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            for rest in code.split("crate::").skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                used.insert(name);
            }
        }
    }
    uses
}

#[test]
fn folders_use_those_above_them_and_no_others() {
    let table = table();
    let place = |name: &str| table.iter().position(|(folder, _)| folder == name);
    let mut wrong = Vec::new();
    for (number, (folder, may)) in table.iter().enumerate() {
        for used in may {
            if place(used).is_none_or(|place| place >= number) {
                wrong.push(format!("{folder} may use {used}, which is not above it in the table"));
            }
        }
    }
    let mut arrows = 0;
    // The longest path down from a folder.
    let mut levels: BTreeMap<String, usize> = BTreeMap::new();
    let found = uses();
    for (folder, may) in &table {
        let used = found.get(folder).cloned().unwrap_or_default();
        let others: BTreeSet<_> = used.into_iter().filter(|used| used != folder && used != "image").collect();
        wrong.extend(
            others.iter().filter(|used| !may.contains(used)).map(|used| format!("{folder} uses {used}")),
        );
        wrong.extend(
            may.iter()
                .filter(|used| !others.contains(*used))
                .map(|used| format!("{folder} does not use {used}")),
        );
        arrows += others.len();
        let below = others.iter().filter_map(|used| levels.get(used)).max().copied().unwrap_or(0);
        levels.insert(folder.clone(), below + 1);
    }
    let unlisted =
        found.keys().filter(|name| !matches!(name.as_str(), "lib" | "main") && place(name).is_none());
    wrong.extend(unlisted.map(|name| format!("{name} is not in the table")));
    none(wrong, "the table in host/src/lib.rs says which folder may use which");

    let entries = fs::read_dir(root().join("host/src")).unwrap().count();
    let depth = levels.values().max().copied().unwrap_or(0);
    println!("host/src: {entries} entries, {depth} levels, {arrows} arrows");
    assert!(entries <= 20 && depth <= 12, "{entries} entries, {depth} levels");
}
