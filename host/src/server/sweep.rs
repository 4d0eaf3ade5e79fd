//! One sweep a second over the connections of a listener: it ends those that take longer than they may, and all of them
//! when the host stops. So no connection has timers of its own, and a request costs a few stores to memory that only its
//! connection uses.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::{io, mem};

use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::bounds::{self, Bound};

/// A second of a listener's time, counted from its beginning.
type Second = u32;

/// No second: what it would be of does not go on.
const NONE: Second = Second::MAX;

/// The connections of a listener.
#[derive(Default)]
pub(super) struct Sweep {
    now: AtomicU32,
    stage: AtomicU8,
    /// How often connections have been retired.
    retired: AtomicU32,
    connections: Mutex<HashMap<u64, Arc<Track>>>,
    numbers: AtomicU64,
    ended: Notify,
}

/// How far a listener is on its way to its end; 0 is not at all.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    /// Every answer is the last of its connection, and connections that can say so without one do.
    Draining = 1,
    /// Each connection ends as soon as nothing is under way on it.
    Ending,
}

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, where only an answer can say that it is the last one.
    Http1,
    /// HTTP/2, where GOAWAY says so at any time, and what came too late for it is asked again elsewhere.
    Http2,
}

/// What a connection does, told by those that serve it.
pub(super) struct Track {
    sweep: Arc<Sweep>,
    protocol: Protocol,
    /// Requests that wait for their answer.
    under_way: AtomicU32,
    /// When the last of them was answered.
    idle_since: AtomicU32,
    /// When the first byte came of a request whose headers are not complete. HTTP/1.1 alone.
    head_since: AtomicU32,
    /// When no more could be written.
    stalled_since: AtomicU32,
    /// When it was asked to end.
    ending_since: AtomicU32,
    /// Since when its next answer is its last one.
    retired_since: AtomicU32,
    order: AtomicU8,
    /// Its task, which is the same at each poll.
    task: OnceLock<Waker>,
}

/// What a connection is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Order {
    Serve,
    /// Answer what is under way, and nothing else.
    End,
    /// Be gone.
    Cut,
}

impl Sweep {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Track>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Second {
        self.now.load(Ordering::Relaxed)
    }

    /// What tells connections that are begun from now on from those that are retired.
    pub(super) fn edition(&self) -> u32 {
        self.retired.load(Ordering::SeqCst)
    }

    /// Lets all connections that there are end, so that their clients come again: those that can be told are, and each of
    /// the others is closed after its next answer, or when its client has had the time to close it while it is idle.
    pub(super) fn retire(&self) {
        self.retired.fetch_add(1, Ordering::SeqCst);
        for track in self.connections().values() {
            track.retire();
        }
    }

    /// Takes one more connection in, of the edition that there was when it began.
    pub(super) fn enter(self: &Arc<Self>, protocol: Protocol, edition: u32) -> Tracked {
        let track = Arc::new(Track {
            sweep: Arc::clone(self),
            protocol,
            under_way: AtomicU32::new(0),
            idle_since: AtomicU32::new(self.now()),
            head_since: AtomicU32::new(NONE),
            stalled_since: AtomicU32::new(NONE),
            ending_since: AtomicU32::new(NONE),
            retired_since: AtomicU32::new(NONE),
            order: AtomicU8::new(Order::Serve as u8),
            task: OnceLock::new(),
        });
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(number, Arc::clone(&track));
        if edition != self.edition() {
            track.retire();
        }
        self.bring_on(&track);
        Tracked { number, track }
    }

    /// One round; the seconds of the listener are the rounds.
    pub(super) fn round(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        for track in self.connections().values() {
            track.check(now);
        }
    }

    /// From now on every answer is the last of its connection, and connections that can say so without one do.
    pub(super) fn drain(&self) {
        self.go_on(Stage::Draining);
    }

    /// Ends all connections, each as soon as nothing is under way on it.
    pub(super) fn end(&self) {
        self.go_on(Stage::Ending);
    }

    fn go_on(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
        for track in self.connections().values() {
            self.bring_on(track);
        }
    }

    fn bring_on(&self, track: &Track) {
        let ending = self.is_at(Stage::Ending);
        if ending || self.is_at(Stage::Draining) && track.protocol == Protocol::Http2 {
            track.end();
        }
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::SeqCst) >= stage as u8
    }

    /// Cuts off all connections. Returns whether no request was under way.
    pub(super) fn cut(&self) -> bool {
        let mut clean = true;
        for track in self.connections().values() {
            clean &= track.under_way.load(Ordering::Relaxed) == 0;
            track.tell(Order::Cut);
        }
        clean
    }

    /// Cuts off the connection that has asked nothing for longest, of those on which no request is under way. Returns
    /// whether there is one.
    pub(super) fn cut_idlest(&self) -> bool {
        let connections = self.connections();
        let idle = connections
            .iter()
            .filter(|(_, track)| track.under_way.load(Ordering::Relaxed) == 0 && track.order() < Order::Cut);
        let idlest = idle.min_by_key(|(number, track)| (track.idle_since.load(Ordering::Relaxed), **number));
        idlest.map(|(_, track)| track.tell(Order::Cut)).is_some()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.connections().is_empty()
    }

    /// Waits until a connection has ended.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Track {
    /// A request has come whose headers are complete; it is under way until what this gives is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.head_since.store(NONE, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Whether an answer that is given now is the last of its connection, and has to say so itself.
    pub(super) fn is_last(&self) -> bool {
        self.protocol == Protocol::Http1
            && (self.sweep.is_at(Stage::Draining)
                || self.retired_since.load(Ordering::Relaxed) != NONE
                || self.order() > Order::Serve)
    }

    fn retire(&self) {
        match self.protocol {
            Protocol::Http1 => self.begin_once(&self.retired_since),
            Protocol::Http2 => self.end(),
        }
    }

    fn end(&self) {
        self.begin_once(&self.ending_since);
        self.tell(Order::End);
    }

    /// What is begun again goes on since it was begun first.
    fn begin_once(&self, since: &AtomicU32) {
        // An error means that it has begun.
        let _ = since.compare_exchange(NONE, self.sweep.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::SeqCst) < order as u8
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }

    fn order(&self) -> Order {
        match self.order.load(Ordering::SeqCst) {
            order if order >= Order::Cut as u8 => Order::Cut,
            order if order == Order::End as u8 => Order::End,
            _ => Order::Serve,
        }
    }

    fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == NONE
    }

    fn check(&self, now: Second) {
        let over = |since: &AtomicU32, bound: &Bound| {
            let since = since.load(Ordering::Relaxed);
            since != NONE && u64::from(now.saturating_sub(since)) > bound.time().as_secs()
        };
        if over(&self.head_since, &bounds::HEADERS_TIME) || over(&self.stalled_since, &bounds::STALL_TIME) {
            self.tell(Order::Cut);
        } else if self.is_idle() && over(&self.idle_since, &bounds::FAREWELL_TIME) {
            if over(&self.ending_since, &bounds::FAREWELL_TIME) {
                self.tell(Order::Cut);
            } else if over(&self.idle_since, &bounds::IDLE_TIME)
                || over(&self.retired_since, &bounds::LINGER_TAKEN_OVER)
            {
                self.end();
            }
        }
    }
}

/// A request that waits for its answer.
pub(super) struct UnderWay(Arc<Track>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.sweep.now(), Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that the sweep sees. It leaves when this is dropped.
pub(super) struct Tracked {
    number: u64,
    track: Arc<Track>,
}

impl Tracked {
    /// What is told of it.
    pub(super) fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// Drives it to its end: by itself, or because the sweep wants it.
    pub(super) async fn drive<C: GracefulConnection>(self, connection: C) -> Result<(), C::Error> {
        let mut connection = pin!(connection);
        let mut ending = false;
        poll_fn(|context| {
            self.track.task.get_or_init(|| context.waker().clone());
            loop {
                // First, so that a request that has come already is seen before an idle connection is closed.
                if let Poll::Ready(result) = connection.as_mut().poll(context) {
                    return Poll::Ready(result);
                }
                // A request of which only a part has come would be lost; its answer will be the last one.
                let has_to_wait = self.track.protocol == Protocol::Http1 && !self.track.is_idle();
                match self.track.order() {
                    Order::End if !has_to_wait && !mem::replace(&mut ending, true) => {
                        connection.as_mut().graceful_shutdown();
                    }
                    Order::Serve | Order::End => return Poll::Pending,
                    Order::Cut => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let sweep = &self.track.sweep;
        sweep.connections().remove(&self.number);
        sweep.ended.notify_one();
    }
}

/// A stream that tells of its bytes.
pub(super) struct TrackedStream<S> {
    stream: S,
    track: Arc<Track>,
}

impl<S> TrackedStream<S> {
    /// Of the connection that `track` is told of.
    pub(super) fn new(stream: S, track: &Arc<Track>) -> TrackedStream<S> {
        TrackedStream { stream, track: Arc::clone(track) }
    }

    /// Notes whether bytes go out.
    fn written<T>(&self, result: Poll<io::Result<T>>, all: bool) -> Poll<io::Result<T>> {
        let stalled = &self.track.stalled_since;
        match result {
            Poll::Pending if stalled.load(Ordering::Relaxed) == NONE => {
                stalled.store(self.track.sweep.now(), Ordering::Relaxed);
            }
            Poll::Ready(_) if all && stalled.load(Ordering::Relaxed) != NONE => {
                stalled.store(NONE, Ordering::Relaxed);
            }
            _ => {}
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let track = &self.track;
        if track.protocol == Protocol::Http1 && buffer.filled().len() > before && track.is_idle() {
            track.head_since.store(track.sweep.now(), Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, false)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flushed, true)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(shut, true)
    }
}
