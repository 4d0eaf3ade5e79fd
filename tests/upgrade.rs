//! An upgrade without a gap: a process takes the place of another under load, fails to, or is given its sockets by a service
//! manager.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::client::{BOTH, Client, Connection, Protocol};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, version};

/// A host with a state directory, of which one policy can be swapped.
fn installation() -> Installation {
    let installation = Installation::bare(json!({
        "stateDirectory": "state", "policyDirectory": "more", "unjudged": "Deny",
    }));
    std::fs::create_dir(installation.path("more")).unwrap();
    installation.replace("more/a.wasm", &version("version1"));
    installation
}

fn successor(installation: &Installation) -> Command {
    let mut command = Command::new(HOST);
    command.args(["serve", "--take-over", "--config"]).arg(installation.path("host.yaml"));
    command
}

/// Asks again and again, over a new connection wherever the host has let one go, until it is time to stop. Returns what
/// went wrong.
async fn ask(client: Client, address: SocketAddr, protocol: Protocol, load: Arc<Load>) -> Vec<String> {
    let mut failures = Vec::new();
    'connections: while !load.over.load(Ordering::Relaxed) {
        let mut connection = match client.connect(address, protocol).await {
            Ok(connection) => connection,
            Err(error) => {
                failures.push(format!("{protocol:?}, connecting: {error}"));
                continue;
            }
        };
        while !load.over.load(Ordering::Relaxed) {
            match connection.review("nginx").await {
                Ok(answer) if answer.status == 200 => {
                    load.answers.fetch_add(1, Ordering::Relaxed);
                    if answer.headers.get("connection").is_some_and(|value| value == "close") {
                        continue 'connections;
                    }
                }
                Ok(answer) => failures.push(format!("{protocol:?}: {answer:?}")),
                Err(error) if not_taken(&error) => continue 'connections,
                Err(error) => {
                    failures.push(format!("{protocol:?}: {error:?}"));
                    continue 'connections;
                }
            }
        }
    }
    failures
}

#[derive(Default)]
struct Load {
    over: AtomicBool,
    answers: AtomicUsize,
}

/// Whether the host has certainly not taken the request, so that Go's client asks again by itself: it was not sent, or
/// GOAWAY names an earlier stream as the last one.
fn not_taken(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    let told = cause.is_some_and(|cause| {
        cause.is_remote()
            && (cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR)
                || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    });
    told || error.is_canceled() || error.is_closed()
}

/// A kept connection that has been used.
async fn kept(client: &Client, address: SocketAddr, protocol: Protocol) -> Connection {
    let mut connection = client.connect(address, protocol).await.unwrap();
    assert_eq!(connection.review("nginx").await.unwrap().status, 200);
    connection
}

/// Under load over both protocols, with idle connections that are asked after each upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_upgrades_lose_nothing() {
    let installation = installation();
    let mut process = installation.start();
    let (address, admin) = process.addresses();
    let client = installation.client();
    let (load, mut asking) = (Arc::new(Load::default()), JoinSet::new());
    for protocol in [BOTH, BOTH, BOTH].concat() {
        asking.spawn(ask(client.clone(), address, protocol, Arc::clone(&load)));
    }
    for number in 0..20 {
        let mut idle1 = kept(&client, address, Protocol::Http1).await;
        let mut idle2 = kept(&client, address, Protocol::Http2).await;
        let mut newer = Process::start(&mut successor(&installation));
        assert_eq!(newer.addresses(), (address, admin), "upgrade {number}");
        let before = load.answers.load(Ordering::Relaxed);
        // A client of HTTP/2 has been told; one of HTTP/1.1 cannot be, and must be answered.
        idle2.closed().await;
        let answer =
            idle1.review("nginx").await.unwrap_or_else(|error| panic!("upgrade {number}: {error:?}"));
        assert_eq!((answer.status.as_u16(), &answer.headers["connection"]), (200, &"close".parse().unwrap()));
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "upgrade {number}: {said}");
        assert!(said.contains("stopped: every review under way was answered"), "{said}");
        process = newer;
        while load.answers.load(Ordering::Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    load.over.store(true, Ordering::Relaxed);
    let failures: Vec<_> = asking.join_all().await.concat();
    assert!(
        failures.is_empty(),
        "{} of {}: {failures:#?}",
        failures.len(),
        load.answers.load(Ordering::Relaxed)
    );
    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Connections that are left with the old process are judged by what the new one puts in force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_left_behind_sees_later_generations() {
    let installation = installation();
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let mut idle = kept(&installation.client(), address, Protocol::Http1).await;
    let mut newer = Process::start(&mut successor(&installation));
    newer.addresses();
    installation.replace("more/a.wasm", &version("version2"));
    newer.wait_for("generation 2-");
    process.wait_for("as in the process that has taken over");
    let answer = idle.review("nginx").await.unwrap().json();
    let generation = answer["status"]["auditAnnotations"]["generation"].as_str().unwrap();
    assert!(generation.starts_with("2-"), "{answer}");
    assert_eq!(process.end().0.code(), Some(0));
}

/// Whoever was to take over and cannot, or is killed, leaves all as it was.
///
/// bound: take-over-time within
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_that_fails_changes_nothing() {
    let installation = installation();
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let mut connection = kept(&installation.client(), address, Protocol::Http1).await;

    // It would serve the same, without certificates.
    let host_yaml = std::fs::read_to_string(installation.path("host.yaml")).unwrap();
    installation.write("broken.yaml", host_yaml.replace("external-key.pem", "missing.pem").as_bytes());
    let mut broken = Command::new(HOST);
    broken.args(["serve", "--take-over", "--config"]).arg(installation.path("broken.yaml"));
    let (status, said) = Process::start(&mut broken).end();
    assert_eq!(status.code(), Some(2), "{said}");
    process.wait_for("this one goes on");

    let mut killed = asks_to_take_over(&installation);
    // Sockets and lock are with it now.
    is_given(&mut killed);
    drop(killed);
    process.wait_for("this one goes on");

    // Without being asked to, nobody takes over.
    let (status, said) = installation.start().end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("another host serves with this state directory") && said.contains("--take-over"),
        "{said}"
    );

    // Files are followed, connections kept, and taking over works.
    installation.replace("more/a.wasm", &version("version2"));
    process.wait_for("generation 2-");
    let answer = connection.review("nginx").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.headers.get("connection")), (200, None));
    let mut newer = Process::start(&mut successor(&installation));
    newer.addresses();
    assert_eq!(connection.review("nginx").await.unwrap().status, 200);
    assert_eq!(process.end().0.code(), Some(0));
}

fn asks_to_take_over(installation: &Installation) -> UnixStream {
    let mut stream = UnixStream::connect(installation.path("state/control.sock")).unwrap();
    stream.write_all(b"{\"verb\":\"take-over\"}\n").unwrap();
    stream
}

/// A line at a time, however slowly it comes.
///
/// bound: take-over-time breaks
#[test]
fn who_takes_for_ever_to_take_over_does_not() {
    let installation = installation();
    let mut process = installation.start();
    process.addresses();
    let mut slow = asks_to_take_over(&installation);
    is_given(&mut slow);
    std::thread::spawn(move || {
        // Until it is given up.
        while slow.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    installation.replace("more/a.wasm", &version("version2"));
    process.wait_for("this one goes on");
    process.wait_for("generation 2-");
}

/// Whoever stops a host does not wait until another one gives up.
#[test]
fn a_stop_does_not_wait_for_who_takes_for_ever() {
    let installation = installation();
    let mut process = installation.start();
    process.addresses();
    let mut hangs = asks_to_take_over(&installation);
    is_given(&mut hangs);
    let begun = Instant::now();
    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(said.contains("does not serve after 5s: this one ends all the same"), "{said}");
}

/// All files of the state directory but for what is compiled, and what is in them.
fn recorded(installation: &Installation) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["state", "state/generations", "state/components"] {
        for entry in std::fs::read_dir(installation.path(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                files.insert(entry.path(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// What it would have put in force is recorded nowhere.
#[test]
fn a_take_over_that_fails_at_last_leaves_the_state_directory_as_it_was() {
    let installation = installation();
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let before = recorded(&installation);
    assert_eq!(before.len(), 3, "{before:?}");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host_yaml = std::fs::read_to_string(installation.path("host.yaml")).unwrap();
    let mut host_yaml: serde_json::Value = serde_json::from_str(&host_yaml).unwrap();
    host_yaml["unjudged"] = json!("Allow");
    host_yaml["listen"] = json!(other.local_addr().unwrap());
    installation.write("other.yaml", host_yaml.to_string().as_bytes());
    let mut newer = Command::new(HOST);
    newer.args(["serve", "--take-over", "--config"]).arg(installation.path("other.yaml"));
    let (status, said) = Process::start(&mut newer).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("generation 2-") && said.contains("another program listens there"), "{said}");
    let told = format!(
        "listens on {address}, and this one on {}, since `listen` has changed",
        other.local_addr().unwrap()
    );
    assert!(said.contains(&told), "{said}");
    process.wait_for("this one goes on");
    assert_eq!(recorded(&installation), before);
}

fn is_given(stream: &mut UnixStream) {
    let mut line = [0; 64];
    let length = stream.read(&mut line).unwrap();
    assert!(line[..length].starts_with(b"{\"given\":"), "{}", String::from_utf8_lossy(&line));
}

/// Whoever takes over is not let down by a stop, and whoever was asked to stop does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_another_takes_over() {
    for comes_to_serve in [true, false] {
        let installation = installation();
        let mut process = installation.start();
        let (address, _) = process.addresses();
        let mut newer = asks_to_take_over(&installation);
        is_given(&mut newer);
        process.signal(Signal::TERM);
        process.wait_for("this one goes on until that serves");
        let idle = kept(&installation.client(), address, Protocol::Http1).await;
        if comes_to_serve {
            newer.write_all(b"\"serving\"\n").unwrap();
            let mut said = [0; 9];
            newer.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"\"ending\"\n");
            process.wait_for("another process has taken over");
        } else {
            drop(newer);
            process.wait_for("nobody serves any more");
        }
        process.wait_for("SIGTERM: finishing the reviews under way");
        let mut refused = String::new();
        asks_to_take_over(&installation).read_to_string(&mut refused).unwrap();
        assert_eq!(refused, "{\"refused\":\"it is stopping: start this one when it has ended\"}\n");
        drop(idle);
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("stopped: every review under way was answered"), "{said}");
    }
}

/// Once it has said that it serves it is the host, and a stop is one of the host.
#[test]
fn a_stop_of_the_one_that_has_just_taken_over() {
    let installation = installation();
    std::fs::create_dir(installation.path("state")).unwrap();
    let older = UnixListener::bind(installation.path("state/control.sock")).unwrap();
    let mut newer = Process::start(&mut successor(&installation));
    let (mut stream, _) = older.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "{\"verb\":\"take-over\"}");
    stream.write_all(b"{\"given\":[]}\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "\"serving\"");
    newer.signal(Signal::TERM);
    newer.wait_for("SIGTERM: finishing the reviews under way");
    stream.write_all(b"\"ending\"\n").unwrap();
    newer.addresses();
    let (status, said) = newer.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopped: every review under way was answered"), "{said}");
}

/// There is nobody whose place could be taken, or no place where to look for him.
#[test]
fn taking_over_from_nobody_is_a_start() {
    let installation = installation();
    let mut process = Process::start(&mut successor(&installation));
    process.addresses();
    let homeless = Installation::bare(json!({}));
    let (status, said) = Process::start(&mut successor(&homeless)).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("--take-over needs a `stateDirectory`"), "{said}");
}

/// The program with a listening socket as its descriptor 3, as systemd gives it.
fn activated(installation: &Installation, names: &str) -> (SocketAddr, Process) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let script =
        format!("LISTEN_PID=$$ LISTEN_FDS=1 {names} exec \"$0\" serve --config \"$1\" 3<&0 0</dev/null");
    let mut command = Command::new("sh");
    command.args(["-c", &script, HOST]).arg(installation.path("host.yaml"));
    (address, Process::start_with(&mut command, Stdio::from(std::os::fd::OwnedFd::from(socket))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_gives_sockets() {
    let installation = Installation::bare(json!({}));
    for names in ["", "LISTEN_FDNAMES=door", "LISTEN_FDNAMES=image-policy-host.socket"] {
        let (address, mut process) = activated(&installation, names);
        // Before anyone accepts.
        let client = installation.client();
        let asked = tokio::spawn(async move {
            client.connect(address, Protocol::Http2).await.unwrap().review("nginx").await
        });
        let (door, _) = process.addresses();
        assert_eq!(door, address, "{names}");
        assert_eq!(asked.await.unwrap().unwrap().status, 200);
    }
    let (address, mut process) = activated(&installation, "LISTEN_FDNAMES=admin");
    let (door, admin) = process.addresses();
    assert_eq!(admin, address);
    assert_ne!(door, address);
    let socket = tempfile::NamedTempFile::new().unwrap();
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\" 3<&0";
    let mut command = Command::new("sh");
    command.args(["-c", script, HOST]).arg(installation.path("host.yaml"));
    let file = std::fs::File::open(socket.path()).unwrap();
    let (status, said) = Process::start_with(&mut command, Stdio::from(file)).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("the service manager gave a socket that cannot be used"), "{said}");
}

/// What systemd is told, of which the last part is of a process that it did not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told() {
    let installation = installation();
    let manager = UnixDatagram::bind(installation.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = |wanted: &str| {
        let mut message = [0; 512];
        loop {
            let length = manager.recv(&mut message).unwrap_or_else(|error| panic!("never {wanted}: {error}"));
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let managed = |command: &mut Command| {
        command.env("NOTIFY_SOCKET", installation.path("notify")).env("WATCHDOG_USEC", "200000");
        Process::start(command)
    };
    let mut first = Command::new(HOST);
    first.args(["serve", "--config"]).arg(installation.path("host.yaml"));
    let mut process = managed(&mut first);
    assert!(!told("READY=1").contains("MAINPID"));
    told("WATCHDOG=1");
    process.signal(Signal::HUP);
    assert!(told("RELOADING=1").contains("\nMONOTONIC_USEC="));
    told("READY=1");
    process.wait_for("SIGHUP: looked at the files");

    let mut newer = managed(&mut successor(&installation));
    assert!(told("READY=1").contains(&format!("MAINPID={}\n", newer.id())));
    let (_, said) = process.end();
    assert!(said.contains("another process has taken over"), "{said}");
    newer.signal(Signal::TERM);
    told("STOPPING=1");
    assert_eq!(newer.end().0.code(), Some(0));
}
