//! The watcher: changes of files are noticed without a request, and half a file is not loaded.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::config::Unjudged;
use host::fs::Fingerprint;
use host::policy::PolicyReader;
use host::problem::Problem;
use host::reload::Started;
use host::reload::watch::{Change, Changes, FileStates, Wanted, Watcher};

use crate::config::settings_files::says;
use crate::reload::candidate::{Installation, problems, said};
use crate::support::process::{HOST, Process};
use crate::support::version;

/// Time limit of a reaction, less than the interval at which the watcher states without an event.
const SOON: Duration = Duration::from_secs(9);

pub(crate) fn soon(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not {what} after {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{what} after {:?}", begun.elapsed());
}

/// Runs `act` while a watcher follows the files.
pub(crate) fn watched(started: Started, act: impl FnOnce(&PolicyReader, &dyn Fn() -> Vec<Problem>)) {
    let Started { reloader, policies, status, .. } = started;
    let (watcher, stop) = Watcher::new();
    let following = std::thread::spawn(move || reloader.run(watcher));
    act(&policies, &|| problems(&status));
    drop(stop);
    following.join().unwrap();
}

/// Runs a script in a folder.
fn sh(folder: &Path, script: &str) {
    let status = Command::new("sh").arg("-euc").arg(script).current_dir(folder).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

#[test]
fn a_watcher_follows_files_and_folders() {
    let installation = Installation::with_a();
    let folder = installation.path("policies");
    watched(installation.start(), |policies, problems| {
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

        fs::rename(&folder, installation.path("old")).unwrap();
        soon("a folder moved away", || !problems().is_empty());
        fs::rename(installation.path("old"), &folder).unwrap();
        soon("a folder moved back", || problems().is_empty());
        installation.policy("a", &version("version6"));
        soon("a file in the folder that was moved", || says(&["a: version6"]));
    });
}

/// Writes files of a Kubernetes volume as the kubelet does: links through `..data`, which a rename swaps.
pub(crate) fn publish(volume: &Path, number: usize, files: &[(&str, &[u8])]) {
    let folder = volume.join(format!("..{number}"));
    fs::create_dir(&folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
    let before = fs::read_link(volume.join("..data"));
    symlink(format!("..{number}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for (name, _) in files {
        // Existing links stay.
        let _ = symlink(format!("..data/{name}"), volume.join(name));
    }
    if let Ok(before) = before {
        fs::remove_dir_all(volume.join(before)).unwrap();
    }
}

/// Nothing about a folder in the place of a component changes, so no event ends its first second.
#[test]
fn a_folder_in_the_place_of_a_component_is_reported() {
    let installation = Installation::with_a();
    let folder = installation.path("policies/new.wasm");
    watched(installation.start(), |policies, problems| {
        fs::create_dir(&folder).unwrap();
        let named = || problems().iter().any(|problem| problem.to_string().starts_with("policy new: "));
        soon("a folder with the name of a component", named);
        fs::remove_dir(&folder).unwrap();
        soon("the folder removed", || problems().is_empty());
        installation.policy("a", &version("version2"));
        soon("a replaced file", || said(policies) == ["a: version2"]);
    });
}

#[test]
fn a_watcher_follows_kubernetes_volumes() {
    let installation = Installation::new("policyDirectory: policies");
    let (policies, tls) = (installation.path("policies"), installation.path("tls"));
    fs::create_dir(&tls).unwrap();
    let certificates = |number| {
        let pki = host::install::certificates::make().unwrap();
        let files = [
            ("cert.pem", pki.server.certificate.as_bytes()),
            ("key.pem", pki.server.key.as_bytes()),
            ("ca.pem", pki.authority.as_bytes()),
        ];
        publish(&tls, number, &files);
    };
    certificates(0);
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        fs::remove_file(installation.path(name)).unwrap();
        symlink(tls.join(name), installation.path(name)).unwrap();
    }
    publish(&policies, 0, &[("a.wasm", &version("version0"))]);
    let started = installation.start();
    let certificate = started.tls.clone();
    watched(started, |set, problems| {
        assert_eq!(said(set), ["a: version0"]);
        for number in 1..=3 {
            publish(&policies, number, &[("a.wasm", &version(&format!("version{number}")))]);
            soon("a swapped volume of policies", || said(set) == [format!("a: version{number}")]);
            let before = certificate.current();
            certificates(number);
            soon("a swapped volume of certificates", || !Arc::ptr_eq(&before, &certificate.current()));
        }
        publish(&policies, 4, &[("a.wasm", &version("version4")), ("b.wasm", &version("version4"))]);
        soon("a new file in the volume", || said(set) == ["a: version4", "b: version4"]);
        assert_eq!(problems().len(), 0);
    });
}

#[test]
fn a_watcher_follows_symbolic_links() {
    let installation = Installation::with_a();
    let elsewhere = tempfile::tempdir().unwrap();
    for number in 1..=3 {
        let folder = elsewhere.path().join(format!("release{number}/policies"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.wasm"), version(&format!("release{number}").replace("release", "version")))
            .unwrap();
    }
    let current = elsewhere.path().join("current");
    let point = |to: &str| {
        symlink(to, elsewhere.path().join("next")).unwrap();
        fs::rename(elsewhere.path().join("next"), &current).unwrap();
    };
    point("release1");
    let file = installation.path("policies/a.wasm");
    fs::remove_file(&file).unwrap();
    symlink(current.join("policies/a.wasm"), &file).unwrap();
    watched(installation.start(), |policies, _| {
        let says = |expected: &str| said(policies) == [format!("a: {expected}")];
        assert!(says("version1"));
        point("release2");
        soon("a link in the middle of a path that leads elsewhere", || says("version2"));
        let target = elsewhere.path().join("release2/policies");
        fs::write(target.join("new"), version("version4")).unwrap();
        fs::rename(target.join("new"), target.join("a.wasm")).unwrap();
        soon("a file in the folder that a link leads to", || says("version4"));
        fs::rename(elsewhere.path().join("release2"), elsewhere.path().join("old")).unwrap();
        fs::rename(elsewhere.path().join("release3"), elsewhere.path().join("release2")).unwrap();
        soon("a folder above it that is another", || says("version3"));
        fs::remove_file(&file).unwrap();
        symlink(elsewhere.path().join("old/policies/a.wasm"), &file).unwrap();
        soon("a link that leads somewhere else", || says("version4"));
    });
}

/// Ways in which programs change the file `a.wasm` into `new`.
const HABITS: [(&str, &str); 9] = [
    ("mv", "cp new .part; mv .part a.wasm"),
    ("cp", "cp new a.wasm"),
    ("cp, having removed it", "cp --remove-destination new a.wasm"),
    ("install", "install -m 644 new a.wasm"),
    ("a hard link", "ln -f new a.wasm"),
    ("dd, in small pieces", "dd if=new of=a.wasm bs=100 status=none"),
    ("an editor that keeps what was", "mv a.wasm a.wasm~; cat new > a.wasm; rm a.wasm~"),
    ("an editor that tries the folder first", "touch 4913; rm 4913; cat new > a.wasm"),
    ("tar", "mkdir -p .t; cp new .t/a.wasm; tar -C .t -cf .t.tar a.wasm; tar -xf .t.tar"),
];

#[test]
fn a_watcher_follows_what_programs_do() {
    let installation = Installation::with_a();
    let folder = installation.path("policies");
    watched(installation.start(), |policies, problems| {
        for (number, (what, script)) in HABITS.into_iter().enumerate() {
            // A link to it would be the same file.
            let _ = fs::remove_file(folder.join("new"));
            let reason = format!("program{number}");
            fs::write(folder.join("new"), version(&reason)).unwrap();
            sh(&folder, script);
            soon(what, || said(policies) == [format!("a: {reason}")]);
            soon("nothing wrong", || problems().is_empty());
        }
    });
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    let installation = Installation::with_a();
    let folder = installation.path("policies");
    watched(installation.start(), |policies, problems| {
        let settled = || assert_eq!(problems().len(), 0, "{:?}", problems());
        // Half of a policy file, and half of a host.yaml that is valid without its other half.
        let (new, yaml) = (version("version2"), installation.path("host.yaml"));
        let (first, rest) = new.split_at(new.len() / 2);
        // Time enough for the host to have followed a change.
        let wait = || std::thread::sleep(Duration::from_millis(500));
        let mut file = fs::File::create(folder.join("a.wasm")).unwrap();
        file.write_all(first).unwrap();
        installation.policy("b", &version("version1"));
        wait();
        assert_eq!(said(policies), ["a: version1"], "the change is not whole");
        settled();
        let mut another = fs::File::create(folder.join("c.wasm")).unwrap();
        another.write_all(first).unwrap();
        installation.policy("b", &version("version2"));
        file.write_all(rest).unwrap();
        drop(file);
        wait();
        assert_eq!(said(policies), ["a: version1"], "a new file is not whole");
        settled();
        another.write_all(rest).unwrap();
        drop(another);
        soon("files that are whole", || said(policies) == ["a: version2", "b: version2", "c: version2"]);

        let whole = fs::read_to_string(&yaml).unwrap();
        let mut file = fs::File::create(&yaml).unwrap();
        file.write_all(format!("{whole}\nunjudged: Allow\n").as_bytes()).unwrap();
        installation.policy("b", &version("version3"));
        wait();
        assert_eq!(policies.current().rules.unjudged, Unjudged::Deny);
        file.write_all(b"exempt: { namespaces: [kube-system] }\n").unwrap();
        drop(file);
        soon("a host.yaml that is whole", || !policies.current().rules.exempt_namespaces.is_empty());
        soon("what has waited for it", || said(policies)[1] == "b: version3");
        settled();

        // A file that stays broken is reported.
        fs::write(folder.join("a.wasm"), first).unwrap();
        soon("half a file that stays so", || problems().len() == 1);
        assert_eq!(said(policies)[0], "a: version2");
    });
}

#[test]
fn a_file_that_is_written_during_its_read_is_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let (file, part) = (folder.path().join("a"), folder.path().join("part"));
    let wanted = Wanted { files: [file.clone()].into(), ..Wanted::default() };
    let (mut watcher, _stop) = Watcher::new();
    let mut is_complete = |during: &dyn Fn()| {
        watcher.watch(&wanted);
        watcher.read_complete(&[&file], during).is_some()
    };
    for _ in 0..100 {
        assert!(!is_complete(&|| fs::write(&file, "new").unwrap()), "the writer has closed the file");
        // An event of an earlier write may arrive during a read, which is then repeated.
        assert!((0..1000).any(|_| is_complete(&|| drop(fs::read(&file).unwrap()))));
        // A reader has either of two complete files.
        let replace = || {
            fs::write(&part, "newer").unwrap();
            fs::rename(&part, &file).unwrap();
        };
        assert!((0..1000).any(|_| is_complete(&replace)));
        let mut writer = fs::File::create(&file).unwrap();
        writer.write_all(b"new").unwrap();
        assert!(!is_complete(&|| panic!("a file that is open for writing is read")));
        drop(writer);
        assert!((0..1000).any(|_| is_complete(&|| {})));
    }
}

/// limit: reload-pause within, reload-pause breaks
#[test]
fn a_storm_of_changes_costs_few_loads() {
    const PAUSE: Duration = Duration::from_millis(100);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.wasm");
    let (mut watcher, stop) = Watcher::new();
    let wanted = Wanted { folders: [folder.path().to_owned()].into(), ..Wanted::default() };
    watcher.watch(&wanted);
    let (told, hints) = std::sync::mpsc::channel();
    let following = std::thread::spawn(move || {
        while watcher.wait(None) {
            told.send(Instant::now()).unwrap();
            watcher.watch(&wanted);
        }
    });
    let next = || hints.recv_timeout(SOON).unwrap();
    for quiet in [Duration::ZERO, Duration::from_millis(1)] {
        let begun = Instant::now();
        for number in 0..1000 {
            fs::write(folder.path().join(".new"), number.to_string()).unwrap();
            fs::rename(folder.path().join(".new"), &file).unwrap();
            std::thread::sleep(quiet);
        }
        let took = begun.elapsed();
        std::thread::sleep(3 * PAUSE);
        let mut given = vec![next()];
        given.extend(hints.try_iter());
        let most = took.as_millis() / PAUSE.as_millis() + 2;
        println!("1,000 changes in {took:?}: {} loads, at most {most}", given.len());
        assert!(given.len() as u128 <= most, "{} loads in {took:?}", given.len());
        for pair in given.windows(2) {
            assert!(pair[1] - pair[0] >= PAUSE - Duration::from_millis(20), "{:?}", pair[1] - pair[0]);
        }
    }
    // An irrelevant file is no change.
    fs::write(folder.path().join(".hidden"), "").unwrap();
    assert!(hints.recv_timeout(3 * PAUSE).is_err());
    fs::write(&file, "last").unwrap();
    next();
    drop(stop);
    following.join().unwrap();
}

#[test]
fn without_events_changes_are_found_all_the_same() {
    let installation = Installation::with_a();
    for (what, remedy) in
        [("instances", "fs.inotify.max_user_instances"), ("watches", "fs.inotify.max_user_watches")]
    {
        installation.policy("a", &version("version1"));
        // As root of a new user namespace, whose limit affects no other process.
        let script = format!(
            "echo 0 > /proc/sys/user/max_inotify_{what}; exec {HOST} serve --config {}",
            installation.path("host.yaml").display()
        );
        let mut process = Process::start(Command::new("unshare").args([
            "--user",
            "--map-root-user",
            "sh",
            "-euc",
            &script,
        ]));
        process.wait_for(&format!("sysctl {remedy}"));
        installation.policy("a", &version("version2"));
        process.wait_for("generation 2-");
    }
}

fn looks_like(bytes: &str) -> Option<Fingerprint> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, bytes).unwrap();
    Some(Fingerprint::from(&fs::metadata(&file).unwrap()))
}

#[test]
fn what_has_just_changed_is_fresh() {
    let (mut states, path, now) = (FileStates::default(), PathBuf::from("/a"), Instant::now());
    let second = Duration::from_secs(1);
    let (one, other) = (looks_like("one"), looks_like("other"));
    states.observe(path.clone(), one, true, true, now);
    assert_eq!(states.fresh_until(&path, one, now + second / 2), Some(now + second));
    assert_eq!(states.fresh_until(&path, one, now + second), None);
    assert_eq!(states.written_until(&path, &path, now), None);
    // The file changes, and is gone.
    assert_eq!(states.fresh_until(&path, other, now + second), Some(now + 2 * second));
    assert_eq!(states.fresh_until(&path, None, now + 2 * second), Some(now + 3 * second));
    states.observe(path.clone(), None, false, true, now + 3 * second);
    assert_eq!(states.paths(), [""; 0].map(PathBuf::from));
    assert_eq!(states.fresh_until(&path, None, now + 3 * second), None);
    // Without an event there is no sign that the file is complete.
    for (after, content, told) in [(4, one, false), (5, other, false)] {
        states.observe(path.clone(), content, true, told, now + after * second);
    }
    assert_eq!(states.written_until(&path, &path, now + 5 * second), Some(now + 6 * second));
    assert_eq!(states.written_until(&path, &path, now + 6 * second), None);
    // The event comes late.
    states.observe(path.clone(), one, true, false, now + 7 * second);
    assert!(states.written_until(&path, &path, now + 7 * second).is_some());
    states.closed(&path);
    assert_eq!(states.written_until(&path, &path, now + 7 * second), None);
}

/// limit: write-pause within, write-pause breaks, write-time within, write-time breaks
#[test]
fn whoever_writes_is_not_waited_for_for_ever() {
    let (mut states, file, begun) = (FileStates::default(), PathBuf::from("/a"), Instant::now());
    let is_written = |states: &FileStates, now| states.written_until(&file, &file, now).is_some();
    let after = |seconds| begun + Duration::from_secs(seconds);
    states.wrote(file.clone(), begun);
    assert!(is_written(&states, after(9)) && !is_written(&states, after(10)));
    for seconds in 1..=150 {
        states.wrote(file.clone(), after(seconds));
        assert_eq!(is_written(&states, after(seconds)), seconds < 120, "after {seconds} s");
    }
    states.closed(&file);
    states.wrote(file.clone(), after(200));
    assert!(is_written(&states, after(200)));
    // A file that changes all the time is taken as it is.
    let changed = [looks_like("one"), looks_like("other")];
    for half in 0..500 {
        let now = begun + half * Duration::from_millis(500);
        let fresh = states.fresh_until(&file, changed[half as usize % 2], now).is_some();
        assert_eq!(fresh, half < 240, "after {half} half seconds");
        assert_eq!(states.is_restless(&file, now), !fresh, "after {half} half seconds");
    }
}

/// limit: written-files within, written-files breaks
#[test]
fn as_many_files_are_waited_for_as_a_set_has_policies() {
    let (mut states, now) = (FileStates::default(), Instant::now());
    let file = |number: usize| PathBuf::from(format!("/{number}"));
    for number in 0..=10_000 {
        states.wrote(file(number), now);
    }
    let is_written = |number| states.written_until(&file(number), &file(number), now).is_some();
    assert!(is_written(9_999));
    assert!(!is_written(10_000));
}

/// limit: file-events within, file-events breaks
#[test]
fn as_many_changes_wait_as_the_system_keeps() {
    let mut changes = Changes::default();
    let change = |number: usize| (PathBuf::from(format!("/{number}")), Change::Written);
    for number in 0..16_384 {
        for _ in 0..2 {
            let (path, written) = change(number);
            changes.add(path, written);
        }
    }
    assert_eq!(changes.take(), (0..16_384).map(change).collect::<Vec<_>>());
    for number in 0..=16_384 {
        let (path, written) = change(number);
        changes.add(path, written);
    }
    assert_eq!(changes.take(), [(PathBuf::new(), Change::Lost)]);
}

#[test]
fn a_watcher_follows_settings_files() {
    let module = fs::canonicalize(crate::support::scripted()).unwrap();
    let entry =
        format!("policies:\n- {{ name: s, module: {}, settingsFrom: lists/lists.yaml }}", module.display());
    let installation = Installation::new(&entry);
    let lists = installation.path("lists");
    fs::create_dir(&lists).unwrap();
    let swap = |number, text: &str| publish(&lists, number, &[("lists.yaml", text.as_bytes())]);
    swap(0, &says("one"));
    watched(installation.start(), |set, problems| {
        assert_eq!(said(set), ["s: one"]);
        swap(1, &says("two"));
        soon("settings of a swapped volume", || said(set) == ["s: two"]);
        swap(2, "images: [");
        soon("a broken file that is reported", || problems().len() == 1);
        assert_eq!(said(set), ["s: two"]);
        swap(3, &says("three"));
        soon("settings that are mended", || said(set) == ["s: three"] && problems().is_empty());
    });
    fs::remove_dir_all(&lists).unwrap();
    fs::create_dir(&lists).unwrap();
    fs::write(lists.join("lists.yaml"), says("four")).unwrap();
    watched(installation.start(), |set, _| {
        fs::write(lists.join("lists.yaml"), says("five")).unwrap();
        soon("settings written in place", || said(set) == ["s: five"]);
    });
}
