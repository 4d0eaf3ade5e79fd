//! Rejection of files that are no policies, with a next step: every `.wat` of `cases/load` is rejected with
//! the text of the `.txt` beside it. Files that WAT cannot express are below.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::config::{HostLimits, PolicyLimits};
use host::policy::{Cache, Compiler, Component, LoadError, Policy};
use host::reload::{Fallback, assemble};
use proptest::prelude::*;
use serde_json::json;

use crate::support;

/// Returns the reason for which these bytes are no policy.
fn refusal(bytes: &[u8]) -> String {
    let loaded = support::load(bytes, &json!({}), &PolicyLimits::default());
    loaded.map_or_else(|error| error.to_string(), |_| "it is loaded".to_owned())
}

#[test]
fn load_cases() {
    let mut files: Vec<_> = std::fs::read_dir(support::project("tests/cases/load"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "wat"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "only {} cases", files.len());
    let difference = |file: &Path| {
        let component = wat::parse_file(file).unwrap();
        let expected = std::fs::read_to_string(file.with_extension("txt")).unwrap();
        let found = refusal(&component);
        let name = file.file_stem().unwrap().display();
        (found != expected.trim_end()).then(|| format!("{name}\nexpected {expected}found    {found}"))
    };
    let differences: Vec<_> = files.iter().filter_map(|file| difference(file)).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn what_is_no_webassembly() {
    let html = b"<!DOCTYPE html><title>404</title>";
    let elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0";
    assert_eq!(refusal(b""), "the file is empty: is it still being written?");
    let other: [&[u8]; 7] = [b"\0", b"\0as", b"hello", html, elf, b"PK\x03\x04", b"(component)"];
    for bytes in other {
        assert_eq!(refusal(bytes), "the file is no WebAssembly: it does not begin with `\\0asm`");
    }
}

#[test]
fn a_component_cut_anywhere_is_refused() {
    let whole = std::fs::read(support::scripted()).unwrap();
    // Cut at each of the first bytes, then wherever a copy may have stopped.
    let ends = (1..64).chain((64..whole.len()).step_by(4096)).chain([whole.len() - 1]);
    for end in ends {
        let found = refusal(&whole[..end]);
        match end {
            ..4 => assert!(found.starts_with("the file is no WebAssembly: "), "{end}: {found}"),
            // The remaining sections may be complete: then it is a component, but without the exports of a
            // policy.
            _ => assert!(
                found.starts_with("the file is no valid component: it ends early, so it is incomplete")
                    || found.starts_with("it is a component of another world: "),
                "{end}: {found}"
            ),
        }
        assert!(found.len() <= 600 && !found.contains('\n'), "{end}: {found}");
    }
}

/// limit: module within
/// limit: module breaks
#[test]
fn a_file_over_its_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.wasm");
    let host = || {
        let module = file.display().to_string();
        json!({ "limits": { "module": "64Ki" }, "policies": [{ "name": "p", "module": module }] })
    };
    // A sparse file, too large to be read whole.
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let problems = support::candidate(host()).problems;
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(
        problem.to_string(),
        format!(
            "policy p: {}: the file has 1099511627776 bytes, the limit is 65536 (limits.module) (no good \
                version is known, so it malfunctions by its failurePolicy)",
            file.display()
        )
    );

    let small = b"x".repeat(64 << 10);
    std::fs::write(&file, small).unwrap();
    let problems = support::candidate(host()).problems;
    assert!(problems[0].what.contains("the file is no WebAssembly"), "{problems:?}");
}

/// limit: policies within, policies breaks
#[test]
fn a_set_has_so_many_policies() {
    let folder = tempfile::tempdir().unwrap();
    let host =
        || json!({ "limits": { "policies": 2 }, "policyDirectory": folder.path().display().to_string() });
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(name).with_extension("wasm"), support::version("version1"))
            .unwrap();
    }
    assert_eq!(support::set(host()).policies.len(), 2);
    std::fs::write(folder.path().join("c.wasm"), support::version("version1")).unwrap();
    let candidate = assemble(
        support::compiler(),
        &support::config(host()),
        Fallback::LastGood(None),
        &mut Default::default(),
    );
    let problem = candidate.err().unwrap();
    assert_eq!(problem.what, "there are 3 policies; this host takes at most 2 (limits.policies)");
}

/// Compiles the component with these limits into this folder, with a compiler of its own.
fn prepared(folder: &Path, limits: &HostLimits, component: Vec<u8>) -> Result<Arc<Policy>, LoadError> {
    let cache = Cache::open(&folder.join("cache"), limits.cache).unwrap();
    let engine = support::compiler().engine().clone();
    let compiler = Compiler::new(engine, cache, support::process::HOST.into(), false).unwrap();
    compiler.limit(limits);
    let until = Instant::now() + Duration::from_secs(600);
    compiler.load(&Component::new(component), &json!({}), &PolicyLimits::default(), until)
}

/// limit: prepare-time within, prepare-time breaks, prepare-memory within, prepare-memory breaks
#[test]
fn preparing_has_limits() {
    let folder = tempfile::tempdir().unwrap();
    let limits = |seconds, megabytes: u64| HostLimits {
        prepare_time: Duration::from_secs(seconds),
        prepare_memory: megabytes << 20,
        ..HostLimits::default()
    };
    let light = || support::version("version1");
    // Some seconds of work, and some hundred megabytes.
    let function =
        format!("(func (param i32) (result i32) local.get 0 {})", "local.get 0 i32.mul ".repeat(400));
    let heavy = || {
        let module = format!("(core module {})", function.repeat(10_000));
        let export = "(instance $i) (export \"image-policy:host/policy@0.1.0\" (instance $i))";
        wat::parse_str(format!("(component {module} {export})")).unwrap()
    };
    assert!(prepared(folder.path(), &limits(1, 128), light()).is_ok());
    let late = prepared(folder.path(), &limits(1, 4096), heavy()).unwrap_err();
    assert_eq!(late.to_string(), "preparing it took longer than 1s (limits.prepareTime)");
    let greedy = prepared(folder.path(), &limits(600, 32), heavy()).unwrap_err();
    assert_eq!(
        greedy.to_string(),
        "preparing it needs more memory than 33554432 bytes (limits.prepareMemory)"
    );
}

/// limit: cache within, cache breaks
#[test]
fn the_cache_has_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let kept = || {
        let entries = std::fs::read_dir(folder.path().join("cache")).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect::<BTreeMap<_, _>>()
    };
    let put = |name: &str, cache| {
        let limits = HostLimits { cache, ..HostLimits::default() };
        prepared(folder.path(), &limits, support::version(name)).unwrap();
        // The age in whole milliseconds decides which entry is removed.
        std::thread::sleep(Duration::from_millis(20));
    };
    put("version1", 1 << 30);
    let first: Vec<_> = kept().into_iter().collect();
    let [(first, bytes)] = first.as_slice() else { panic!("{first:?}") };
    let two = bytes * 5 / 2;
    put("version2", two);
    assert_eq!(kept().len(), 2);
    put("version3", two);
    assert_eq!(kept().len(), 2);
    assert!(!kept().contains_key(first), "the oldest stayed");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(file("pipe.wasm")).status().unwrap();
    assert!(made.success());
    std::fs::create_dir(file("folder.wasm")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", file("device.wasm")).unwrap();
    std::os::unix::fs::symlink("nowhere", file("dangling.wasm")).unwrap();
    let host = json!({ "policyDirectory": folder.path().display().to_string() });
    let found: Vec<_> = support::candidate(host).problems.iter().map(ToString::to_string).collect();
    let expected = [
        ("dangling", "No such file or directory (os error 2): put it there, or name another file"),
        ("device", "it is no regular file: name a file"),
        ("folder", "it is no regular file: name a file"),
        ("pipe", "it is no regular file: name a file"),
    ]
    .map(|(name, why)| {
        format!(
            "policy {name}: {}: {why} (no good version is known, so it malfunctions by its failurePolicy)",
            file(&format!("{name}.wasm")).display()
        )
    });
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_in_one_line(bytes in prop::collection::vec(any::<u8>(), 0..256),
        header in 0..3) {
        let header: &[u8] = match header {
            0 => b"",
            1 => b"\0asm\x0d\0\x01\0",
            _ => b"\0asm",
        };
        let found = refusal(&[header, &bytes].concat());
        let starts = ["the file is ", "it is a component of"];
        prop_assert!(starts.iter().any(|start| found.starts_with(start)), "{found}");
        prop_assert_eq!(&host::text::escape(&found), &found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A damaged component is rejected or loaded, but never more: the host's own checks come before anything
    /// runs.
    #[test]
    fn a_damaged_component_harms_nobody(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut component = std::fs::read(support::scripted()).unwrap();
        *at.get_mut(&mut component) ^= 1_u8 << bit;
        let found = refusal(&component);
        prop_assert_eq!(&host::text::escape(&found), &found);
        prop_assert!(found.len() < 2048);
    }
}
