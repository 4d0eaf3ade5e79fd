//! A client like the kube-apiserver's: mutual TLS, kept connections, HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::figures::{Failure, Kind};

/// Time for which the apiserver waits for a response (`?timeout=30s`).
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// One request at a time.
    Http1,
    /// Several at a time.
    Http2,
}

/// The address of the server and the identity of the client.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<dyn Fn() -> Result<ClientConfig> + Send + Sync>,
}

impl Client {
    /// Returns a client for `address`, whose certificate `authority` signed, with a certificate and key in
    /// PEM files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or has the wrong content.
    pub fn new(address: SocketAddr, authority: &Path, certificate: &Path, key: &Path) -> Result<Client> {
        let chain = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            certificates.with_context(|| format!("no certificates in {}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        for root in chain(authority)? {
            roots.add(root)?;
        }
        let key =
            PrivateKeyDer::from_pem_file(key).with_context(|| format!("no key in {}", key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(certificate)?, key)?;
        Ok(Client { address, tls: Arc::new(move || Ok(tls.clone())) })
    }

    /// Returns a client that reads the files again for each connection, as an apiserver does.
    pub fn following(address: SocketAddr, authority: PathBuf, certificate: PathBuf, key: PathBuf) -> Client {
        let tls = move || (Client::new(address, &authority, &certificate, &key)?.tls)();
        Client { address, tls: Arc::new(tls) }
    }

    /// Connects, within [`PATIENCE`].
    ///
    /// # Errors
    /// Returns an error if no server listens, or if one side rejects the other.
    pub async fn connect(&self, protocol: Protocol) -> Result<Connection, Failure> {
        within(self.try_connect(protocol)).await
    }

    async fn try_connect(&self, protocol: Protocol) -> Result<Connection, Failure> {
        let failed = |kind| move |what: String| Failure { kind, what };
        let tcp = TcpStream::connect(self.address).await.map_err(|e| failed(Kind::Connect)(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| failed(Kind::Connect)(e.to_string()))?;
        let mut tls = (self.tls)().map_err(|e| failed(Kind::Handshake)(format!("{e:#}")))?;
        tls.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        let name = ServerName::try_from("localhost").map_err(|e| failed(Kind::Handshake)(e.to_string()))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
        let stream = TokioIo::new(stream.map_err(|e| failed(Kind::Handshake)(e.to_string()))?);
        let refused = |error: hyper::Error| failed(Kind::Connect)(describe(&error));
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, driver) = http1::handshake(stream).await.map_err(refused)?;
                tokio::spawn(driver);
                Connection::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, driver) =
                    http2::handshake(TokioExecutor::new(), stream).await.map_err(refused)?;
                tokio::spawn(driver);
                Connection::Http2(sender)
            }
        })
    }
}

/// A kept connection. It ends when all its users have dropped it.
pub enum Connection {
    /// A connection with one user.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// A connection that its clones share.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The outcome of a request.
pub enum Sent {
    /// A response: status and body.
    Answered(u16, Bytes),
    /// The server had closed the connection gracefully before it took the request. The request belongs on
    /// another connection.
    NotTaken,
    /// A failed request.
    Failed(Failure),
}

impl Connection {
    /// Returns another user of the same connection. Returns None on HTTP/1.1, which has one user.
    pub fn share(&self) -> Option<Connection> {
        match self {
            Connection::Http1(_) => None,
            Connection::Http2(sender) => Some(Connection::Http2(sender.clone())),
        }
    }

    /// Returns whether the connection is known to have ended.
    pub fn is_closed(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_closed(),
            Connection::Http2(sender) => sender.is_closed(),
        }
    }

    /// Posts a body to the webhook, and waits for the whole response within [`PATIENCE`].
    pub async fn post(&mut self, body: Bytes) -> Sent {
        let asked = async {
            match self.try_post(body).await {
                Ok((status, body)) => Ok(Sent::Answered(status, body)),
                Err(error) if not_taken(&error) => Ok(Sent::NotTaken),
                Err(error) => Err(Failure { kind: Kind::Broken, what: describe(&error) }),
            }
        };
        within(asked).await.unwrap_or_else(Sent::Failed)
    }

    async fn try_post(&mut self, body: Bytes) -> Result<(u16, Bytes), hyper::Error> {
        let request = |uri: &str, host: Option<&str>| {
            let builder = Request::post(uri).header("content-type", "application/json");
            let builder = host.into_iter().fold(builder, |builder, host| builder.header("host", host));
            builder.body(Full::new(body)).unwrap_or_default()
        };
        let answer: Response<_> = match self {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request("/?timeout=30s", Some("localhost"))).await?
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request("https://localhost/?timeout=30s", None)).await?
            }
        };
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure { kind: Kind::Late, what: format!("nothing within {PATIENCE:?}") };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Returns whether the server has certainly not taken a request, so that Go's client repeats it by itself.
/// Nothing of the request was sent (net/http, shouldRetryRequest: a POST on HTTP/1.1 is repeated in no other
/// case), or its stream was refused, or its stream is behind the last one of a graceful GOAWAY.
fn not_taken(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            let reason = h2.reason();
            return h2.is_remote()
                && (reason == Some(h2::Reason::REFUSED_STREAM)
                    || h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR));
        }
        source = error.source();
    }
    error.is_canceled() || error.is_closed()
}

/// Describes an error and its causes in one line.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
