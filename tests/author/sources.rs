//! Folders of sources: their language and the files that are watched. `cases/cli/build-folder*` build them.

use std::fs;
use std::path::Path;

use host::author::sources::{Language, Sources};

fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    folder
}

#[test]
fn the_language_follows_from_the_files() {
    let cases: [(&[&str], Option<Language>); 8] = [
        (&["Cargo.toml", "build.py", "x.c"], Some(Language::Rust)),
        (&["go.mod", "tool.py"], Some(Language::Go)),
        (&["package.json"], Some(Language::JavaScript)),
        (&["policy.js", "x.py"], Some(Language::JavaScript)),
        (&["app.py"], Some(Language::Python)),
        (&["policy.c", "policy.h"], Some(Language::C)),
        (&["notes.txt", "src/policy.c"], None),
        (&[], None),
    ];
    for (files, expected) in cases {
        let folder = folder(files);
        let found = Sources::of(folder.path());
        assert_eq!(found.as_ref().ok().map(Sources::language), expected, "{files:?}: {found:?}");
    }
}

#[test]
fn sources_are_watched_and_what_is_built_is_not() {
    let files = [
        "app.py",
        "lib/a.py",
        ".git/config",
        "target/policy.wasm",
        "__pycache__/app.pyc",
        "node_modules/x.js",
    ];
    let folder = folder(&files);
    let watched = Sources::of(folder.path()).unwrap().watched().unwrap();
    let within = |paths: &[std::path::PathBuf]| {
        let names = paths.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(within(&watched.files), [Path::new("app.py"), Path::new("lib/a.py")]);
    assert_eq!(within(&watched.folders), [Path::new(""), Path::new("lib")]);
}

/// limit: source-files within, source-files breaks
#[test]
fn sources_have_a_limit() {
    let folder = folder(&["app.py"]);
    let watched = || Sources::of(folder.path()).unwrap().watched();
    for number in 0..4000 {
        fs::write(folder.path().join(format!("{number}.txt")), "").unwrap();
    }
    assert_eq!(watched().unwrap().files.len(), 4001);
    for number in 4000..4096 {
        fs::write(folder.path().join(format!("{number}.txt")), "").unwrap();
    }
    let error = watched().unwrap_err().to_string();
    assert!(error.contains("more than 4096 files and folders"), "{error}");
}
