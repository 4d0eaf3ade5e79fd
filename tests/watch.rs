//! The watcher: what happens to files is seen without being asked for.

use std::fs;
use std::time::{Duration, Instant};

use host::config::Unjudged;
use host::policy::PolicyReader;
use host::reload::Started;
use host::watch::Watcher;

use crate::reload::{Installation, said};
use crate::support::version;

/// Less than the watcher takes to look without a hint.
const SOON: Duration = Duration::from_secs(9);

fn soon(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not {what} after {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{what} after {:?}", begun.elapsed());
}

/// Runs `act` while a watcher follows the files.
fn watched(started: Started, act: impl FnOnce(&PolicyReader)) {
    let Started { reloader, policies, .. } = started;
    let (watcher, stop) = Watcher::new();
    let following = std::thread::spawn(move || reloader.run(watcher));
    act(&policies);
    drop(stop);
    following.join().unwrap();
}

#[test]
fn a_watcher_follows_files_and_folders() {
    let installation = Installation::with_a();
    let folder = installation.path("policies");
    watched(installation.start(), |policies| {
        let says = |expected: &[&str]| said(policies) == expected;
        installation.policy("a", &version("version2"));
        soon("a replaced file", || says(&["a: version2"]));
        fs::write(folder.join("a.wasm"), version("version3")).unwrap();
        soon("a file written in place", || says(&["a: version3"]));
        installation.policy("b", &version("version1"));
        soon("a new file", || says(&["a: version3", "b: version1"]));
        fs::remove_file(folder.join("b.wasm")).unwrap();
        soon("a removed file", || says(&["a: version3"]));
        installation.host_yaml("policyDirectory: policies\nunjudged: Allow");
        soon("a changed host.yaml", || policies.current().rules.unjudged == Unjudged::Allow);

        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        installation.policy("a", &version("version4"));
        soon("a folder made anew", || says(&["a: version4"]));
        installation.policy("a", &version("version5"));
        soon("a file in the new folder", || says(&["a: version5"]));
    });
}

#[test]
fn a_watcher_follows_a_kubernetes_volume() {
    let installation = Installation::new("policyDirectory: policies");
    let volume = installation.path("policies");
    // As the kubelet does it: files are links through `..data`, which is swapped by a rename.
    let publish = |name: &str, component: &[u8]| {
        let folder = volume.join(format!("..{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.wasm"), component).unwrap();
        std::os::unix::fs::symlink(format!("..{name}"), volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    publish("first", &version("version1"));
    std::os::unix::fs::symlink("..data/a.wasm", volume.join("a.wasm")).unwrap();
    watched(installation.start(), |policies| {
        assert_eq!(said(policies), ["a: version1"]);
        publish("second", &version("version2"));
        fs::remove_dir_all(volume.join("..first")).unwrap();
        soon("a swapped volume", || said(policies) == ["a: version2"]);
    });
}
