//! The README and the guide: their commands run, their YAML is accepted, and their links lead somewhere.
//!
//! The words after the language of a block say what becomes of it; `CONTRIBUTING.md` lists them. The commands
//! of a page run in one folder, one block after the other. The folder is empty but for the files of
//! [`prepare`]: those that the blocks before would have built, and a decision log.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::config::Config;
use host::config::yaml::Document;
use serde_json::Value;

use crate::cli::cases::{copy_folder, root};

/// A block of a page: the line of its fence, the words after the fence, and the text.
struct Block<'a> {
    line: usize,
    info: Vec<&'a str>,
    text: String,
    /// Whether only blank lines are between this block and the one before.
    follows: bool,
}

/// The README, the guide, and the pages beside them: path from the top of the project, and text.
pub(crate) fn pages() -> Vec<(String, String)> {
    let guide = fs::read_dir(root().join("host/docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let guide =
        guide.map(|name| format!("host/docs/{}", name.display())).filter(|name| name.ends_with(".md"));
    let others = ["README.md", "CONTRIBUTING.md", "plugins/README.md", "tests/guests/README.md"];
    let mut paths: Vec<String> = others.map(str::to_owned).into_iter().chain(guide).collect();
    paths.sort();
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The blocks of a page.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut open = false;
    let mut follows = false;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(info), false) => {
                let info = info.split_whitespace().collect();
                blocks.push(Block { line: number + 1, info, text: String::new(), follows });
                open = true;
            }
            (Some(_), true) => (open, follows) = (false, true),
            (None, true) => {
                let block = blocks.last_mut().unwrap();
                block.text.extend([line, "\n"]);
            }
            (None, false) => follows &= line.trim().is_empty(),
        }
    }
    assert!(!open, "the last block has no end");
    blocks
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Puts into `folder` the files that a page's blocks would have built, the components, and a decision log.
fn prepare(folder: &Path) {
    let log = folder.join("decisions");
    copy_folder(&root().join("tests/cases/cli/replay-differs/decisions"), &log);
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(folder.join("policies")).unwrap();
    for (from, to) in [
        ("plugins/dist/trusted-registries.wasm", "policies/trusted-registries.wasm"),
        ("plugins/dist/pinned-images.wasm", "policies/pinned-images.wasm"),
        ("plugins/dist/cel.wasm", "cel.wasm"),
        ("tests/guests/dist/team-images.wasm", "team-images.wasm"),
    ] {
        fs::copy(root().join(from), folder.join(to)).unwrap();
    }
}

/// Runs a shell script in `folder`: its exit status, and its output with the errors.
fn run(script: &str, folder: &Path) -> (Option<i32>, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_host"));
    let output = Command::new("/bin/sh")
        .args(["-euc", &format!("exec 2>&1\n{script}")])
        .current_dir(folder)
        .env_clear()
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("PATH", format!("{}:/usr/bin:/bin", program.parent().unwrap().display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_ne!(output.status.code(), Some(127), "a program that the guide needs is missing:\n{said}");
    (output.status.code(), said)
}

/// Returns whether `found` is `expected`, where `…` stands for any text.
fn is_like(found: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

#[test]
fn an_ellipsis_stands_for_anything() {
    assert!(is_like("a\n", "a\n") && !is_like("a\nb\n", "a\n") && !is_like("", "a\n"));
    assert!(
        is_like("a\nb\nc\n", "a\n…\n") && is_like("a\nb\nc\n", "…\nc\n") && is_like("a\nb\nc\n", "a\n…\nc\n")
    );
    assert!(is_like("in 49 ms\n", "in … ms\n") && !is_like("in 49 s\n", "in … ms\n"));
    assert!(!is_like("a\nb\n", "…\nc\n…\n"));
}

#[test]
fn commands_do_what_the_pages_show() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, page) in pages() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let blocks = blocks(&page);
        for (number, block) in blocks.iter().enumerate() {
            let place = format!("{path}:{}", block.line);
            let (script, expected) = match block.info.as_slice() {
                ["sh"] => (block.text.clone(), 0),
                ["sh", status] => match status.strip_prefix("exit=") {
                    Some(status) => (block.text.clone(), status.parse().unwrap()),
                    None => continue,
                },
                ["yaml", "ci"] => (commands(&Document::parse(block.text.as_bytes()).unwrap().value), 0),
                _ => continue,
            };
            assert!(!script.is_empty(), "{place}: no command");
            count += 1;
            let (status, said) = run(&script, folder.path());
            if status != Some(expected) {
                wrong.push(format!("{place}: exit status {status:?}, expected {expected}:\n{said}"));
            }
            let output = blocks.get(number + 1).filter(|next| next.follows && next.info == ["text"]);
            if let Some(output) = output.filter(|output| !is_like(&said, &output.text)) {
                wrong.push(format!("{path}:{}: expected\n{}--- found\n{said}", output.line, output.text));
            }
        }
    }
    none(wrong);
    assert!(count >= 10, "only {count} blocks ran");
}

/// Returns the commands of CI jobs: the values of `run` and `script`.
fn commands(jobs: &Value) -> String {
    match jobs {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("run", Value::String(script)) => format!("{script}\n"),
                ("script", Value::Array(lines)) => {
                    lines.iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect()
                }
                (_, value) => commands(value),
            })
            .collect(),
        Value::Array(values) => values.iter().map(commands).collect(),
        _ => String::new(),
    }
}

#[test]
fn blocks_are_of_a_known_kind() {
    let mut wrong = Vec::new();
    let policy = fs::read_to_string(root().join("tests/guests/team-images/src/lib.rs")).unwrap();
    for (path, page) in pages() {
        for block in blocks(&page) {
            let place = format!("{path}:{}", block.line);
            match block.info.as_slice() {
                ["sh"] | ["sh", "build" | "cluster"] => {
                    // Of blocks that do not run, the syntax at least.
                    let output = Command::new("/bin/sh").args(["-nc", &block.text]).output().unwrap();
                    let said = String::from_utf8_lossy(&output.stderr);
                    wrong.extend((!output.status.success()).then(|| format!("{place}: {said}")));
                }
                ["sh", status] if status.starts_with("exit=") => {}
                ["console", "cluster"] | ["text"] => {}
                ["yaml"] => wrong.extend(host_yaml(&block.text).map(|problem| format!("{place}: {problem}"))),
                ["yaml", _] => {
                    let read = Document::parse(block.text.as_bytes()).is_ok() || block.text.contains('…');
                    wrong.extend((!read).then(|| format!("{place}: no YAML")));
                }
                // Lines of a file that is compiled and tested.
                ["rust", file] => {
                    let source = fs::read_to_string(root().join(file)).unwrap_or_default();
                    let same = source.contains(&block.text);
                    wrong.extend((!same).then(|| format!("{place}: {file} has no such lines")));
                }
                ["rust"] => {
                    let other = block.text.lines().find(|line| !policy.contains(line));
                    wrong.extend(other.map(|line| format!("{place}: the policy has no line {line:?}")));
                }
                info => wrong.push(format!("{place}: a block of an unknown kind: {info:?}")),
            }
        }
    }
    none(wrong);
}

/// Returns the problem with a host.yaml, whole or a part of it.
fn host_yaml(text: &str) -> Option<String> {
    let config = match Config::parse(Path::new("host.yaml"), text.as_bytes()) {
        Ok(config) => config,
        Err(error) => return Some(error.to_string()),
    };
    match text.contains("kind: HostConfiguration") {
        true => config.require_serving().err().map(|error| error.to_string()),
        false => None,
    }
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || [' ', '-', '_'].contains(character);
    heading
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|character| if character == ' ' { '-' } else { character })
        .collect()
}

/// The anchors of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut open = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        open ^= line.starts_with("```");
        let heading = line.trim_start_matches('#').strip_prefix(' ');
        if let Some(heading) = heading.filter(|_| !open && line.starts_with('#')) {
            found.insert(anchor(heading));
        }
    }
    found
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<&str> {
    let parts = page.split("](").skip(1);
    parts.filter_map(|part| part.split_once(')')).map(|(target, _)| target).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, page) in pages() {
        for target in links(&page).into_iter().filter(|target| !target.starts_with("https://")) {
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => root().join(&path),
                file => root().join(&path).parent().unwrap().join(file),
            };
            if !file.exists() {
                wrong.push(format!("{path}: {target} does not exist"));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(file).unwrap()).contains(anchor) {
                wrong.push(format!("{path}: {target} is no heading there"));
            }
        }
    }
    none(wrong);
    assert!(count >= 50, "only {count} links");
}

#[test]
fn the_summary_lists_every_page() {
    let folder = root().join("host/docs");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().map(PathBuf::from).collect();
    let pages =
        pages().into_iter().filter_map(|(path, _)| path.strip_prefix("host/docs/").map(PathBuf::from));
    let pages: BTreeSet<PathBuf> = pages.filter(|page| page != Path::new("SUMMARY.md")).collect();
    assert_eq!(listed, pages);
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 160, "it has {} lines: move some to the guide", readme.lines().count());
}

#[test]
fn every_key_of_host_yaml_is_described() {
    let page = fs::read_to_string(root().join("host/docs/configure.md")).unwrap();
    let code: BTreeSet<&str> = page.split('`').skip(1).step_by(2).flat_map(|code| code.split('.')).collect();
    let mut keys = BTreeSet::new();
    collect(&host::config::schema(), &mut keys);
    assert!(keys.len() >= 40, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !code.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "host/docs/configure.md does not name {missing:?}");
}

/// Collects the names of all properties in a JSON Schema.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| collect(value, keys));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

#[test]
fn every_verb_is_described() {
    let page = fs::read_to_string(root().join("host/docs/command-line.md")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_host")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, commands) = help.split_once("For operators:\n").unwrap();
    let lines = commands.lines().take_while(|line| *line != "Options:");
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<_> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"serve") && verbs.contains(&"completions"), "{verbs:?}");
    let missing: Vec<_> = verbs
        .into_iter()
        .filter(|verb| *verb != "help" && !page.contains(&format!("| `host {verb}")))
        .collect();
    assert!(missing.is_empty(), "host/docs/command-line.md does not name {missing:?}");
}
