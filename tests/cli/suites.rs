//! The search for fixtures: each walk ends, with all fixtures or with an error that names the place.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use host::suite::{Case, find, folders};
use serde_json::json;

use crate::reload::candidate::Installation;
use crate::support::version;

/// Returns the result of [`find`] for a folder: the number of fixtures, or the error without the folder's
/// path.
fn found(folder: &Path) -> Result<usize, String> {
    let suites = find(&[folder.to_owned()], true).map_err(|error| {
        let shown = folder.display().to_string();
        error.to_string().replace(&format!("{shown}/"), "").replace(&shown, "SUITE")
    })?;
    Ok(suites.iter().map(|suite| suite.files.len()).sum())
}

fn make(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn links_that_lead_round_in_a_circle_are_refused_with_the_place() {
    type Links = &'static [(&'static str, &'static str)];
    let cases: [(Links, &str); 4] = [
        (&[(".", "x")], "x: this symbolic link leads back to SUITE, in which it stands"),
        (&[(".", "x"), (".", "y")], ": this symbolic link leads back to SUITE, in which it stands"),
        (&[("..", "a/up")], "a/up: this symbolic link leads back to SUITE, in which it stands"),
        (&[("../b", "a/to-b"), ("../a", "b/to-a")], ": this symbolic link leads back to "),
    ];
    for (links, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), "a");
        make(folder.path(), "b");
        for (target, link) in links {
            symlink(target, folder.path().join(link)).unwrap();
        }
        let error = found(folder.path()).unwrap_err();
        assert!(error.contains(expected), "{links:?}: {error}");
        assert!(
            folders(&[folder.path().to_owned()]).contains(folder.path()),
            "it has to be seen that it is mended"
        );
    }
}

#[test]
fn a_link_to_a_folder_of_fixtures_or_to_one_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let [common, suite] = ["common", "suite"].map(|name| make(folder.path(), name));
    File::create(common.join("case.json")).unwrap();
    symlink("../common", suite.join("one")).unwrap();
    symlink("../common", suite.join("other")).unwrap();
    symlink("../common/case.json", suite.join("file.json")).unwrap();
    symlink("nowhere", suite.join("broken.json")).unwrap();
    symlink("loop.json", suite.join("loop.json")).unwrap();
    assert_eq!(found(&suite), Ok(5));
}

/// limit: suite-folders within, suite-folders breaks
#[test]
fn the_number_of_folders_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    (1..4096).for_each(|number| drop(make(folder.path(), &number.to_string())));
    assert_eq!(found(folder.path()), Ok(0));
    make(folder.path(), "surplus");
    assert!(found(folder.path()).unwrap_err().contains("the suites have more than 4096 folders"));

    // Without the check for circles there would be 2^30 paths.
    let folder = tempfile::tempdir().unwrap();
    for level in 0..30 {
        let here = make(folder.path(), &format!("level{level}"));
        for link in ["one", "other"] {
            symlink(format!("../level{}", level + 1), here.join(link)).unwrap();
        }
    }
    make(folder.path(), "level30");
    let error = found(&folder.path().join("level0")).unwrap_err();
    assert!(error.contains("more than 4096 folders"), "{error}");
    assert!(folders(&[folder.path().join("level0")]).len() <= 4096);
}

/// limit: suite-depth within, suite-depth breaks
#[test]
fn the_depth_of_folders_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let deepest = make(folder.path(), &["d"; 31].join("/"));
    File::create(deepest.join("case.yaml")).unwrap();
    assert_eq!(found(folder.path()), Ok(1));
    make(&deepest, "d");
    assert!(found(folder.path()).unwrap_err().contains("nested deeper than 32"));
}

/// limit: suite-files within, suite-files breaks
#[test]
fn the_number_of_files_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0.json");
    File::create(&first).unwrap();
    (1..32_768)
        .for_each(|number| fs::hard_link(&first, folder.path().join(format!("{number}.json"))).unwrap());
    assert_eq!(found(folder.path()), Ok(32_768));
    fs::hard_link(&first, folder.path().join("surplus")).unwrap();
    assert!(found(folder.path()).unwrap_err().contains("more than 32768 files"));
}

/// limit: fixture within, fixture breaks
#[test]
fn the_size_of_a_fixture_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = json!({
        "apiVersion": host::review::API_VERSION, "kind": "ImageReview",
        "spec": {}, "status": { "allowed": true },
    });
    for (name, read) in [("case.json", true), ("case.yaml", true), ("surplus.yaml", false)] {
        let path = folder.path().join(name);
        let bytes = (1 << 20) + usize::from(!read);
        let mut text = fixture.to_string();
        text.push_str(&" ".repeat(bytes - text.len()));
        fs::write(&path, text).unwrap();
        match Case::read(&path, &Default::default()) {
            Ok(_) => assert!(read),
            Err(error) => {
                assert!(
                    !read && error.to_string().contains("has 1048577 bytes, the limit is 1048576"),
                    "{error}"
                )
            }
        }
    }
}

/// The host continues to serve, changes that need no gate come into force, and the place is reported before
/// any change.
#[test]
fn a_circle_in_the_gates_suites_is_told_at_once_and_is_over_when_it_is_mended() {
    let installation = Installation::with_a();
    make(&installation.path("policies").join(".."), "suites");
    for link in ["x", "y"] {
        symlink(".", installation.path("suites").join(link)).unwrap();
    }
    let case = json!({
        "apiVersion": host::review::API_VERSION, "kind": "ImageReview",
        "spec": {}, "status": { "allowed": true },
    });
    fs::write(installation.path("suites/case.json"), case.to_string()).unwrap();
    installation.host_yaml("policyDirectory: policies\ngate: { suites: [suites] }\nstateDirectory: state");
    let mut started = installation.start();
    let told = |problems: Vec<String>| {
        problems.iter().any(|problem| {
            problem.starts_with("gate: ") && problem.contains("this symbolic link leads back to")
        })
    };
    assert!(told(installation.problems(&started)), "{:?}", installation.problems(&started));

    installation.policy("b", &version("version1"));
    started.reloader.reload();
    assert!(told(installation.problems(&started)));
    for link in ["x", "y"] {
        fs::remove_file(installation.path("suites").join(link)).unwrap();
    }
    started.reloader.reload();
    assert!(!told(installation.problems(&started)), "{:?}", installation.problems(&started));
}
