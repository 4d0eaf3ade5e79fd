//! The connections that a listener serves: within a limit, by client, and until each one's end.

use std::collections::{BTreeMap, HashMap};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use hyper_util::server::graceful::GracefulConnection;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lifetime::{Announced, Directive, Lifetime, Protocol, Step, TooLate};
use crate::evaluate::turns::{Client, Turns};
use crate::limits;
use crate::tls::{Tls, TlsReader};

/// Time between two attempts to get a place: a connection that has to stay at one moment may go at the next.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// The connections of a listener.
pub(in crate::serve) struct Registry {
    limit: Box<dyn Fn() -> usize + Send + Sync>,
    table: Mutex<Table>,
    ended: Notify,
}

struct Table {
    connections: BTreeMap<u64, Entry>,
    /// How many connections each client has, without those that go in favour of others.
    of: HashMap<Client, usize>,
    /// Connections that wait for a place, in order.
    waiting: BTreeMap<u64, Waiting>,
    numbers: u64,
    /// The instruction to all of them, and to those that come.
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
    /// The connection goes in favour of another.
    displaced: bool,
}

/// The part of the limit, as its divisor, up to which a client's connections are as good as anybody's: a client with
/// three gives none up to a crowd of clients with one each.
const GUARANTEED: usize = 64;

/// How a listener makes room for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Room {
    /// The client that has most connections gives one up, if the new connection's client has fewer. Where no client has
    /// more than is guaranteed, a connection goes that is not in use.
    OfMost,
    /// The connection that is idle longest goes, whoever it belongs to.
    Idlest,
}

/// A connection, as those that serve it record it.
pub(in crate::serve) struct Track {
    client: Client,
    lifetime: Mutex<Lifetime>,
    changed: Notify,
    trust: Option<Mutex<Trust>>,
}

/// The client's certificates, and the TLS material by which they were verified.
pub(in crate::serve) struct Trust {
    /// The material in force, of which the client's handshake saw an earlier one or this.
    pub(in crate::serve) material: TlsReader,
    /// The material that the chain was verified by.
    pub(in crate::serve) by: Arc<Tls>,
    /// What the client has shown; nothing where it has to show nothing.
    pub(in crate::serve) chain: Vec<CertificateDer<'static>>,
    /// When the trust ends, if not before.
    pub(in crate::serve) until: Option<SystemTime>,
}

impl Registry {
    /// With room for as many connections as `limit` says at the time.
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many connections are served.
    pub(in crate::serve) fn len(&self) -> usize {
        self.table().connections.len()
    }

    /// Waits for a place for a connection, and takes it. While there is none, `waits` is called each time that another
    /// connection was closed for it, or none could be.
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
            // What could not go at one moment may go at the next.
            if let Ok(Ok(place)) = tokio::time::timeout(BETWEEN_TRIES, &mut given).await {
                return place;
            }
        }
    }

    /// Gives free places to connections that wait: first to the client that has fewest.
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
            // A connection that is gone meanwhile drops the place, which is given to the next.
            let _ = waiting.place.send(place);
        }
    }

    /// Instructs all connections, and those that come.
    pub(in crate::serve) fn direct(&self, directive: Directive) {
        let mut table = self.table();
        table.directive = table.directive.max(directive);
        for entry in table.connections.values() {
            entry.track.follow(directive);
        }
    }

    /// Closes all connections. Returns whether no request was under way.
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

/// Takes a connection from those that wait, when dropped.
struct Leaves<'r> {
    registry: &'r Registry,
    number: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        // Outside of the lock: what waits may hold a place.
        let waiting = self.registry.table().waiting.remove(&self.number);
        drop(waiting);
    }
}

impl Table {
    /// Closes a connection in favour of one of `client`. Returns whether there is one that can go.
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
            // A connection that never had a response goes first: a crowd cannot make it look fresh by coming again.
            let used = room == Room::OfMost && lifetime.is_used();
            let may_go = match room {
                Room::Idlest => !busy,
                // A client with just one connection more loses none on which requests are answered.
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
    /// Returns whose connection this is.
    pub(in crate::serve) fn client(&self) -> &Client {
        &self.client
    }

    fn lifetime(&self) -> MutexGuard<'_, Lifetime> {
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, directive: Directive) {
        self.lifetime().follow(directive, Instant::now());
        self.changed.notify_one();
    }

    /// Records bytes from the client.
    pub(in crate::serve) fn received(&self, bytes: &[u8]) {
        self.lifetime().received(bytes, Instant::now());
    }

    /// Records whether bytes for the client wait.
    pub(in crate::serve) fn stalled(&self, stalled: bool) {
        self.lifetime().stalled(stalled, Instant::now());
    }

    /// Begins a request, of which the head has come.
    ///
    /// # Errors
    /// The connection ends, or its client is no longer trusted.
    pub(in crate::serve) fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Result<Exchange, TooLate> {
        self.check_trust();
        self.lifetime().begin(Instant::now())?;
        Ok(Exchange { track: Arc::clone(self), response: None, announced: Announced::by(headers) })
    }

    /// Returns whether a response that is given now is the last of the connection, and has to say so.
    pub(in crate::serve) fn is_last(&self) -> bool {
        self.lifetime().is_last()
    }

    /// Ends the connection if its client is no longer trusted, or was verified by other TLS material than is in force.
    fn check_trust(&self) {
        let Some(trust) = &self.trust else { return };
        let mut trust = trust.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(directive) = trust.check(SystemTime::now()) else { return };
        drop(trust);
        self.follow(directive);
    }
}

impl Trust {
    /// Returns the instruction to the connection that follows from the material in force and the time; None if the
    /// client is trusted as before.
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
    /// Returns the body that `headers` announce. Only on HTTP/1.1 it matters how.
    fn by(headers: &HeaderMap) -> Announced {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Announced::Chunked;
        }
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Announced::Length(length.unwrap_or_default())
    }
}

/// A request and its response, until the client has taken the response.
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

/// A connection in the registry, which it leaves when this is dropped.
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

    /// Returns the record of the connection.
    pub(in crate::serve) fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// Drives `connection` to its end, in turns of its client.
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
                    // First, so that a request that has come already is seen before an idle connection is closed.
                    if let Poll::Ready(result) = connection.as_mut().poll(context) {
                        return Poll::Ready(result);
                    }
                    let step = self.track.lifetime().step(Instant::now());
                    match step {
                        Step::Close => return Poll::Ready(Ok(())),
                        Step::Shutdown => connection.as_mut().graceful_shutdown(),
                        Step::Wait(until) => {
                            // A sleep that ends too early only asks again, and costs less than one reset a request.
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

/// Waits until other TLS material is in force than the connection has seen.
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
