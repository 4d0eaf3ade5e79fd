//! Cost of a request at the webhook: CPU time of the server's process, compared in interleaved rounds with a
//! bare axum + rustls server that parses the same request and sends a fixed verdict. Servers run on the first
//! processor and the client on the second, so that the cost of a request does not depend on how they share
//! them.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::server::{Ports, Server, Until, chain, configure, key, load};
use crate::subjects::{HOST, patterns};
use crate::{Error, Row, median, microseconds, runtime};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);

/// Runs the cheapest possible backend: TLS, the JSON parsed into the relevant fields, a verdict as constant
/// text.
pub(crate) async fn bare(folder: &Path) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Review {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        containers: Vec<Container>,
    }
    #[derive(Deserialize)]
    struct Container {
        image: String,
    }
    const ANSWER: &str =
        r#"{"apiVersion":"imagepolicy.k8s.io/v1alpha1","kind":"ImageReview","status":{"allowed":true}}"#;
    let webhook = post(|body: Bytes| async move {
        let review: Review = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let images: usize = review.spec.containers.iter().map(|container| container.image.len()).sum();
        if images == 0 {
            Err("no images".to_owned())
        } else {
            Ok(([(header::CONTENT_TYPE, "application/json")], ANSWER))
        }
    });
    let routes = Router::new().route("/", webhook);

    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                chain(&folder.join("external-cert.pem"))?,
                key(&folder.join("external-key.pem"))?,
            )?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    fs::write(folder.join("bare.address"), listener.local_addr()?.to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(acceptor.accept(stream).await?);
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(stream, TowerToHyperService::new(routes))
                .await
        });
    }
}

/// One measurement: its server and namespace, and the maximum ratio to the bare server.
struct Asked<'a> {
    what: &'static str,
    server: &'a Server,
    address: SocketAddr,
    namespace: fn(usize) -> String,
    most: Option<f64>,
}

pub(crate) fn rows() -> Result<Vec<Row>, Error> {
    // taskset(1) of util-linux. Processes that are started from here on inherit the processors.
    let stay = |processors: &str| -> Result<(), Error> {
        let mut taskset = Command::new("taskset");
        let taskset = taskset.args(["--all-tasks", "--cpu-list", "--pid", processors]);
        let moved = taskset.arg(std::process::id().to_string()).stdout(Stdio::null()).status()?;
        if moved.success() { Ok(()) } else { Err("taskset: the webhook's part needs two processors".into()) }
    };
    stay("1")?;
    let rows = runtime()?.block_on(compare());
    let last = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    stay(last.trim())?;
    rows
}

/// Starts a command on the first processor.
fn on_first(program: &OsStr) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0"]).arg(program);
    command
}

/// Configures the host with one policy for the namespace `one`, two for `two` and three for `three`, and
/// starts it.
async fn start_host(folder: &Path) -> Result<(Server, SocketAddr), Error> {
    let ports = Ports::free().await?;
    host::install::demo::write_installation(folder, ports.webhook)?;
    let policy = |name: &str, module: &str, settings, namespaces: &[&str]| {
        json!({
            "name": name, "module": format!("policies/{module}.wasm"), "settings": settings,
            "match": { "namespaces": { "include": namespaces } },
        })
    };
    let denied = json!({ "deny": ["docker.io/**", "*.untrusted.example/**"] });
    let policies = [
        policy("trusted", "trusted-registries", json!({ "allow": patterns() }), &["one", "two", "three"]),
        policy("pinned", "pinned-images", json!({ "requireDigest": false }), &["two", "three"]),
        policy("denied", "trusted-registries", denied, &["three"]),
    ];
    configure(folder, &ports, json!({ "policies": policies, "exempt": { "namespaces": ["exempt"] } }))?;
    let command = &mut on_first(HOST.as_ref());
    let server = Server::start(command.args(["serve", "--config"]).arg(folder.join("host.yaml")))?;
    server.prepared(ports.admin, policies.len()).await?;
    Ok((server, ports.webhook))
}

/// Starts the bare server, a process of this program.
async fn start_bare(folder: &Path) -> Result<(Server, SocketAddr), Error> {
    let server = Server::start(on_first(std::env::current_exe()?.as_ref()).arg("bare").arg(folder))?;
    loop {
        let written = fs::read_to_string(folder.join("bare.address")).unwrap_or_default();
        match written.parse() {
            Ok(address) => return Ok((server, address)),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// CPU time of a request in microseconds, and requests per second, in each round.
type Rounds = Vec<(f64, f64)>;

/// Measures all servers in interleaved rounds.
async fn measure(all: &[Asked<'_>], folder: &Path) -> Result<Vec<Rounds>, Error> {
    // The client never sleeps. Waking a sleeping processor costs a server 5 µs and more, and slower servers
    // would pay it more often.
    let awake = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let mut measured: Vec<Rounds> = vec![Vec::new(); all.len()];
    for round in 0..=ROUNDS {
        for (Asked { server, address, namespace, .. }, measured) in all.iter().zip(&mut measured) {
            let before = server.cpu_seconds()?;
            let started = Instant::now();
            let requests = load(*address, folder, *namespace, Until::Elapsed(ROUND)).await?;
            let elapsed = started.elapsed().as_secs_f64();
            let cpu = (server.cpu_seconds()? - before) / requests as f64 * 1e6;
            // The first round is a warm-up.
            if round > 0 {
                measured.push((cpu, requests as f64 / elapsed));
            }
        }
    }
    awake.abort();
    Ok(measured)
}

async fn compare() -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let (host, address) = start_host(folder).await?;
    let (bare, bare_address) = start_bare(folder).await?;
    let webhook = |what, namespace, most| Asked { what, server: &host, address, namespace, most };
    let all = [
        Asked {
            what: "bare axum + rustls",
            server: &bare,
            address: bare_address,
            namespace: |_| "bare".to_owned(),
            most: None,
        },
        webhook("webhook, exempt namespace", |_| "exempt".to_owned(), None),
        webhook("webhook, 2 images x 1 policy", |_| "one".to_owned(), Some(1.6)),
        webhook("webhook, 2 images x 2 policies", |_| "two".to_owned(), None),
        webhook("webhook, 2 images x 3 policies", |_| "three".to_owned(), Some(2.5)),
    ];
    let mut floor = None;
    let mut rows = Vec::new();
    for (Asked { what, most, .. }, rounds) in all.iter().zip(measure(&all, folder).await?) {
        let cpu = median(rounds.iter().map(|(cpu, _)| *cpu).collect());
        let rate = median(rounds.iter().map(|(_, rate)| *rate).collect());
        let row = Row::new(format!("{what}, CPU of a request ({rate:.0}/s)"), microseconds(cpu));
        let Some(floor) = floor else {
            floor = Some(cpu);
            rows.push(row);
            continue;
        };
        let row = row.ratio(cpu / floor, "bare");
        rows.push(match most {
            Some(most) => row.at_most(*most),
            None => row,
        });
    }
    Ok(rows)
}
