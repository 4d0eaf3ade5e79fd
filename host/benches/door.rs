//! What a request costs at the door: CPU time of the server's process, beside a bare axum + rustls server that parses the
//! same request and answers a fixed verdict, in interleaved rounds of one run.
//!
//! `cargo bench -p host --bench door` prints one table; ratios are what to look at, since machines differ.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};

type Error = Box<dyn std::error::Error + Send + Sync>;

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
/// Linux counts process times in hundredths of a second (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bare") => runtime()?.block_on(bare(Path::new(&arguments.next().unwrap_or_default()))),
        _ => runtime()?.block_on(compare()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The least that a backend can do: TLS, the JSON parsed into the fields that matter, a verdict as constant text.
async fn bare(folder: &Path) -> Result<(), Error> {
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
    let door = post(|body: Bytes| async move {
        let review: Review = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let images: usize = review.spec.containers.iter().map(|container| container.image.len()).sum();
        if images == 0 {
            Err("no images".to_owned())
        } else {
            Ok(([(header::CONTENT_TYPE, "application/json")], ANSWER))
        }
    });
    let routes = Router::new().route("/", door);

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

async fn compare() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    host::demo::write_installation(folder, port)?;
    fs::write(folder.join("host.yaml"), configuration(port))?;

    let door = Server::start(
        Command::new(env!("CARGO_BIN_EXE_host")).arg("serve").arg("--config").arg(folder.join("host.yaml")),
    )?;
    let bare = Server::start(Command::new(std::env::current_exe()?).arg("bare").arg(folder))?;
    let bare_address =
        wait_for(|| fs::read_to_string(folder.join("bare.address")).ok()?.parse().ok()).await?;

    let rows = [
        ("bare axum + rustls", &bare, bare_address, "bare"),
        ("door, exempt namespace", &door, port, "exempt"),
        ("door, 2 images x 1 policy", &door, port, "one"),
        ("door, 2 images x 2 policies", &door, port, "two"),
    ];
    let mut measured: Vec<Vec<(f64, f64)>> = vec![Vec::new(); rows.len()];
    for round in 0..=ROUNDS {
        for ((_, server, address, namespace), measured) in rows.iter().zip(&mut measured) {
            let before = server.cpu_seconds()?;
            let started = Instant::now();
            let requests = load(*address, folder, namespace).await?;
            let elapsed = started.elapsed().as_secs_f64();
            let cpu = (server.cpu_seconds()? - before) / requests as f64 * 1e6;
            // The first round warms up.
            if round > 0 {
                measured.push((cpu, requests as f64 / elapsed));
            }
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let mut floor = f64::NAN;
    println!("{:30} {:>14} {:>8} {:>12}", "", "CPU a request", "ratio", "requests/s");
    for ((name, ..), measured) in rows.iter().zip(&measured) {
        let cpu = median(&mut measured.iter().map(|(cpu, _)| *cpu).collect());
        let rate = median(&mut measured.iter().map(|(_, rate)| *rate).collect());
        floor = if floor.is_nan() { cpu } else { floor };
        println!("{name:30} {cpu:>11.1} µs {:>8.2} {rate:>12.0}", cpu / floor);
    }
    Ok(())
}

fn configuration(listen: SocketAddr) -> String {
    let patterns: Vec<_> = (0..199).map(|n| format!("\"registry-{n}.example/team/**\"")).collect();
    format!(
        "apiVersion: image-policy-host/v1alpha1
kind: HostConfiguration
listen: {listen}
admin: {{ listen: 127.0.0.1:0 }}
tls: {{ certificate: external-cert.pem, privateKey: external-key.pem, clientCA: apiserver-client-ca.pem }}
exempt: {{ namespaces: [exempt] }}
policies:
- name: trusted-registries
  module: policies/trusted-registries.wasm
  settings: {{ allow: [{}, \"registry.k8s.io/**\"] }}
- name: pinned-images
  module: policies/pinned-images.wasm
  settings: {{ requireDigest: false }}
  match: {{ namespaces: {{ include: [two] }} }}
",
        patterns.join(", ")
    )
}

/// Asks over kept connections for the length of a round; the number of answers.
async fn load(address: SocketAddr, folder: &Path, namespace: &str) -> Result<usize, Error> {
    let body = Bytes::from(format!(
        "{{\"kind\":\"ImageReview\",\"apiVersion\":\"imagepolicy.k8s.io/v1alpha1\",\"metadata\":{{}},\"spec\":{{\
         \"containers\":[{{\"image\":\"registry.k8s.io/team/application:v1.2.3\"}},\
         {{\"image\":\"registry.k8s.io/team/sidecar@sha256:{}\"}}],\
         \"annotations\":{{\"team.image-policy.k8s.io/ticket\":\"{}\"}},\"namespace\":\"{namespace}\"}},\
         \"status\":{{\"allowed\":false}}}}\n",
        "0".repeat(64),
        "x".repeat(230)
    ));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in chain(&folder.join("external-ca.pem"))? {
        roots.add(certificate)?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            chain(&folder.join("apiserver-client-cert.pem"))?,
            key(&folder.join("apiserver-client-key.pem"))?,
        )?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.clone();
        tasks.spawn(async move {
            let until = Instant::now() + ROUND;
            let mut answers = 0;
            while Instant::now() < until {
                let request = hyper::Request::post("/?timeout=30s")
                    .header("host", "localhost")
                    .header("content-type", "application/json")
                    .body(Full::new(body.clone()))?;
                let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
                if !answer.windows(14).any(|window| window == b"\"allowed\":true") {
                    return Err(format!("another answer: {}", String::from_utf8_lossy(&answer)).into());
                }
                answers += 1;
            }
            Ok::<usize, Error>(answers)
        });
    }
    let mut answers = 0;
    while let Some(task) = tasks.join_next().await {
        answers += task??;
    }
    Ok(answers)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    Ok(CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    Ok(PrivateKeyDer::from_pem_file(path)?)
}

/// A server in a process of its own, ended when dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Result<Server, Error> {
        Ok(Server(command.env("RUST_LOG", "warn").stdout(Stdio::null()).spawn()?))
    }

    /// User and system time so far (proc_pid_stat(5), fields 14 and 15).
    fn cpu_seconds(&self) -> Result<f64, Error> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, Error> {
    for _ in 0..200 {
        if let Some(found) = look() {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the server did not come up".into())
}
