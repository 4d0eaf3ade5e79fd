//! The command line: every folder of `cases/cli` is a test.
//!
//! `command` is a shell script that runs in a copy of the folder, where `host` is the real binary. Its output
//! must be exactly `stdout` and `stderr`, and its exit status `status`; a missing file stands for no output,
//! and for 0. In the copy `policies/` holds those of `plugins/dist`, and each `NAME.wat` has been compiled to
//! `NAME.wasm` too.
//!
//! Parts that differ from run to run are replaced: the copy's path by `CASE`, a generation by `GENERATION`, a
//! time by `N ms`.
//!
//! After an intended change, write the expectations again and look at the difference:
//!
//! ```text
//! UPDATE=1 cargo test --test tests cli; git diff tests/cases/cli
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

#[test]
fn cli_cases() {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root().join("tests/cases/cli")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 50, "only {} cases", folders.len());
    let half = folders.len() / 2;
    let (first, second) = folders.split_at(half);
    let differences = std::thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().filter_map(|folder| run(folder)).collect::<Vec<_>>());
        let mut differences: Vec<_> = first.iter().filter_map(|folder| run(folder)).collect();
        differences.extend(other.join().unwrap());
        differences
    });
    assert!(differences.is_empty(), "{}\n\n(UPDATE=1 accepts what was found)", differences.join("\n\n"));
}

/// Runs a case. Returns the differences from its expectation, or None.
fn run(case: &Path) -> Option<String> {
    let temporary = tempfile::tempdir().unwrap();
    let copy = temporary.path().canonicalize().unwrap().join("case");
    copy_folder(case, &copy);
    for expectation in ["stdout", "stderr", "status"] {
        let _ = fs::remove_file(copy.join(expectation));
    }
    fs::create_dir(copy.join("policies")).unwrap();
    for name in ["trusted-registries.wasm", "pinned-images.wasm", "cel.wasm"] {
        symlink(root().join("plugins/dist").join(name), copy.join("policies").join(name)).unwrap();
    }

    let binary = Path::new(env!("CARGO_BIN_EXE_host"));
    let output = Command::new("/bin/sh")
        .arg("command")
        .current_dir(&copy)
        .env_clear()
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("PATH", format!("{}:/usr/bin:/bin", binary.parent().unwrap().display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let place = copy.display().to_string();
    let found = [
        ("stdout", without_chance(&String::from_utf8_lossy(&output.stdout), &place)),
        ("stderr", without_chance(&String::from_utf8_lossy(&output.stderr), &place)),
        (
            "status",
            output.status.code().filter(|code| *code != 0).map_or(String::new(), |code| format!("{code}\n")),
        ),
    ];
    if std::env::var_os("UPDATE").is_some() {
        for (name, text) in &found {
            let path = case.join(name);
            match text.as_str() {
                "" if path.exists() => fs::remove_file(&path).unwrap(),
                "" => {}
                text => fs::write(&path, text).unwrap(),
            }
        }
        return None;
    }
    let differences: Vec<_> = found
        .iter()
        .filter_map(|(name, found)| {
            let expected = fs::read_to_string(case.join(name)).unwrap_or_default();
            (expected != *found)
                .then(|| format!("--- {name}, expected:\n{expected}--- {name}, found:\n{found}"))
        })
        .collect();
    let name = case.file_name().unwrap().display();
    (!differences.is_empty()).then(|| format!("=== tests/cases/cli/{name}\n{}", differences.concat()))
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &copy);
            continue;
        }
        fs::copy(&source, &copy).unwrap();
        if source.extension().is_some_and(|extension| extension == "wat") {
            let wasm = wat::parse_file(&source).unwrap_or_else(|error| panic!("{error}"));
            fs::write(copy.with_extension("wasm"), wasm).unwrap();
        }
    }
}

/// Returns `text` with the parts that differ from run to run replaced.
fn without_chance(text: &str, place: &str) -> String {
    let text = text.replace(place, "CASE");
    // A generation is `0-` and twelve hexadecimal digits.
    let mut parts = text.split("0-");
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_at_checked(12) {
            Some((digest, rest)) if digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                replaced.extend(["GENERATION", rest]);
            }
            _ => replaced.extend(["0-", part]),
        }
    }
    let without_time = |line: &str| match line.split_once(" in ") {
        // `10 passed, 0 failed in 61 ms`, or `in 13.4 s`.
        Some((counts, rest)) if rest.starts_with(|first: char| first.is_ascii_digit()) => {
            let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == '.');
            let rest = rest.strip_prefix(" ms").or(rest.strip_prefix(" s")).unwrap_or(rest);
            format!("{counts} in N ms{rest}")
        }
        _ => line.to_owned(),
    };
    replaced.split_inclusive('\n').map(without_time).collect()
}

#[test]
fn the_schema_is_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_host")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema, host::config::schema());
    assert!(output.status.success() && output.stderr.is_empty());
}
