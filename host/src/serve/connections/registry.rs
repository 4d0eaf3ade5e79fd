//! The connections that a listener serves, within a limit and counted by client, and the channel by which
//! each of them gets its directives.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::fairness::{self, Counts, Room};
use super::lifetime::{Directive, Protocol, Step};
use super::revalidation::Trust;
use super::track::Track;
use crate::evaluate::turns::{Client, Turns};
use crate::tls::TlsReader;

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
    of: Counts<Client>,
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
    directives: watch::Sender<Directive>,
    /// Whether the connection is being closed to free its slot for another.
    displaced: bool,
}

impl Entry {
    fn direct(&self, directive: Directive) {
        self.directives.send_if_modified(|current| {
            let modified = directive > *current;
            *current = directive.max(*current);
            modified
        });
    }
}

impl Registry {
    /// Creates an empty registry. `limit` is called at every check of the limit.
    pub(in crate::serve) fn new(limit: impl Fn() -> usize + Send + Sync + 'static) -> Arc<Registry> {
        Arc::new(Registry {
            limit: Box::new(limit),
            table: Mutex::new(Table {
                connections: BTreeMap::new(),
                of: Counts::default(),
                waiting: BTreeMap::new(),
                numbers: 0,
                directive: Directive::Serve,
            }),
            ended: Notify::new(),
        })
    }

    /// Returns the number of connections that are served.
    pub(in crate::serve) fn len(&self) -> usize {
        self.table.lock().connections.len()
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
            let mut table = self.table.lock();
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
            let closed = self.table.lock().make_room(&client, room, (self.limit)());
            waits(closed);
            if let Ok(Ok(place)) = tokio::time::timeout(BETWEEN_TRIES, &mut given).await {
                return place;
            }
        }
    }

    /// Gives free slots to waiting connections.
    fn give_places(self: &Arc<Self>) {
        loop {
            let mut table = self.table.lock();
            if table.connections.len() >= (self.limit)() {
                return;
            }
            let waiting = table.waiting.iter().filter(|(_, waiting)| !waiting.place.is_closed());
            let waiting = waiting.map(|(number, waiting)| (*number, table.of.of(&waiting.client)));
            let next = fairness::next_to_serve(waiting);
            let Some(waiting) = next.and_then(|number| table.waiting.remove(&number)) else { return };
            let place = Tracked::new(self, &mut table, waiting.client, waiting.protocol, waiting.trust);
            drop(table);
            // If the waiting connection is gone meanwhile, the slot is dropped here and given to the next.
            let _ = waiting.place.send(place);
        }
    }

    /// Sends a directive to all connections, present and future.
    pub(in crate::serve) fn direct(&self, directive: Directive) {
        let mut table = self.table.lock();
        table.directive = table.directive.max(directive);
        table.connections.values().for_each(|entry| entry.direct(directive));
    }

    /// Closes all connections. Returns whether no request was waiting for its response.
    pub(in crate::serve) fn close(&self) -> bool {
        let clean = !self.table.lock().connections.values().any(|entry| entry.track.is_asked());
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
        // Dropped after the lock is released: the drop wakes the receiver.
        let waiting = self.registry.table.lock().waiting.remove(&self.number);
        drop(waiting);
    }
}

impl Table {
    /// Closes a connection to make room for a connection of `client`. Returns whether a connection could be
    /// closed.
    fn make_room(&mut self, client: &Client, room: Room, limit: usize) -> bool {
        let served = self.connections.iter().filter(|(_, entry)| !entry.displaced);
        let served =
            served.map(|(number, entry)| entry.track.served(*number, self.of.of(entry.track.client())));
        let displaced = room.displaced((self.of.of(client), self.of.most()), limit, served, Instant::now());
        let Some(entry) = displaced.and_then(|number| self.connections.get_mut(&number)) else {
            return false;
        };
        entry.displaced = true;
        entry.direct(Directive::Close);
        self.of.remove(entry.track.client());
        true
    }
}

/// A connection in the registry. Dropping this value removes the connection.
pub(in crate::serve) struct Tracked {
    registry: Arc<Registry>,
    number: u64,
    track: Arc<Track>,
    directives: watch::Receiver<Directive>,
    material: Option<TlsReader>,
}

impl Tracked {
    fn new(
        registry: &Arc<Registry>,
        table: &mut Table,
        client: Client,
        protocol: Protocol,
        trust: Option<Trust>,
    ) -> Tracked {
        let (sender, directives) = watch::channel(table.directive);
        let material = trust.as_ref().map(Trust::material);
        table.of.add(&client);
        table.numbers += 1;
        let number = table.numbers;
        let track = Arc::new(Track::new(client, protocol, trust));
        track.follow(table.directive);
        let entry = Entry { track: Arc::clone(&track), directives: sender, displaced: false };
        table.connections.insert(number, entry);
        Tracked { registry: Arc::clone(registry), number, track, directives, material }
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
                    match self.track.step() {
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
                // A directive counts for each request that begins after it.
                biased;
                Ok(()) = self.directives.changed() => self.track.follow(*self.directives.borrow_and_update()),
                ended = turns.run(self.track.client(), driven) => return ended,
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
        let mut table = self.registry.table.lock();
        if let Some(Entry { track, displaced: false, .. }) = table.connections.remove(&self.number) {
            table.of.remove(track.client());
        }
        drop(table);
        self.registry.give_places();
        self.registry.ended.notify_one();
    }
}
