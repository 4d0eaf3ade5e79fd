//! The host as a service of systemd: the sockets that it receives, and its notifications.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketPath, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::Installation;
use crate::support::client::Protocol;
use crate::support::process::{HOST, Process};

/// Starts the program with a listening socket as its descriptor 3, as systemd passes it.
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
    for names in ["", "LISTEN_FDNAMES=webhook", "LISTEN_FDNAMES=image-policy-host.socket"] {
        let (address, mut process) = activated(&installation, names);
        // Connected before the host accepts.
        let client = installation.client();
        let asked = tokio::spawn(async move {
            client.connect(address, Protocol::Http2).await.unwrap().review("nginx").await
        });
        let (webhook, _) = process.addresses();
        assert_eq!(webhook, address, "{names}");
        assert_eq!(asked.await.unwrap().unwrap().status, 200);
    }
    let (address, mut process) = activated(&installation, "LISTEN_FDNAMES=admin");
    let (webhook, admin) = process.addresses();
    assert_eq!(admin, address);
    assert_ne!(webhook, address);
    let socket = tempfile::NamedTempFile::new().unwrap();
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\" 3<&0";
    let mut command = Command::new("sh");
    command.args(["-c", script, HOST]).arg(installation.path("host.yaml"));
    let file = std::fs::File::open(socket.path()).unwrap();
    let (status, said) = Process::start_with(&mut command, Stdio::from(file)).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("the service manager gave a socket that cannot be used"), "{said}");
}

#[test]
fn a_service_manager_is_told() {
    let installation = Installation::bare(json!({}));
    let path = installation.path("notify");
    // A name without a file is written with `@` in front.
    let name = format!("host-{}", std::process::id());
    let (file, abstracted) =
        (SocketPath::from_pathname(&path), SocketPath::from_abstract_name(name.as_bytes()));
    for (address, socket) in [(file, path.into_os_string()), (abstracted, format!("@{name}").into())] {
        let manager = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        tells(&installation, &manager, &socket);
    }
}

fn tells(installation: &Installation, manager: &UnixDatagram, socket: &OsStr) {
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
    let mut command = Command::new(HOST);
    command.args(["serve", "--config"]).arg(installation.path("host.yaml"));
    command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "200000");
    let mut process = Process::start(&mut command);
    told("READY=1");
    told("WATCHDOG=1");
    process.signal(Signal::HUP);
    assert!(told("RELOADING=1").contains("\nMONOTONIC_USEC="));
    told("READY=1");
    process.wait_for("SIGHUP: looked at the files");

    process.signal(Signal::TERM);
    told("STOPPING=1");
    assert_eq!(process.end().0.code(), Some(0));
}
