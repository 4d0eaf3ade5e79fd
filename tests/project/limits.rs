//! The table of limits itself: its page, and the tests of each row. A test names the limit that it covers
//! with `limit: NAME within` or `limit: NAME breaks`: a key of a case, or a comment of its own line. Several
//! are separated by commas.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use host::limits::{ALL, Limit, OnExceed, Set, markdown};

use crate::support::project;

/// Beginning of a claim, in two parts, so that this file makes none.
const CLAIM: &str = concat!("limit", ": ");
const BEGIN: &str = "<!-- the table: `UPDATE=1 cargo test limits` writes it -->\n\n";

fn rows() -> impl Iterator<Item = &'static Limit> {
    ALL.iter().flat_map(|group| group.limits)
}

#[test]
fn rows_are_sound() {
    let mut names = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for limit in rows() {
        let Limit { name, default, set, .. } = limit;
        assert!(names.insert(name), "{name} twice");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        match set {
            Set::Key { key, min, max } => {
                assert!(keys.insert(key), "{key} twice");
                assert!(min < max && *default <= *max && (*default >= *min || *default == 0), "{name}");
            }
            Set::Fixed(why) => assert!(!why.is_empty() && *default > 0, "{name}"),
        }
        if let OnExceed::Message(message) = limit.on_exceed {
            let holes: Vec<_> =
                message.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
            assert!(holes.iter().all(|hole| ["found", "limit", "key"].contains(hole)), "{message}");
            assert!(!holes.contains(&"key") || limit.key().is_some(), "{name} has no key to name");
        }
    }
}

#[test]
fn the_page_is_the_table() {
    let path = project("host/docs/limits.md");
    let page = fs::read_to_string(&path).unwrap();
    let (text, found) = page.split_once(BEGIN).expect("the page has a mark where the table begins");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{text}{BEGIN}{}", markdown())).unwrap();
    } else {
        assert!(found == markdown(), "{}: `UPDATE=1 cargo test limits` writes it", path.display());
    }
}

/// Returns every file of the tests that can claim to cover a limit.
fn files() -> Vec<PathBuf> {
    let mut folders = vec![project("tests")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if matches!(extension, Some("rs" | "yaml" | "json" | "wat")) {
                files.push(path);
            }
        }
    }
    files
}

/// Returns each claim, `(limit, "within" or "breaks")`, with the files that make it.
fn claims() -> BTreeMap<(String, String), Vec<PathBuf>> {
    let mut claims: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for file in files() {
        // Some cases are not UTF-8.
        let text = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&text).replace("\"limit\": \"", CLAIM);
        for line in text.lines() {
            let Some((before, said)) = line.split_once(CLAIM) else { continue };
            let rust = file.extension().is_some_and(|extension| extension == "rs");
            let begins =
                if rust { before.trim() == "///" } else { before.trim_matches([' ', ';', '#']).is_empty() };
            if !begins {
                continue;
            }
            for claim in said.split('"').next().unwrap().split(',') {
                let (name, how) = claim.trim().split_once(' ').unwrap_or((claim.trim(), ""));
                claims.entry((name.to_owned(), how.to_owned())).or_default().push(file.clone());
            }
        }
    }
    claims
}

#[test]
fn every_limit_has_a_test_within_and_one_that_breaks_it() {
    let claims = claims();
    let named = |name: &str, how: &str| (name.to_owned(), how.to_owned());
    let all: BTreeSet<_> =
        rows().flat_map(|limit| [named(limit.name, "within"), named(limit.name, "breaks")]).collect();
    let untrue: Vec<_> = claims.iter().filter(|claim| !all.contains(claim.0)).collect();
    assert!(untrue.is_empty(), "claims of limits that do not exist: {untrue:#?}");
    let untested: Vec<_> = all.iter().filter(|claim| !claims.contains_key(*claim)).collect();
    assert!(untested.is_empty(), "limits that no test covers: {untested:#?}");
}
