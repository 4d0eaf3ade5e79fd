//! The control socket, and the verbs that use a running host.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Protocol, get};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, version};

/// Starts the program with a policy `a` of `version1`.
fn serving() -> (Installation, Process) {
    let installation = Installation::bare(json!({
        "stateDirectory": "state", "policyDirectory": "more", "unjudged": "Deny",
    }));
    std::fs::create_dir(installation.path("more")).unwrap();
    installation.replace("more/a.wasm", &version("version1"));
    let mut process = installation.start();
    process.addresses();
    (installation, process)
}

/// Runs `host ARGUMENTS` in the installation's folder. Returns the exit status and the output.
pub(crate) fn host(installation: &Installation, arguments: &str) -> (i32, String) {
    let output =
        Command::new(HOST).args(arguments.split(' ')).current_dir(installation.path(".")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

pub(crate) fn status(installation: &Installation) -> Value {
    let (_, said) = host(installation, "status --config host.yaml --json");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Waits until the generation of this number is in force.
fn until_generation(installation: &Installation, number: u64) {
    let begun = Instant::now();
    while status(installation)["generation"]["number"] != number {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", status(installation));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_swap_is_seen_put_back_and_released() {
    let (installation, mut process) = serving();
    let (code, said) = host(&installation, "status");
    assert_eq!(code, 0, "{said}");
    let expected = ["generation 1-", " in force since 2", " (start)\n  a: ok\n", "\ngenerations\n      1-"];
    assert!(expected.iter().all(|part| said.contains(part)), "{said}");

    installation.replace("more/a.wasm", &version("version2"));
    until_generation(&installation, 2);
    let (code, said) = host(&installation, "rollback --config host.yaml");
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("generation 3-"), "{said}");
    assert!(said.contains("what generation 1 was made of is in force again"), "{said}");
    let now = status(&installation);
    assert_eq!(now["generation"]["cause"], json!({ "kind": "rolledBack", "to": 1 }));
    assert_eq!((&now["generation"]["pinned"], &now["degraded"]), (&json!(true), &json!(true)));

    let (code, said) = host(&installation, "status --state state");
    assert_eq!(code, 1, "{said}");
    for part in [
        "(rolled back to generation 1)\n  pinned until `host rollback --release`\n",
        " waits for `host rollback --release` since ",
        ": a rollback is in force\n  changes: a (component)\n",
        "\nnot as configured\n  rollback: it stays in force",
        "  files changed: a (component)\n",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    let (code, said) = host(&installation, "approve 0123456789ab --state state");
    assert!(code == 1 && said.contains("`host rollback --release` puts it in force"), "{said}");

    // host.yaml may be broken just when a rollback is needed.
    installation.write("host.yaml", b"policies: [");
    let (code, said) = host(&installation, "rollback --to 2");
    assert!(code == 2 && said.contains("--state DIR names"), "{said}");
    let (code, said) = host(&installation, "rollback --to 2 --state state --format json");
    assert_eq!(code, 0, "{said}");
    let done: Value = serde_json::from_str(&said).unwrap();
    assert!(done["generation"].as_str().unwrap().starts_with("4-"), "{said}");
    let (code, said) = host(&installation, "rollback --release --state state");
    assert!(code == 0 && said.starts_with("generation 4-"), "{said}");
    let (code, said) = host(&installation, "rollback --release --state state");
    assert!(code == 1 && said.contains("no rollback is in force"), "{said}");

    process.signal(rustix::process::Signal::TERM);
    process.end();
    let (code, said) = host(&installation, "status --state state");
    assert!(code == 2 && said.contains("no host serves with the state directory state"), "{said}");
}

#[test]
fn a_second_host_does_not_start() {
    let (installation, first) = serving();
    let (status, said) = installation.start().end();
    assert_eq!(status.code(), Some(2), "{said}");
    let expected = format!("another host serves with this state directory (process {})", first.id());
    assert!(said.contains(&expected), "{said}");
    assert_eq!(host(&installation, "status").0, 0, "the first one is as before");
}

#[test]
fn without_a_state_directory_there_is_no_socket() {
    let installation = Installation::bare(json!({}));
    let (code, said) = host(&installation, "status");
    assert!(code == 2 && said.contains("a host without `stateDirectory` has no control socket"), "{said}");
    let (code, said) = host(&installation, "status --state nowhere");
    assert!(code == 2 && said.contains("the state directory nowhere: No such file"), "{said}");
}

fn connect(installation: &Installation) -> UnixStream {
    UnixStream::connect(installation.path("state/control.sock")).unwrap()
}

/// Sends these bytes and returns the whole reply.
fn answer(mut stream: UnixStream, request: &[u8]) -> String {
    // The host may have closed the socket already.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// limit: control-request within, control-request breaks, control-connections within
/// limit: control-connections breaks, control-time within, control-time breaks
#[test]
fn the_socket_is_limited() {
    let (installation, _process) = serving();
    let mode = std::fs::metadata(installation.path("state/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let release = |digest: usize| format!("{{\"verb\":\"approve\",\"digest\":\"{}\"}}\n", "x".repeat(digest));
    assert_eq!(
        answer(connect(&installation), release(4000).as_bytes()),
        "{\"refused\":\"no candidate is held\"}\n"
    );
    let large = answer(connect(&installation), release(4096).as_bytes());
    assert_eq!(large, "{\"refused\":\"the request has more than 4096 bytes\"}\n");
    for (request, why) in
        [("nothing\n", "none that this version knows"), ("{\"verb\":\"stop\"}\n", "unknown variant")]
    {
        let answer = answer(connect(&installation), request.as_bytes());
        assert!(answer.starts_with("{\"refused\":") && answer.contains(why), "{answer}");
    }

    // A silent client is disconnected after a time; until then connections are limited.
    let begun = Instant::now();
    let silent: Vec<_> = (0..8).map(|_| connect(&installation)).collect();
    let full = "8 requests are under way on this host's control socket: ask again in a moment";
    assert_eq!(answer(connect(&installation), b""), format!("{{\"refused\":\"{full}\"}}\n"));
    assert_eq!(host(&installation, "status"), (2, format!("host: {full}\n")));
    assert_eq!(host(&installation, "rollback"), (1, format!("host: {full}\n")));
    assert!(begun.elapsed() < Duration::from_secs(4), "one too many is told at once");
    for stream in silent {
        assert!(answer(stream, b"").contains("timed out"), "{:?}", begun.elapsed());
    }
    assert!(begun.elapsed() > Duration::from_secs(4));
    assert_eq!(host(&installation, "status").0, 0);
}

/// The status shows a drain until the last review under way is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_drains_says_so() {
    let installation = Installation::never_ending("8s", json!({ "stateDirectory": "state" }));
    let mut process = installation.start();
    let (webhook, admin) = process.addresses();
    assert!(!host(&installation, "status").1.contains("draining"));
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    let asked = tokio::spawn(async move { connection.review("nginx").await });
    process.signal(rustix::process::Signal::TERM);
    process.wait_for("SIGTERM: finishing the reviews under way");
    let (_, said) = host(&installation, "status");
    let draining = "the host accepts no new connections, and exits after the pending responses";
    assert!(said.contains(&format!("\n  draining: {draining}\n")), "{said}");
    let expected = format!("[-]shutdown failed: {draining}\n");
    let (status, ready) = get(admin, "/readyz").await.unwrap();
    assert!(status == 500 && ready.starts_with(&expected), "{ready}");
    assert_eq!(get(admin, "/livez").await.unwrap().0, 200);
    assert_eq!(asked.await.unwrap().unwrap().status, 200);
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn where_a_killed_host_made_its_socket_is_removed() {
    let (installation, process) = serving();
    drop(process);
    let left = installation.path("state/.control.sock");
    std::fs::write(&left, "").unwrap();
    let mut process = installation.start();
    process.addresses();
    assert!(!left.exists());
    assert_eq!(host(&installation, "status").0, 0);
}

/// A state directory may have a path of any length. The path of a socket is limited to 107 bytes.
#[test]
fn a_state_directory_may_have_a_long_path() {
    let folder = format!("{}/state", "long-name".repeat(20));
    let installation = Installation::bare(json!({ "stateDirectory": folder }));
    let mut process = installation.start();
    process.addresses();
    assert_eq!(host(&installation, "status").0, 0);
    assert!(Path::new(&installation.path(&folder)).join("control.sock").exists());
}

#[test]
fn a_state_directory_that_goes_under_a_host_is_told() {
    let (installation, _process) = serving();
    assert_eq!(status(&installation)["degraded"], false);
    std::fs::remove_file(installation.path("state/lock")).unwrap();
    installation.replace("more/a.wasm", &version("version2"));
    let begun = Instant::now();
    let problem = loop {
        let problem = status(&installation)["problems"][0].clone();
        if problem["subject"] == "state directory" {
            break problem;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{problem}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("another host can use it at the same time"), "{message}");
    assert!(message.contains("restart the host"), "{message}");
}

#[test]
fn a_host_without_its_socket_is_not_taken_for_none() {
    let (installation, process) = serving();
    std::fs::remove_file(installation.path("state/control.sock")).unwrap();
    let (code, said) = host(&installation, "status --config host.yaml");
    assert_ne!(code, 0, "{said}");
    let process = format!("(process {}) serves, but there is no control socket", process.id());
    assert!(said.contains(&process), "{said}");
}

/// A host that cannot use its state directory serves without a control socket. Its status comes from the
/// admin listener.
#[test]
fn a_host_that_cannot_use_its_state_directory_is_not_taken_for_none() {
    let installation = Installation::bare(json!({ "stateDirectory": "state" }));
    let state = installation.path("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = host(&installation, "status");
    assert!(
        code == 2 && said.contains("no host serves with the state directory state, and none can: "),
        "{said}"
    );
    assert!(said.contains("use `chmod 0700 state`"), "{said}");

    let mut process = installation.start();
    let (_, admin) = process.addresses();
    // The port was chosen by the system.
    let text = std::fs::read(installation.path("host.yaml")).unwrap();
    let mut asked: Value = serde_json::from_slice(&text).unwrap();
    asked["admin"]["listen"] = json!(admin);
    installation.write("asked.yaml", asked.to_string().as_bytes());
    for mode in [0o777, 0o700] {
        // The folder may be mended while the host still serves without it.
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).unwrap();
        let (code, said) = host(&installation, "status --config asked.yaml");
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("state: the state directory cannot be used"), "{said}");
        let (code, said) = host(&installation, "rollback --config asked.yaml");
        assert_eq!(code, 2, "{said}");
        let expected = format!("the host that serves at {admin} has no control socket, because ");
        assert!(said.contains(&expected) && said.contains("(mend it, restart"), "{said}");
    }
    drop(process);
    let (code, said) = host(&installation, "status --config asked.yaml");
    assert!(code == 2 && said.contains("no host serves with the state directory state: start it"), "{said}");
}

/// Opening a named pipe waits for a writer, and none may ever come.
#[test]
fn a_named_pipe_in_the_place_of_the_state_directory_blocks_no_verb() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("state");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    for verb in [&["status"][..], &["rollback", "--to", "1"]] {
        let output =
            Command::new("timeout").args(["10", HOST]).args(verb).arg("--state").arg(&pipe).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{verb:?}: {said}");
        assert!(said.contains("state"), "{verb:?}: {said}");
    }
}
