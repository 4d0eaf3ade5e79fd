//! The connections that a listener serves, within a limit and counted by client.

use std::collections::{BTreeMap, HashMap};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::{Mutex, MutexGuard};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lifetime::{Announced, Directive, Lifetime, Protocol, Step, TooLate};
use crate::evaluate::turns::{Client, Turns};
use crate::limits;
use crate::tls::{Tls, TlsReader};

/// Time between two attempts to get a slot: a connection that cannot be closed now may be closable at the
/// next attempt.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// The connections of a listener.
pub(in crate::serve) struct Registry {
    limit: Box<dyn Fn() -> usize + Send + Sync>,
    table: Mutex<Table>,
    ended: Notify,
}

struct Table {
    connections: BTreeMap<u64, Entry>,
    /// Number of connections of each client, without displaced connections.
    of: HashMap<Client, usize>,
    /// Connections that wait for a slot, in order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    numbers: u64,
    /// The directive to all connections, present and future.
    directive: Directive,
}

struct Waiting {
    client: Client,
    protocol: Protocol,
    trust: Option<Trust>,
    place: oneshot::Sender<Tracked>,
}

struct Entry {
    track: Arc<Track>,
    /// Whether the connection is being closed to free its slot for another.
    displaced: bool,
}

/// Divisor of the limit of connections. Every client is guaranteed that part of the limit: a client with
/// three connections loses none in use to a crowd of clients with one connection each.
const GUARANTEED: usize = 64;

/// The way in which a listener makes room for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Room {
    /// Closes a connection of the client with the most connections, if the new connection's client has fewer.
    /// If the difference is one, or no client exceeds its guarantee, only a connection that is not in use is
    /// closed.
    OfMost,
    /// Closes the connection that has been idle longest, of any client.
    Idlest,
}

/// The record of a connection, written by the tasks that serve it.
pub(in crate::serve) struct Track {
    client: Client,
    lifetime: Mutex<Lifetime>,
    changed: Notify,
    trust: Option<Mutex<Trust>>,
}

/// The client's certificates, and the TLS material that verified them.
pub(in crate::serve) struct Trust {
    /// Reader of the material in force, which may be newer than the material of the client's handshake.
    pub(in crate::serve) material: TlsReader,
    /// The material that verified the chain.
    pub(in crate::serve) by: Arc<Tls>,
    /// The client's certificate chain. Empty if no client certificate is required.
    pub(in crate::serve) chain: Vec<CertificateDer<'static>>,
    /// Time at which the trust ends, unless other TLS material ends it before.
    pub(in crate::serve) until: Option<SystemTime>,
}

impl Registry {
    /// Creates an empty registry. `limit` is called at every check of the limit.
    pub(in crate::serve) fn new(limit: impl Fn() -> usize + Send + Sync + 'static) -> Arc<Registry> {
        Arc::new(Registry {
            limit: Box::new(limit),
            table: Mutex::new(Table {
                connections: BTreeMap::new(),
                of: HashMap::new(),
                waiting: BTreeMap::new(),
                numbers: 0,
                directive: Directive::Serve,
            }),
            ended: Notify::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Returns the number of connections that are served.
    pub(in crate::serve) fn len(&self) -> usize {
        self.table().connections.len()
    }

    /// Waits for a slot for a connection, and takes the slot. After each attempt to close another connection,
    /// calls `waits` with whether a connection was closed.
    pub(in crate::serve) async fn enter(
        self: &Arc<Self>,
        client: Client,
        protocol: Protocol,
        trust: Option<Trust>,
        room: Room,
        waits: impl Fn(bool),
    ) -> Tracked {
        let (place, mut given) = oneshot::channel();
        let number = {
            let mut table = self.table();
            table.numbers += 1;
            let number = table.numbers;
            table.waiting.insert(number, Waiting { client: client.clone(), protocol, trust, place });
            number
        };
        let _leaves = Leaves { registry: self, number };
        loop {
            self.give_places();
            if let Ok(place) = given.try_recv() {
                return place;
            }
            waits(self.table().make_room(&client, room, (self.limit)()));
            if let Ok(Ok(place)) = tokio::time::timeout(BETWEEN_TRIES, &mut given).await {
                return place;
            }
        }
    }

    /// Gives free slots to waiting connections, first to the client with the fewest connections.
    fn give_places(self: &Arc<Self>) {
        loop {
            let mut table = self.table();
            if table.connections.len() >= (self.limit)() {
                return;
            }
            let has = |client: &Client| table.of.get(client).copied().unwrap_or_default();
            let waiting = table.waiting.iter().filter(|(_, waiting)| !waiting.place.is_closed());
            let next = waiting.min_by_key(|(number, waiting)| (has(&waiting.client), **number));
            let Some(number) = next.map(|(number, _)| *number) else { return };
            let Some(waiting) = table.waiting.remove(&number) else { return };
            let place = Tracked::new(self, &mut table, &waiting.client, waiting.protocol, waiting.trust);
            drop(table);
            // If the waiting connection is gone meanwhile, the slot is dropped here and given to the next.
            let _ = waiting.place.send(place);
        }
    }

    /// Sends a directive to all connections, present and future.
    pub(in crate::serve) fn direct(&self, directive: Directive) {
        let mut table = self.table();
        table.directive = table.directive.max(directive);
        for entry in table.connections.values() {
            entry.track.follow(directive);
        }
    }

    /// Closes all connections. Returns whether no request was waiting for its response.
    pub(in crate::serve) fn close(&self) -> bool {
        let asked = |entry: &Entry| entry.track.lifetime().is_asked();
        let clean = !self.table().connections.values().any(asked);
        self.direct(Directive::Close);
        clean
    }

    /// Waits until a connection has ended.
    pub(in crate::serve) async fn ended(&self) {
        self.ended.notified().await;
    }
}

/// A guard that removes a connection from the waiting ones when dropped.
struct Leaves<'r> {
    registry: &'r Registry,
    number: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        // Dropped after the lock is released: the removed entry may hold a slot, whose drop takes the lock.
        let waiting = self.registry.table().waiting.remove(&self.number);
        drop(waiting);
    }
}

impl Table {
    /// Closes a connection to make room for a connection of `client`. Returns whether a connection could be
    /// closed.
    fn make_room(&mut self, client: &Client, room: Room, limit: usize) -> bool {
        let now = Instant::now();
        let counts = |count: usize| count.max(limit / GUARANTEED);
        let has = |client: &Client| self.of.get(client).copied().unwrap_or_default();
        let least = counts(has(client) + 1);
        let most = counts(self.of.values().copied().max().unwrap_or_default());
        if room == Room::OfMost && most < least {
            return false;
        }
        let rank = |(number, entry): (&u64, &Entry)| {
            let lifetime = entry.track.lifetime();
            let (busy, active) = (lifetime.is_busy(), lifetime.active());
            // A connection that never had a response goes first, so a crowd gains nothing by reconnecting.
            let used = room == Room::OfMost && lifetime.is_used();
            let may_go = match room {
                Room::Idlest => !busy,
                // A client with only one connection more loses none that is in use.
                Room::OfMost => {
                    let in_use = (busy || used) && now < active + limits::FAREWELL_TIME.time();
                    counts(has(&entry.track.client)) == most && !(in_use && most == least)
                }
            };
            (may_go && !entry.displaced && !lifetime.is_closed()).then_some((used, active, *number))
        };
        let Some((_, _, number)) = self.connections.iter().filter_map(rank).min() else { return false };
        if let Some(entry) = self.connections.get_mut(&number) {
            entry.displaced = true;
            entry.track.follow(Directive::Close);
            let client = entry.track.client.clone();
            self.forget(&client);
        }
        true
    }

    fn forget(&mut self, client: &Client) {
        if let Some(count) = self.of.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(client);
            }
        }
    }
}

impl Track {
    pub(in crate::serve) fn client(&self) -> &Client {
        &self.client
    }

    fn lifetime(&self) -> MutexGuard<'_, Lifetime> {
        self.lifetime.lock()
    }

    fn follow(&self, directive: Directive) {
        self.lifetime().follow(directive, Instant::now());
        self.changed.notify_one();
    }

    /// Records bytes from the client.
    pub(in crate::serve) fn received(&self, bytes: &[u8]) {
        self.lifetime().received(bytes, Instant::now());
    }

    /// Records whether bytes for the client are waiting to be sent.
    pub(in crate::serve) fn stalled(&self, stalled: bool) {
        self.lifetime().stalled(stalled, Instant::now());
    }

    /// Begins a request whose head is complete.
    ///
    /// # Errors
    /// Returns an error if the connection is ending, or if its client is no longer trusted.
    pub(in crate::serve) fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Result<Exchange, TooLate> {
        self.check_trust();
        self.lifetime().begin(Instant::now())?;
        Ok(Exchange { track: Arc::clone(self), response: None, announced: Announced::by(headers) })
    }

    /// Returns whether a response sent now is the last on the connection and must carry `Connection: close`.
    pub(in crate::serve) fn is_last(&self) -> bool {
        self.lifetime().is_last()
    }

    /// Ends the connection if its client is no longer trusted, or was verified by TLS material that is no
    /// longer in force.
    fn check_trust(&self) {
        let Some(trust) = &self.trust else { return };
        let mut trust = trust.lock();
        let Some(directive) = trust.check(SystemTime::now()) else { return };
        drop(trust);
        self.follow(directive);
    }
}

impl Trust {
    /// Returns the directive that follows from the material in force and the time. Returns None if the client
    /// is trusted as before.
    fn check(&mut self, now: SystemTime) -> Option<Directive> {
        let current = self.material.current();
        let same = Arc::ptr_eq(&self.by, &current);
        if same && self.until.is_none_or(|until| now < until) {
            return None;
        }
        self.until = current.trusted_until(&self.chain);
        if self.until.is_some_and(|until| until <= now) {
            return Some(Directive::Revoke);
        }
        self.by = current;
        (!same).then_some(Directive::Retire)
    }
}

impl Announced {
    /// Returns the body that `headers` announce. The kind matters on HTTP/1.1 only.
    fn by(headers: &HeaderMap) -> Announced {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Announced::Chunked;
        }
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Announced::Length(length.unwrap_or_default())
    }
}

/// A request and its response, until the client has received the response.
pub(in crate::serve) struct Exchange {
    track: Arc<Track>,
    response: Option<u64>,
    announced: Announced,
}

impl Exchange {
    /// Records the head of the response.
    pub(in crate::serve) fn respond(&mut self) {
        self.response = Some(self.track.lifetime().respond(Instant::now()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.track.lifetime().ended(self.response, self.announced, Instant::now());
    }
}

/// A connection in the registry. Dropping this value removes the connection.
pub(in crate::serve) struct Tracked {
    registry: Arc<Registry>,
    number: u64,
    track: Arc<Track>,
    material: Option<TlsReader>,
}

impl Tracked {
    fn new(
        registry: &Arc<Registry>,
        table: &mut Table,
        client: &Client,
        protocol: Protocol,
        trust: Option<Trust>,
    ) -> Tracked {
        let material = trust.as_ref().map(|trust| trust.material.clone());
        let track = Arc::new(Track {
            client: client.clone(),
            lifetime: Mutex::new(Lifetime::new(protocol, Instant::now())),
            changed: Notify::new(),
            trust: trust.map(Mutex::new),
        });
        table.numbers += 1;
        let number = table.numbers;
        table.connections.insert(number, Entry { track: Arc::clone(&track), displaced: false });
        *table.of.entry(client.clone()).or_default() += 1;
        track.follow(table.directive);
        Tracked { registry: Arc::clone(registry), number, track, material }
    }

    pub(in crate::serve) fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// Drives `connection` to its end, in the turns of its client.
    pub(in crate::serve) async fn drive<C: GracefulConnection>(
        mut self,
        connection: C,
        turns: &Arc<Turns>,
    ) -> Result<(), C::Error> {
        let mut connection = pin!(connection);
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            let driven = poll_fn(|context| {
                loop {
                    // Polled first, so that a request that has already arrived is seen before an idle
                    // connection is closed.
                    if let Poll::Ready(result) = connection.as_mut().poll(context) {
                        return Poll::Ready(result);
                    }
                    let step = self.track.lifetime().step(Instant::now());
                    match step {
                        Step::Close => return Poll::Ready(Ok(())),
                        Step::Shutdown => connection.as_mut().graceful_shutdown(),
                        Step::Wait(until) => {
                            // A sleep that ends too early only causes another step, which costs less than a
                            // reset for each request.
                            if until < sleep.deadline() || sleep.is_elapsed() {
                                sleep.as_mut().reset(until);
                            }
                            ready!(sleep.as_mut().poll(context));
                        }
                    }
                }
            });
            tokio::select! {
                biased;
                ended = turns.run(&self.track.client, driven) => return ended,
                () = self.track.changed.notified() => {}
                () = changed(&mut self.material) => self.track.check_trust(),
            }
        }
    }
}

/// Waits until TLS material is in force that the connection has not seen. Never returns for a connection
/// without TLS.
async fn changed(material: &mut Option<TlsReader>) {
    match material {
        Some(material) => material.changed().await,
        None => pending().await,
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        if let Some(Entry { track, displaced: false }) = table.connections.remove(&self.number) {
            table.forget(&track.client);
        }
        drop(table);
        self.registry.give_places();
        self.registry.ended.notify_one();
    }
}
