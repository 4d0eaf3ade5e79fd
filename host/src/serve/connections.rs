//! Connections: accepted within a limit, taken through the TLS handshake, served, and drained at shutdown.

pub(super) mod budget;
mod client_identity;
mod fairness;
mod handshakes;
mod lifetime;
mod registry;
mod service;
mod stream;
mod track;
mod revalidation;

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use self::budget::MemoryBudget;
use self::client_identity::client;
use self::fairness::{Progress, Room};
use self::handshakes::{Handshakes, PendingHandshake};
use self::lifetime::{Directive, Protocol};
use self::registry::{Registry, Tracked};
use self::revalidation::Trust;
use self::service::ConnectionService;
use self::stream::TrackedStream;
use super::Host;
use super::webhook::routes;
use crate::evaluate::turns::Turns;
use crate::limits;
use crate::telemetry::log_throttle;
use crate::tls;

/// The transport below HTTP.
#[derive(Clone)]
pub(super) enum Transport {
    /// TLS with the material in force when the connection begins.
    Tls(Arc<Host>),
    /// Plain TCP. Clients do not authenticate.
    Plain(Arc<Host>),
}

impl Transport {
    fn host(&self) -> &Arc<Host> {
        match self {
            Transport::Tls(host) | Transport::Plain(host) => host,
        }
    }

    /// Returns how the listener makes room. On a listener without authentication an idle connection never
    /// keeps another client out.
    fn room(&self) -> Room {
        match self {
            Transport::Tls(_) => Room::OfMost,
            Transport::Plain(_) => Room::Idlest,
        }
    }
}

/// The connections of a listener and their shared resources.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) registry: Arc<Registry>,
    pub(super) handshakes: Arc<Handshakes>,
    pub(super) budget: Arc<MemoryBudget>,
    turns: Arc<Turns>,
}

impl Shared {
    /// Creates the state of a listener. `limit` is called at every check of the limit.
    pub(super) fn new(limit: impl Fn() -> usize + Send + Sync + 'static) -> Shared {
        Shared {
            registry: Registry::new(limit),
            handshakes: Arc::default(),
            budget: Arc::default(),
            turns: Turns::of_processors(),
        }
    }
}

/// Serves the webhook until `stop` completes, then finishes the pending reviews. Returns whether all were
/// finished.
pub async fn serve(listener: TcpListener, host: Arc<Host>, stop: impl Future<Output = ()>) -> bool {
    let (routes, shared) = (routes(Arc::clone(&host)), host.shared.clone());
    serve_connections(listener, Transport::Tls(host), routes, shared, stop).await
}

/// Serves connections until `stop` completes, then drains them. Returns whether every pending request got its
/// response.
pub(super) async fn serve_connections(
    listener: TcpListener,
    transport: Transport,
    routes: axum::Router,
    shared: Shared,
    stop: impl Future<Output = ()>,
) -> bool {
    let mut stop = pin!(stop);
    let mut accepting = Accepting { listener, out_of: false };
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = accepting.next() => accepted,
        };
        let pending = shared.handshakes.enter(peer);
        let connection =
            Connection { transport: transport.clone(), routes: routes.clone(), shared: shared.clone(), peer };
        tokio::spawn(connection.serve(stream, pending));
    }
    drop(accepting);
    drain(&shared).await
}

/// A listener that outlasts a shortage.
struct Accepting {
    listener: TcpListener,
    /// Whether no file descriptor or no memory is left for a connection.
    out_of: bool,
}

impl Accepting {
    /// Returns the next connection.
    async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.out_of = false;
                    return accepted;
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!("a connection failed before it was accepted: {error}");
                }
                Err(error) => {
                    if !mem::replace(&mut self.out_of, true) {
                        tracing::error!(
                            "cannot accept connections until others are closed: {error} (raise \
                             `LimitNOFILE`, or `ulimit -n`, or give the machine more memory)"
                        );
                    }
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
            }
        }
    }
}

/// Returns whether an error of accept(2) concerns one connection only, so that the next accept may succeed.
/// Linux returns the pending network errors of a new socket from accept(2). All other errors last for a while
/// at least.
fn is_of_one_connection(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    #[cfg(target_os = "linux")]
    if error == Some(Errno::NONET) {
        return true;
    }
    matches!(
        error,
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::TIMEDOUT
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETDOWN
                | Errno::NETUNREACH
        )
    )
}

/// Time between two attempts to accept a connection while file descriptors or memory are short.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Drains all connections. Idle connections stay open for `LINGER`, so that a connection in use gets its last
/// response. Returns whether every pending request got its response.
async fn drain(shared: &Shared) -> bool {
    let Shared { registry, handshakes, .. } = shared;
    let mut until = Instant::now() + limits::LINGER.time();
    let mut ending = false;
    registry.direct(Directive::Retire);
    while registry.len() > 0 || handshakes.len() > 0 {
        tokio::select! {
            () = sleep_until(until) => match mem::replace(&mut ending, true) {
                false => {
                    until = Instant::now() + limits::STOP_TIME.time();
                    // No review is pending on a connection in its handshake.
                    handshakes.give_up_all();
                    registry.direct(Directive::End);
                }
                true => return registry.close(),
            },
            () = registry.ended() => {}
            () = handshakes.ended() => {}
        }
    }
    true
}

struct Connection {
    transport: Transport,
    routes: axum::Router,
    shared: Shared,
    peer: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: TcpStream, pending: PendingHandshake) {
        let peer = self.peer;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let progress = pending.progress();
        let ended = match &self.transport {
            Transport::Plain(_) => self.run(ready(Some((stream, Protocol::Http1, None))), pending).await,
            Transport::Tls(host) => self.run(handshake(host, stream, peer, progress), pending).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "connection ended: {error}");
        }
    }

    /// Runs the handshake, waits for a slot and serves the stream.
    async fn run<S>(
        &self,
        handshake: impl Future<Output = Option<(S, Protocol, Option<Trust>)>>,
        mut pending: PendingHandshake,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let progress = pending.progress();
        let enter = async {
            let address = client(self.peer, &[]);
            let (stream, protocol, trust) = self.shared.turns.run(&address, handshake).await?;
            let connection = self.enter(protocol, trust, progress).await;
            Some((stream, protocol, connection))
        };
        let entered = tokio::select! {
            entered = enter => entered,
            _ = &mut pending.given_up => None,
        };
        drop(pending);
        match entered {
            Some((stream, protocol, connection)) => self.speak(stream, protocol, connection).await,
            None => Ok(()),
        }
    }

    /// Waits for a slot among the serving connections.
    async fn enter(&self, protocol: Protocol, trust: Option<Trust>, progress: impl Fn(Progress)) -> Tracked {
        let client = client(self.peer, trust.as_ref().map_or(&[], Trust::chain));
        let waits = |closed: bool| {
            progress(if closed { Progress::Greeted } else { Progress::Waits });
            if let Transport::Plain(host) = &self.transport
                && closed
                && host.log_throttle.allows(log_throttle::Kind::Connection)
            {
                let bound = limits::ADMIN_CONNECTIONS;
                tracing::warn!("{}", bound.says("", bound.default));
            }
        };
        self.shared.registry.enter(client, protocol, trust, self.transport.room(), waits).await
    }

    async fn speak<S>(&self, stream: S, protocol: Protocol, connection: Tracked) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let track = connection.track();
        let stream = TokioIo::new(TrackedStream::new(stream, track));
        let service = Arc::new(ConnectionService {
            host: Arc::clone(self.transport.host()),
            routes: TowerToHyperService::new(self.routes.clone()),
            share: self.shared.budget.share(track.client()),
            track: Arc::clone(track),
            turns: (protocol == Protocol::Http2).then(|| Arc::clone(&self.shared.turns)),
            peer: self.peer,
        });
        let service = service_fn(move |request| Arc::clone(&service).call(request));
        let headers = limits::HEADERS.size();
        match protocol {
            Protocol::Http1 => {
                let mut server = http1::Builder::new();
                // hyper's timeout for headers also runs while a kept-alive connection is idle; the timeout of
                // `Lifetime` does not.
                server
                    .timer(TokioTimer::new())
                    .header_read_timeout(None)
                    .max_buf_size(headers)
                    .max_header_size(headers);
                connection.drive(server.serve_connection(stream, service), &self.shared.turns).await
            }
            Protocol::Http2 => {
                let mut server = http2::Builder::new(TokioExecutor::new());
                server
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(limits::STREAMS.default as u32)
                    .max_pending_accept_reset_streams(limits::RESETS.size())
                    .max_local_error_reset_streams(limits::STREAM_ERRORS.size())
                    .max_header_list_size(headers as u32);
                connection.drive(server.serve_connection(stream, service), &self.shared.turns).await
            }
        }
    }
}

/// Performs the TLS handshake. Returns None, and logs the reason, if the handshake fails or times out: for
/// example if the client has no certificate that the host trusts.
async fn handshake(
    host: &Host,
    stream: TcpStream,
    peer: SocketAddr,
    progress: impl Fn(Progress),
) -> Option<(TlsStream<TcpStream>, Protocol, Option<Trust>)> {
    let mut material = host.sources.tls.clone();
    let by = material.see();
    let handshake = async {
        let greeting = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        progress(Progress::Greeted);
        greeting.into_stream(by.server_config()).await
    };
    let time = limits::HANDSHAKE_TIME.time();
    let refused = match tokio::time::timeout(time, handshake).await {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let protocol = match session.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let certificates = session.peer_certificates().unwrap_or_default();
            let chain: Vec<_> = certificates.iter().map(|one| one.clone().into_owned()).collect();
            return Some((stream, protocol, Some(Trust::new(material, &by, chain))));
        }
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    host.metrics.handshakes_refused.add();
    if host.log_throttle.allows(log_throttle::Kind::Handshake) {
        match refused {
            Some(error) => tracing::warn!(%peer, "TLS handshake refused: {}", tls::explain(&error)),
            None => tracing::warn!(%peer, "{}", limits::HANDSHAKE_TIME.says_of(time)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_one_connection_holds_up_no_other() {
        let of_one = |error: Errno| is_of_one_connection(&io::Error::from(error));
        assert!([Errno::CONNABORTED, Errno::CONNRESET, Errno::PERM, Errno::NETDOWN].into_iter().all(of_one));
        let lasts = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::INVAL];
        assert!(!lasts.into_iter().any(of_one), "to try these at once would take a processor");
    }
}
