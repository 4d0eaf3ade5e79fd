//! Servers in processes of their own, and a client that sends requests over kept TLS connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Error;
use crate::subjects::{HOST, patterns};

const CONNECTIONS: usize = 16;
/// Linux counts process times in hundredths of a second (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// Time limit of events that must happen but may take long.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server in a process of its own, killed when dropped.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(command: &mut Command) -> Result<Server, Error> {
        Ok(Server(command.env("RUST_LOG", "warn").stdout(Stdio::null()).spawn()?))
    }

    /// Starts the host on the installation in `folder`.
    pub(crate) fn host(folder: &Path) -> Result<Server, Error> {
        Server::start(Command::new(HOST).arg("serve").arg("--config").arg(folder.join("host.yaml")))
    }

    /// Waits until each policy has its snapshot, or is known to have none.
    pub(crate) async fn prepared(&self, admin: SocketAddr, policies: usize) -> Result<(), Error> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(status) = status(admin).await {
                let records = status.get("policies").and_then(Value::as_array).cloned().unwrap_or_default();
                let decided = |policy: &&Value| {
                    let snapshot = policy.pointer("/record/snapshot").and_then(Value::as_str);
                    snapshot.is_some_and(|snapshot| snapshot != "being taken")
                };
                if records.iter().filter(decided).count() == policies {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the host did not prepare its policies".into())
    }

    /// Returns the user and system time so far (proc_pid_stat(5), fields 14 and 15).
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Error> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Returns the resident memory, in MiB (proc_pid_status(5)).
    pub(crate) fn resident(&self) -> Result<f64, Error> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses on which a host listens.
pub(crate) struct Ports {
    pub(crate) webhook: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Ports {
    pub(crate) async fn free() -> Result<Ports, Error> {
        let (webhook, admin) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        Ok(Ports { webhook: webhook.local_addr()?, admin: admin.local_addr()? })
    }

    /// Waits until the webhook listens.
    pub(crate) async fn listening(&self) -> Result<(), Error> {
        let begun = Instant::now();
        while TcpStream::connect(self.webhook).await.is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("the host does not listen".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// Writes an installation with `policies` policies, of a hundred distinct settings of 20 patterns each.
/// Policy N applies to namespace `ns-N` alone, so that a review runs one policy.
pub(crate) async fn installation(folder: &Path, policies: usize) -> Result<Ports, Error> {
    let ports = Ports::free().await?;
    if !folder.join("policies").exists() {
        host::install::demo::write_installation(folder, ports.webhook)?;
    }
    // With a thousand policies host.yaml must stay within its limit.
    let mut allow = patterns().split_off(180);
    let policy = |number: usize| {
        if let Some(first) = allow.first_mut() {
            *first = format!("registry.example/team-{}/**", number % 100);
        }
        json!({
            "name": format!("policy-{number}"),
            "module": "policies/trusted-registries.wasm",
            "settings": { "allow": allow },
            "match": { "namespaces": { "include": [format!("ns-{number}")] } },
        })
    };
    let policies: Vec<Value> = (0..policies).map(policy).collect();
    configure(folder, &ports, json!({ "policies": policies }))?;
    Ok(ports)
}

/// Writes host.yaml: the fields of every installation, and `more`.
pub(crate) fn configure(folder: &Path, ports: &Ports, more: Value) -> Result<(), Error> {
    let mut host = json!({
        "apiVersion": "image-policy-host/v1alpha1",
        "kind": "HostConfiguration",
        "listen": ports.webhook,
        "admin": { "listen": ports.admin },
        "stateDirectory": "state",
        "tls": {
            "certificate": "external-cert.pem",
            "privateKey": "external-key.pem",
            "clientCA": "apiserver-client-ca.pem",
        },
    });
    if let (Value::Object(host), Value::Object(more)) = (&mut host, more) {
        host.extend(more);
    }
    // JSON is YAML.
    Ok(fs::write(folder.join("host.yaml"), host.to_string())?)
}

async fn status(admin: SocketAddr) -> Result<Value, Error> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(serde_json::from_str(body)?)
}

/// End of the load: after a time, or after a number of responses.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    Answers(usize),
}

/// Sends reviews of two images over kept connections. `namespace` maps the number of a request to its
/// namespace. Returns the number of responses, all of which allow.
pub(crate) async fn load(
    address: SocketAddr,
    folder: &Path,
    namespace: fn(usize) -> String,
    until: Until,
) -> Result<usize, Error> {
    let mut tasks = tokio::task::JoinSet::new();
    for connection_number in 0..CONNECTIONS {
        let mut connection = Connection::open(address, folder).await?;
        tasks.spawn(async move {
            let started = Instant::now();
            let mut answers = 0;
            let more = |answers: usize| match until {
                Until::Elapsed(time) => started.elapsed() < time,
                Until::Answers(wanted) => answers < wanted.div_ceil(CONNECTIONS),
            };
            while more(answers) {
                let answer = connection.ask(&namespace(answers * CONNECTIONS + connection_number)).await?;
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

/// A kept connection like an apiserver's.
pub(crate) struct Connection(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Connection {
    /// Opens a connection to a host on the installation in `folder`.
    pub(crate) async fn open(address: SocketAddr, folder: &Path) -> Result<Connection, Error> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in chain(&folder.join("external-ca.pem"))? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain(&folder.join("apiserver-client-cert.pem"))?,
                key(&folder.join("apiserver-client-key.pem"))?,
            )?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// Returns the response to a review of two images in a namespace.
    pub(crate) async fn ask(&mut self, namespace: &str) -> Result<Bytes, Error> {
        let request = hyper::Request::post("/?timeout=30s")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body(namespace)))?;
        // The last response may arrive a moment before its connection takes the next request.
        self.0.ready().await?;
        Ok(self.0.send_request(request).await?.into_body().collect().await?.to_bytes())
    }
}

fn body(namespace: &str) -> Bytes {
    Bytes::from(format!(
        "{{\"kind\":\"ImageReview\",\"apiVersion\":\"imagepolicy.k8s.io/v1alpha1\",\"metadata\":{{}},\
         \"spec\":{{\
         \"containers\":[{{\"image\":\"registry.k8s.io/team/application:v1.2.3\"}},\
         {{\"image\":\"registry.k8s.io/team/sidecar@sha256:{}\"}}],\
         \"annotations\":{{\"team.image-policy.k8s.io/ticket\":\"{}\"}},\"namespace\":\"{namespace}\"}},\
         \"status\":{{\"allowed\":false}}}}\n",
        "0".repeat(64),
        "x".repeat(230)
    ))
}

pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    Ok(CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?)
}

pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    Ok(PrivateKeyDer::from_pem_file(path)?)
}
