//! Verbs that end by Ctrl-C, and their line of progress on a terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::support::{process::HOST, project, wat_policy};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a component that takes many seconds to compile.
fn slow(folder: &Path) {
    let component = wat_policy(&project("tests/hostile/deep-blocks.wat")).unwrap();
    fs::write(folder.join("slow.wasm"), component).unwrap();
}

/// Returns `host` with folders of its own for the cache and temporary files.
fn host(folder: &Path) -> Command {
    for name in ["temporary", "cache"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let mut command = Command::new(HOST);
    command.current_dir(folder).env("TMPDIR", folder.join("temporary"));
    command.env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the fields of a process after its name, from its state on (proc_pid_stat(5)).
fn stat(process: &str) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn children(parent: u32) -> Vec<String> {
    let processes = names(Path::new("/proc")).into_iter();
    processes.filter(|process| stat(process).is_some_and(|stat| stat[1] == parent.to_string())).collect()
}

fn runs(process: &str) -> bool {
    stat(process).is_some_and(|stat| stat[0] != "Z")
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a verb, and returns once its child compiles.
fn compiling(command: &mut Command) -> (Child, Vec<String>) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_until("a child that compiles", || !children(child.id()).is_empty());
    let compilers = children(child.id());
    (child, compilers)
}

/// `kill` reaches the verb alone, Ctrl-C its whole group.
#[test]
fn an_interrupted_verb_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    slow(folder.path());
    fs::write(folder.path().join("host.yaml"), "policies: [{ name: slow, module: slow.wasm }]").unwrap();
    let case = "{ apiVersion: imagepolicy.k8s.io/v1alpha1, kind: ImageReview, \
            spec: { containers: [{ image: nginx }] }, status: { allowed: true } }";
    fs::write(folder.path().join("case.yaml"), case).unwrap();
    let verbs: [&[&str]; 4] = [
        &["bench", "slow.wasm"],
        &["inspect", "slow.wasm"],
        &["review", "--policy", "slow.wasm", "nginx"],
        &["test"],
    ];
    for arguments in verbs {
        for (signal, is_for_group) in
            [(Signal::INT, true), (Signal::INT, false), (Signal::TERM, false), (Signal::HUP, true)]
        {
            let what = format!("{arguments:?}, {signal:?}, group {is_for_group}");
            let (child, compilers) = compiling(host(folder.path()).args(arguments));
            let started = Instant::now();
            let process = Pid::from_child(&child);
            match is_for_group {
                true => kill_process_group(process, signal).unwrap(),
                false => kill_process(process, signal).unwrap(),
            }
            let output = child.wait_with_output().unwrap();
            assert!(started.elapsed() < Duration::from_secs(20), "{what}: {:?}", started.elapsed());
            assert_eq!(output.status.signal(), Some(signal.as_raw()), "{what}: {:?}", output.status);
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
            assert_eq!(said, ["", ""], "{what}");
            wait_until("the end of the child", || !compilers.iter().any(|process| runs(process)));
            assert_eq!(names(&folder.path().join("temporary")), [""; 0], "{what}");
        }
    }
}

/// As for a job that a script starts in the background, or by `nohup`.
#[test]
fn an_ignored_signal_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    slow(folder.path());
    let mut shell = Command::new("sh");
    let script = format!("trap '' INT HUP; exec '{HOST}' bench slow.wasm");
    shell.args(["-c", &script]).current_dir(folder.path()).env("TMPDIR", folder.path());
    // In the user's cache folder the code of a verb that outlives this test would keep all later ones from
    // compiling.
    shell.env("XDG_CACHE_HOME", folder.path());
    let (mut child, compilers) = compiling(&mut shell);
    for signal in [Signal::INT, Signal::HUP] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    wait_until("the end of the child", || !compilers.iter().any(|process| runs(process)));
}

/// Starts a command line on a terminal of its own. Returns the parts of the output as they come.
fn on_a_terminal(folder: &Path, line: &str) -> (Child, Receiver<String>) {
    host(folder);
    let mut terminal = Command::new("script")
        .args(["-qec", line, "/dev/null"])
        .current_dir(folder)
        .env("TERM", "xterm")
        .env("TMPDIR", folder.join("temporary"))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("script (of util-linux): {error}"));
    let (sender, parts) = channel();
    let mut stdout = terminal.stdout.take().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut bytes) {
            if sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    (terminal, parts)
}

/// The shell of the terminal sees status 130.
#[test]
fn a_terminal_shows_progress_and_ends_the_verb_by_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    slow(folder.path());
    let line = format!("exec '{HOST}' review --policy slow.wasm nginx");
    let (mut terminal, parts) = on_a_terminal(folder.path(), &line);
    let mut shown = String::new();
    let mut wait_for = |text: &str| {
        while !shown.contains(text) {
            let part = parts.recv_timeout(PATIENCE);
            shown += &part.unwrap_or_else(|error| panic!("no {text:?} in {shown:?}: {error}"));
        }
    };
    wait_for("compiling slow…");
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(130));
    shown.extend(parts.iter());
    assert!(shown.starts_with("compiling slow…"), "{shown:?}");
    assert!(shown.contains("\r\x1b[K"), "{shown:?}");
    assert!(!shown.contains("host: "), "{shown:?}");
    assert_eq!(names(&folder.path().join("temporary")), [""; 0]);
}

/// A case of a policy that never returns lasts three deadlines.
#[test]
fn a_terminal_shows_that_cases_are_judged_and_a_pipe_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let component = wat_policy(&project("tests/hostile/loop-in-evaluate.wat")).unwrap();
    fs::write(folder.path().join("loop.wasm"), component).unwrap();
    let suite = "{ apiVersion: image-policy-host/v1alpha1, kind: Suite, \
            policies: [{ name: loop, module: loop.wasm, limits: { deadline: 800ms } }], cases: [\
            { name: one, images: { nginx: { malfunction: deadline } } },\
            { name: other, images: { nginx: { malfunction: deadline } } }] }";
    fs::write(folder.path().join("suite.yaml"), suite).unwrap();
    let results = ["TAP version 14", "ok 1 - suite.yaml › one", "ok 2 - suite.yaml › other", "1..2"];

    let (mut terminal, parts) =
        on_a_terminal(folder.path(), &format!("exec '{HOST}' test -j 1 --format tap"));
    let shown: String = parts.iter().collect();
    assert_eq!(terminal.wait().unwrap().code(), Some(0), "{shown:?}");
    let judging = shown.matches("judging 2 cases…").count();
    assert!(judging > 0, "{shown:?}");
    // The line of progress is erased before each result.
    let lines = shown.replace("judging 2 cases…\r\x1b[K", "");
    let lines: Vec<&str> = lines.lines().map(|line| line.rsplit("\x1b[K").next().unwrap()).collect();
    assert_eq!(lines, results, "{shown:?}");

    let output = host(folder.path()).args(["test", "-j", "1", "--format", "tap"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), results);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
