//! Connections: accepted within a bound, through a TLS handshake, served, and drained at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem};

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::budget::{Budget, Exhausted, Holding};
use super::sweep::{Protocol, Sweep, Track, Tracked, TrackedStream};
use super::{Host, Peer, overloaded, routes};
use crate::{bounds, lines, tls};

/// What a connection speaks below HTTP.
#[derive(Clone)]
pub(super) enum Transport {
    /// TLS with the material in force when it begins.
    Tls(Arc<Host>),
    /// Nothing: clients need not show who they are.
    Plain(Arc<Host>),
}

impl Transport {
    fn material(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Transport::Tls(host) => Some(host.sources.tls.server_config()),
            Transport::Plain(_) => None,
        }
    }

    /// Whether there is other material than `seen`, which is this then.
    fn has_changed(&self, seen: &mut Option<Arc<ServerConfig>>) -> bool {
        let now = self.material();
        let same = now.as_ref().map(Arc::as_ptr) == seen.as_ref().map(Arc::as_ptr);
        *seen = now;
        !same
    }
}

/// Whether a listener goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It does.
    NotYet,
    /// Another process accepts its connections. Those that are idle are kept until their clients close them, because a
    /// request that crosses with our closing is lost: HTTP/1.1 has no way to say beforehand that none is taken any more.
    TakenOver,
    /// Nobody does. Idle connections are kept for a moment, in which those that are in use get their last answer.
    Now,
}

impl Stop {
    fn linger(self) -> Duration {
        match self {
            Stop::TakenOver => bounds::LINGER_TAKEN_OVER.time(),
            Stop::NotYet | Stop::Now => bounds::LINGER.time(),
        }
    }
}

/// Serves the door until it has to stop, then finishes the reviews under way. Returns whether all were finished.
pub async fn serve(listener: TcpListener, host: Arc<Host>, stop: watch::Receiver<Stop>) -> bool {
    let (routes, budget, rooms) =
        (routes(Arc::clone(&host)), Arc::clone(&host.budget), Arc::clone(&host.rooms));
    serve_connections(listener, Transport::Tls(host), routes, budget, rooms, stop).await
}

/// Serves as many connections at a time as there are `rooms`, until it has to stop and what is under way is finished. Returns whether
/// all was.
pub(super) async fn serve_connections(
    listener: TcpListener,
    transport: Transport,
    routes: axum::Router,
    budget: Arc<Budget>,
    rooms: Arc<Rooms>,
    mut stop: watch::Receiver<Stop>,
) -> bool {
    let sweep = Arc::<Sweep>::default();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut material = transport.material();
    // Of descriptors, or of memory.
    let mut out_of = false;
    loop {
        let (stream, peer) = tokio::select! {
            () = stopping(&mut stop) => break,
            _ = seconds.tick() => {
                if transport.has_changed(&mut material) {
                    sweep.retire();
                }
                sweep.round();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!("a connection failed before it was accepted: {error}");
                    continue;
                }
                Err(error) => {
                    if !mem::replace(&mut out_of, true) {
                        tracing::error!(
                            "cannot accept connections until others are closed: {error} (raise `LimitNOFILE`, or `ulimit -n`, \
                             or give the machine more memory)"
                        );
                    }
                    tokio::time::sleep(BETWEEN_TRIES).await;
                    continue;
                }
            },
        };
        out_of = false;
        let connection = Connection {
            transport: transport.clone(),
            routes: routes.clone(),
            budget: Arc::clone(&budget),
            sweep: Arc::clone(&sweep),
            rooms: Arc::clone(&rooms),
            edition: sweep.edition(),
            peer,
        };
        let entering = rooms.enter();
        tokio::spawn(connection.serve(stream, entering));
    }
    drop(listener);
    drain(&sweep, &rooms, seconds, stop).await
}

/// Whether an error of accept(2) is that of one connection, so that the next may be well. Linux gives what went wrong on the way
/// to a new connection in that place; all others last for a while at least.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
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
                | Errno::NONET
        )
    )
}

/// Waits until it has to stop.
async fn stopping(stop: &mut watch::Receiver<Stop>) {
    // An error means that whoever would say so is gone: stop as well.
    let _ = stop.wait_for(|stop| *stop != Stop::NotYet).await;
}

/// Lets every connection end. Returns whether every request under way was answered.
async fn drain(sweep: &Sweep, rooms: &Rooms, mut seconds: Interval, mut stop: watch::Receiver<Stop>) -> bool {
    let began = Instant::now();
    let mut ending = None;
    sweep.drain();
    loop {
        if sweep.is_empty() && rooms.entering().is_empty() {
            return true;
        }
        let why = *stop.borrow_and_update();
        match ending {
            None if began.elapsed() >= why.linger() => {
                ending = Some(Instant::now());
                // No review is under way on those.
                rooms.entering().clear();
                sweep.end();
            }
            Some(since) if since.elapsed() >= bounds::STOP_TIME.time() => return sweep.cut(),
            _ => {}
        }
        tokio::select! {
            _ = seconds.tick() => sweep.round(),
            () = sweep.ended() => {}
            Ok(()) = stop.changed() => {}
        }
    }
}

struct Connection {
    transport: Transport,
    routes: axum::Router,
    budget: Arc<Budget>,
    sweep: Arc<Sweep>,
    rooms: Arc<Rooms>,
    /// Of the TLS material that its handshake begins with, or of an older one.
    edition: u32,
    peer: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: TcpStream, entering: Entering) {
        let peer = self.peer;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let ended = match &self.transport {
            Transport::Plain(_) => self.enter(ready(Some((stream, Protocol::Http1))), entering).await,
            Transport::Tls(host) => self.enter(handshake(host, stream, peer), entering).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "connection ended: {error}");
        }
    }

    /// Serves what becomes of a handshake, when there is a place for it.
    async fn enter<S>(
        &self,
        handshake: impl Future<Output = Option<(S, Protocol)>>,
        mut entering: Entering,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let enter = async { Some((handshake.await?, self.rooms.place(|| self.make_room()).await)) };
        tokio::select! {
            entered = enter => {
                let Some(((stream, protocol), _place)) = entered else { return Ok(()) };
                let connection = self.sweep.enter(protocol, self.edition);
                drop(entering);
                self.speak(stream, protocol, connection).await
            }
            // Its sender is dropped: for newer connections, or because the host ends.
            _ = &mut entering.given_up => Ok(()),
        }
    }

    /// Where anyone may connect, whoever opens connections and leaves them so keeps nobody out.
    fn make_room(&self) {
        if let Transport::Plain(host) = &self.transport
            && self.sweep.cut_idlest()
            && host.lines.may(lines::Kind::Connection)
        {
            let bound = bounds::ADMIN_CONNECTIONS;
            tracing::warn!("{}", bound.says("", bound.default));
        }
    }

    async fn speak<S>(&self, stream: S, protocol: Protocol, connection: Tracked) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let track = connection.track();
        let stream = TokioIo::new(TrackedStream::new(stream, track));
        let service = Arc::new(Answering {
            routes: TowerToHyperService::new(self.routes.clone()),
            budget: Arc::clone(&self.budget),
            track: Arc::clone(track),
            peer: self.peer,
        });
        let service = service_fn(move |request| Arc::clone(&service).answer(request));
        let headers = bounds::HEADERS.size();
        match protocol {
            Protocol::Http1 => {
                let mut server = http1::Builder::new();
                // Its own time for headers also runs while a kept connection is idle; the sweep has a better one.
                server
                    .timer(TokioTimer::new())
                    .header_read_timeout(None)
                    .max_buf_size(headers)
                    .max_header_size(headers);
                connection.drive(server.serve_connection(stream, service)).await
            }
            Protocol::Http2 => {
                let mut server = http2::Builder::new(TokioExecutor::new());
                server
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(bounds::STREAMS.default as u32)
                    .max_pending_accept_reset_streams(bounds::RESETS.size())
                    .max_local_error_reset_streams(bounds::STREAM_ERRORS.size())
                    .max_header_list_size(headers as u32);
                connection.drive(server.serve_connection(stream, service)).await
            }
        }
    }
}

/// What answers the requests of a connection.
struct Answering {
    routes: TowerToHyperService<axum::Router>,
    budget: Arc<Budget>,
    track: Arc<Track>,
    peer: SocketAddr,
}

impl Answering {
    fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Holding<Body>>, Infallible>> {
        // From here on, and not only when the answer is first waited for.
        let under_way = self.track.begin();
        let mut held = self.budget.hold();
        request.extensions_mut().insert(Peer(self.peer));
        async move {
            let mut answer = match held.more(bounds::HEADERS.default) {
                Ok(()) => self.routes.call(request).await?,
                Err(Exhausted) => overloaded(bounds::UNDER_WAY),
            };
            if self.track.is_last() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(under_way);
            Ok(answer.map(|body| Holding::new(body, held)))
        }
    }
}

/// A stream of someone who is who he has to be; the log says of everybody else why not.
async fn handshake(
    host: &Host,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Protocol)> {
    let handshake = TlsAcceptor::from(host.sources.tls.server_config()).accept(stream);
    let time = bounds::HANDSHAKE_TIME.time();
    let refused = match tokio::time::timeout(time, handshake).await {
        Ok(Ok(stream)) => {
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            return Some((stream, protocol));
        }
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    host.metrics.handshakes_refused.add();
    if host.lines.may(lines::Kind::Handshake) {
        match refused {
            Some(error) => tracing::warn!(%peer, "TLS handshake refused: {}", tls::explain(&error)),
            None => tracing::warn!(%peer, "{}", bounds::HANDSHAKE_TIME.says_of(time)),
        }
    }
    None
}

/// How often is tried again what others have to make room for.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Who is there: connections that serve, within a limit, and those that are on their way in.
pub(super) struct Rooms {
    limit: Box<dyn Fn() -> usize + Send + Sync>,
    serving: AtomicUsize,
    left: Notify,
    entering: Mutex<VecDeque<(u64, oneshot::Sender<()>)>>,
    numbers: AtomicU64,
}

impl Rooms {
    /// With room for as many connections as `limit` says at the time.
    pub(super) fn new(limit: impl Fn() -> usize + Send + Sync + 'static) -> Arc<Rooms> {
        Arc::new(Rooms {
            limit: Box::new(limit),
            serving: AtomicUsize::new(0),
            left: Notify::new(),
            entering: Mutex::default(),
            numbers: AtomicU64::new(0),
        })
    }

    /// How many connections serve, and how many are on their way in.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.serving.load(Ordering::Relaxed), self.entering().len())
    }

    fn entering(&self) -> MutexGuard<'_, VecDeque<(u64, oneshot::Sender<()>)>> {
        self.entering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more in on its way, and gives up the oldest where they are too many.
    fn enter(self: &Arc<Self>) -> Entering {
        let (sender, given_up) = oneshot::channel();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut entering = self.entering();
        entering.push_back((number, sender));
        // Whoever opens connections and leaves them so keeps nobody out, and takes no place of those that serve.
        if entering.len() > bounds::ENTERING.size() {
            entering.pop_front();
        }
        drop(entering);
        Entering { rooms: Arc::clone(self), number, given_up }
    }

    /// Waits for a place among those that serve. As long as there is none it calls `make_room` again and again: what has to
    /// stay at one moment may go at the next.
    async fn place(self: &Arc<Self>, make_room: impl Fn()) -> Place {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // From here on whoever leaves is seen.
            left.as_mut().enable();
            let one_more = |serving: usize| (serving < (self.limit)()).then_some(serving + 1);
            if self.serving.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok() {
                return Place(Arc::clone(self));
            }
            make_room();
            // That nobody has left until then is as good a reason to try again.
            let _ = tokio::time::timeout(BETWEEN_TRIES, left).await;
        }
    }
}

/// A connection on its way in.
struct Entering {
    rooms: Arc<Rooms>,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.rooms.entering().retain(|(number, _)| *number != self.number);
    }
}

/// A connection that serves.
struct Place(Arc<Rooms>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_one();
    }
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
