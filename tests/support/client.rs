//! A client like the apiserver's: rustls and hyper, HTTP/1.1 or HTTP/2 by ALPN.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{Identity, Pki, Wanted};

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// The certificate that a client presents, and the authority that it trusts.
#[derive(Clone)]
pub(crate) struct Client(ClientConfig);

impl Client {
    /// Returns a client with a certificate of the `wanted` properties, or without one.
    pub(crate) fn new(pki: &Pki, wanted: Option<&Wanted>) -> Client {
        Client::speaking(pki, wanted, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub(crate) fn speaking(
        pki: &Pki,
        wanted: Option<&Wanted>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        Client::showing(pki, wanted.map(|wanted| pki.issue(wanted)).as_ref(), versions)
    }

    /// Returns a client with a certificate of any authority. `pki` has the server's authority.
    pub(crate) fn showing(
        pki: &Pki,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.authority().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Client(match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).map(Result::unwrap);
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
                // The usual builder checks the certificate, and this one may fail every check.
                let certified = rustls::sign::CertifiedKey::new(chain.collect(), key);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        })
    }

    /// Returns the client, and a counter of the authorities that the server named in its last request for a
    /// certificate.
    pub(crate) fn counting_hints(mut self) -> (Client, Arc<AtomicUsize>) {
        let hints = Arc::<AtomicUsize>::default();
        let (resolver, count) = (Arc::clone(&self.0.client_auth_cert_resolver), Arc::clone(&hints));
        self.0.client_auth_cert_resolver = Arc::new(CountingHints { resolver, count });
        (self, hints)
    }

    /// Opens a TLS connection that offers these protocols.
    pub(crate) async fn handshake(
        &self,
        address: SocketAddr,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake_over(TcpStream::connect(address).await?, protocols).await
    }

    async fn handshake_over(
        &self,
        tcp: TcpStream,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.0.clone();
        // Go's clients do the same. With Nagle's algorithm a request in two pieces would wait for the host's
        // acknowledgement.
        tcp.set_nodelay(true)?;
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        protocol: Protocol,
    ) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        self.connect_over(TcpStream::connect(address).await?, protocol).await
    }

    /// Connects like `connect`, over an existing TCP connection.
    pub(crate) async fn connect_over(
        &self,
        tcp: TcpStream,
        protocol: Protocol,
    ) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let alpn = match protocol {
            Protocol::Http1 => "http/1.1",
            Protocol::Http2 => "h2",
        };
        let stream = self.handshake_over(tcp, &[alpn]).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        Connection::over(stream, protocol).await
    }
}

#[derive(Debug)]
struct CountingHints {
    resolver: Arc<dyn ResolvesClientCert>,
    count: Arc<AtomicUsize>,
}

impl ResolvesClientCert for CountingHints {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.count.store(hints.len(), Ordering::SeqCst);
        self.resolver.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.resolver.has_certs()
    }
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A kept connection.
pub(crate) struct Connection {
    sender: Sender,
    driver: JoinHandle<Result<(), hyper::Error>>,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// Returns the body as JSON, or null if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Connection {
    pub(crate) async fn over(
        stream: TlsStream<TcpStream>,
        protocol: Protocol,
    ) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let io = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                Connection { sender: Sender::Http1(sender), driver: tokio::spawn(connection) }
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                Connection { sender: Sender::Http2(sender), driver: tokio::spawn(connection) }
            }
        })
    }

    /// Sends a request for `https://localhost/…`. On HTTP/1.1 the request line has the path alone.
    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> Result<Answer, hyper::Error> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let path = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
                *request.uri_mut() = path;
                request.headers_mut().entry("host").or_insert("localhost".parse().unwrap());
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                request.headers_mut().remove("host");
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    /// Posts a review of one image.
    pub(crate) async fn review(&mut self, image: &str) -> Result<Answer, hyper::Error> {
        self.send(post(review_of(image))).await
    }

    /// Returns another sender of requests on the same connection. HTTP/2 only.
    pub(crate) fn another(&self) -> http2::SendRequest<Body> {
        match &self.sender {
            Sender::Http2(sender) => sender.clone(),
            Sender::Http1(_) => panic!("HTTP/1.1 has one request at a time"),
        }
    }

    /// Waits until the server has closed the connection. `self` keeps it open on this side.
    pub(crate) async fn closed(&mut self) {
        // An error is an end as well.
        let _ = (&mut self.driver).await.unwrap();
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// Returns a POST request like the apiserver's.
pub(crate) fn post(body: impl Into<Bytes>) -> Request<Body> {
    Request::post("https://localhost/?timeout=30s")
        .header("content-type", "application/json")
        .header("accept", "application/json, */*")
        .body(full(body))
        .unwrap()
}

pub(crate) fn review_of(image: &str) -> String {
    review_in("default", image)
}

pub(crate) fn review_in(namespace: &str, image: &str) -> String {
    let review = serde_json::json!({
        "kind": "ImageReview",
        "apiVersion": "imagepolicy.k8s.io/v1alpha1",
        "metadata": {},
        "spec": { "containers": [{ "image": image }], "namespace": namespace },
        "status": { "allowed": false },
    });
    format!("{review}\n")
}

/// Sends a plain GET to the listener for health and status.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}
