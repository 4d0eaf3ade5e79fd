//! The policies as components: their suites, which cover all settings, and whether `plugins/dist` is the
//! output of `plugins/build` on the sources.
//!
//! The suites name their modules in `plugins/dist`. With `POLICIES_DIR=DIR` they run against the components
//! in DIR instead, for instance freshly built ones:
//!
//! ```text
//! plugins/build plugins /tmp/policies && POLICIES_DIR=/tmp/policies cargo test --test tests plugins
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::policy::digest;
use serde_json::Value;

use crate::cli::cases::{copy_folder, root};

/// Returns the folders in `plugins` that hold a suite.
fn with_suite() -> Vec<PathBuf> {
    let folders = fs::read_dir(root().join("plugins")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("suite").is_dir()).collect();
    folders.sort();
    folders
}

fn manifest(dist: &Path) -> Value {
    serde_json::from_slice(&fs::read(dist.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn suites_pass_and_cover_the_settings() {
    let dist = root().join(std::env::var_os("POLICIES_DIR").unwrap_or("plugins/dist".into()));
    let dist = dist.canonicalize().unwrap_or_else(|error| panic!("POLICIES_DIR {}: {error}", dist.display()));
    // Copied, so that the `../../../dist` of a suite is the requested folder.
    let temporary = tempfile::tempdir().unwrap();
    symlink(dist, temporary.path().join("dist")).unwrap();
    let mut suites = Vec::new();
    for folder in with_suite() {
        let copy = temporary.path().join(folder.file_name().unwrap());
        fs::create_dir(&copy).unwrap();
        copy_folder(&folder.join("suite"), &copy.join("suite"));
        suites.push(Path::new(folder.file_name().unwrap()).join("suite"));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_host"))
        .args(["test", "--coverage=require", "--quiet"])
        .args(&suites)
        .current_dir(temporary.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "host test: {}\n{out}{err}", output.status);
}

#[test]
fn a_suite_that_runs_natively_runs_in_the_host_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_host"))
        .args(["test", "tests/guests/team-images/suite"])
        .current_dir(root())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("4 passed"), "host test: {}\n{out}{err}", output.status);
}

#[test]
fn every_policy_has_a_suite_and_a_component() {
    let dist = root().join("plugins/dist");
    let manifest = manifest(&dist);
    let suites: Vec<String> =
        with_suite().iter().map(|folder| folder.file_name().unwrap().display().to_string()).collect();
    let built: Vec<String> = manifest["policies"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(suites, built, "the folders with a suite, and the policies in plugins/dist/manifest.json");
    let embedded: Vec<&str> = host::install::demo::POLICIES.iter().map(|(name, _)| *name).collect();
    assert!(embedded.iter().all(|name| built.iter().any(|built| built == name)), "{embedded:?}");
}

#[test]
fn dist_is_of_today() {
    for folder in ["plugins", "tests/guests"] {
        let dist = root().join(folder).join("dist");
        for (name, built) in manifest(&dist)["policies"].as_object().unwrap() {
            let component = fs::read(dist.join(format!("{name}.wasm"))).unwrap();
            let remedy =
                format!("{folder}/dist/{name}.wasm is not of these sources: run plugins/build {folder}");
            assert_eq!(built["component"], digest(&component), "{remedy}");
            assert_eq!(built["bytes"], component.len(), "{remedy}");
            assert_eq!(built["sources"], sources(folder, name), "{remedy}");
        }
    }
}

/// Returns the hash of a policy's sources, as the header of `plugins/build` defines it.
fn sources(folder: &str, name: &str) -> String {
    let mut files = BTreeMap::new();
    for start in [
        &format!("{folder}/{name}/Cargo.toml"),
        &format!("{folder}/{name}/src"),
        "plugins/sdk/Cargo.toml",
        "plugins/sdk/src",
        "host/image-reference/Cargo.toml",
        "host/image-reference/src",
        "wit",
        "plugins/build",
    ] {
        hash_files(start, &mut files);
    }
    let lines: Vec<_> = files.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
    digest(lines.concat().as_bytes())
}

/// Hashes each regular file at or below `path`, which is relative to the top of the project.
fn hash_files(path: &str, files: &mut BTreeMap<String, String>) {
    let place = root().join(path);
    let kind = fs::symlink_metadata(&place).unwrap().file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(&place).unwrap() {
            hash_files(&format!("{path}/{}", entry.unwrap().file_name().display()), files);
        }
    } else if kind.is_file() {
        files.insert(path.to_owned(), digest(&fs::read(&place).unwrap()));
    }
}
