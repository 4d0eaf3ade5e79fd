//! Connections: accepted within a bound, through a TLS handshake, served, and drained at the end.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Host, routes};
use crate::{bounds, lines, tls};

/// What a connection speaks below HTTP.
#[derive(Clone)]
pub(super) enum Transport {
    /// TLS with the material in force when it begins.
    Tls(Arc<Host>),
    /// Nothing.
    Plain,
}

/// Serves the door until `shutdown` comes, then finishes the reviews under way. Returns whether all were finished.
pub async fn serve(listener: TcpListener, host: Arc<Host>, shutdown: impl Future<Output = ()>) -> bool {
    let (routes, rooms) = (routes(Arc::clone(&host)), Arc::clone(&host.rooms));
    serve_connections(listener, Transport::Tls(host), routes, rooms, shutdown).await
}

/// Serves as many connections at a time as there are `rooms`, until `shutdown` comes and what is under way is finished.
/// Returns whether all was.
pub(super) async fn serve_connections(
    listener: TcpListener,
    transport: Transport,
    routes: axum::Router,
    rooms: Arc<Rooms>,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let graceful = GracefulShutdown::new();
    let (stopping, is_stopping) = watch::channel(());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others have to be closed first.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let connection = Connection {
            transport: transport.clone(),
            routes: routes.clone(),
            watcher: graceful.watcher(),
            stopping: is_stopping.clone(),
            rooms: Arc::clone(&rooms),
        };
        let entering = rooms.enter();
        tokio::spawn(connection.serve(stream, peer, entering));
    }
    drop(listener);
    drop(stopping);
    tokio::time::timeout(bounds::STOP_TIME.time(), graceful.shutdown()).await.is_ok()
}

struct Connection {
    transport: Transport,
    routes: axum::Router,
    watcher: Watcher,
    /// Its sender is dropped when the host stops.
    stopping: watch::Receiver<()>,
    rooms: Arc<Rooms>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr, mut entering: Entering) {
        let Connection { transport, routes, watcher, mut stopping, rooms } = self;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let enter = async {
            let stream: Box<dyn Stream> = match transport {
                Transport::Plain => Box::new(stream),
                Transport::Tls(host) => Box::new(handshake(&host, stream, peer).await?),
            };
            Some((stream, rooms.place().await))
        };
        let (stream, _place) = tokio::select! {
            entered = enter => match entered {
                Some(entered) => entered,
                None => return,
            },
            // Its sender is dropped.
            _ = &mut entering.given_up => {
                tracing::debug!(%peer, "given up for newer connections before its handshake was finished");
                return;
            }
            // No review is under way on it, so there is nothing to wait for.
            _ = stopping.changed() => return,
        };
        drop(entering);
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(bounds::IDLE_TIME.time()));
        stream.set_write_timeout(Some(bounds::IDLE_TIME.time()));

        let headers = bounds::HEADERS.size();
        let mut server = auto::Builder::new(TokioExecutor::new());
        // hyper's own time for headers also runs while a kept connection is idle.
        server.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(headers);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(bounds::STREAMS.default as u32)
            .max_header_list_size(headers as u32);
        let stream = TokioIo::new(Box::pin(stream));
        let connection = server.serve_connection(stream, TowerToHyperService::new(routes)).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%peer, "connection ended: {error}");
        }
    }
}

/// Bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A stream of someone who is who he has to be; the log says of everybody else why not.
async fn handshake(host: &Host, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
    let handshake = TlsAcceptor::from(host.sources.tls.server_config()).accept(stream);
    let time = bounds::HANDSHAKE_TIME.time();
    let refused = match tokio::time::timeout(time, handshake).await {
        Ok(Ok(stream)) => return Some(stream),
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

    /// Waits for a place among those that serve.
    async fn place(self: &Arc<Self>) -> Place {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // From here on whoever leaves is seen.
            left.as_mut().enable();
            let one_more = |serving: usize| (serving < (self.limit)()).then_some(serving + 1);
            if self.serving.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok() {
                return Place(Arc::clone(self));
            }
            left.await;
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
