//! Pending connections: those in their TLS handshake, and those that wait for a slot among the serving
//! connections.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use super::clients;
use crate::limits;

/// The progress of a pending connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::serve) enum Progress {
    /// The client has not yet sent a complete ClientHello.
    Begun,
    /// The client's ClientHello is complete, and the handshake goes on.
    Greeted,
    /// The connection waits for a slot, and none could be freed: its client has at least as many connections
    /// as any other, or the other connections are in use.
    Waits,
}

/// All pending connections, within a limit.
#[derive(Default)]
pub(in crate::serve) struct Handshakes {
    table: Mutex<Table>,
    ended: Notify,
}

#[derive(Default)]
struct Table {
    pending: BTreeMap<u64, Entry>,
    /// Number of pending connections of each address.
    of: HashMap<IpAddr, usize>,
    numbers: u64,
}

struct Entry {
    address: IpAddr,
    progress: Arc<AtomicU8>,
    /// Dropped to close the connection.
    _keep: oneshot::Sender<()>,
}

/// A pending connection.
pub(in crate::serve) struct PendingHandshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    progress: Arc<AtomicU8>,
    /// Resolves when the connection must be closed: to make room for others, or at shutdown.
    pub(in crate::serve) given_up: oneshot::Receiver<()>,
}

impl Handshakes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Returns the number of pending connections.
    pub(in crate::serve) fn len(&self) -> usize {
        self.table().pending.len()
    }

    /// Waits until a connection is no longer pending.
    pub(in crate::serve) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Closes all pending connections.
    pub(in crate::serve) fn give_up_all(&self) {
        let mut table = self.table();
        table.pending.clear();
        table.of.clear();
        self.ended.notify_one();
    }

    /// Adds a connection of `peer`. If the limit is exceeded, closes a pending connection.
    pub(in crate::serve) fn enter(self: &Arc<Self>, peer: SocketAddr) -> PendingHandshake {
        let (keep, given_up) = oneshot::channel();
        let progress = Arc::new(AtomicU8::new(Progress::Begun as u8));
        let address = clients::network(peer);
        let mut table = self.table();
        table.numbers += 1;
        let number = table.numbers;
        table.pending.insert(number, Entry { address, progress: Arc::clone(&progress), _keep: keep });
        *table.of.entry(address).or_default() += 1;
        if table.pending.len() > limits::ENTERING.size()
            && let Some(dispensable) = table.most_dispensable()
        {
            table.remove(dispensable);
        }
        drop(table);
        PendingHandshake { handshakes: Arc::clone(self), number, progress, given_up }
    }
}

impl Table {
    /// Returns the pending connection to close. Candidates are those of the addresses with the most
    /// connections: first one that waits for a slot, else the oldest at the step of the handshake where most
    /// of them are. So a crowd that stalls at one step makes room for a client that proceeds.
    fn most_dispensable(&self) -> Option<u64> {
        let most = self.of.values().max()?;
        let candidates = || {
            let of_most = |entry: &Entry| self.of.get(&entry.address) == Some(most);
            self.pending.iter().filter(move |(_, entry)| of_most(entry))
        };
        let at = |progress: Progress| {
            candidates().filter(move |(_, entry)| entry.progress.load(Ordering::Relaxed) == progress as u8)
        };
        let crowd = match at(Progress::Begun).count() >= at(Progress::Greeted).count() {
            true => Progress::Begun,
            false => Progress::Greeted,
        };
        at(Progress::Waits).chain(at(crowd)).map(|(number, _)| *number).next()
    }

    fn remove(&mut self, number: u64) {
        let Some(Entry { address, .. }) = self.pending.remove(&number) else { return };
        if let Some(count) = self.of.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&address);
            }
        }
    }
}

impl PendingHandshake {
    /// Returns a function that records the progress of the connection.
    pub(in crate::serve) fn progress(&self) -> impl Fn(Progress) + use<> {
        let progress = Arc::clone(&self.progress);
        move |now| progress.store(now as u8, Ordering::Relaxed)
    }
}

impl Drop for PendingHandshake {
    fn drop(&mut self) {
        self.handshakes.table().remove(self.number);
        self.handshakes.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the position of the connection that is closed when one more is added to `others`.
    fn given_up(others: impl Fn(u16) -> (u8, Progress)) -> Option<usize> {
        let handshakes = Arc::<Handshakes>::default();
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let mut pending: Vec<_> = (0..limits::ENTERING.size() as u16)
            .map(|number| {
                let (last, progress) = others(number);
                let pending = handshakes.enter(address(last));
                pending.progress()(progress);
                pending
            })
            .collect();
        // The address of the new connection is the one with the most connections.
        pending.push(handshakes.enter(address(1)));
        let closed = Err(oneshot::error::TryRecvError::Closed);
        pending.iter_mut().position(|pending| pending.given_up.try_recv() == closed)
    }

    #[test]
    fn a_crowd_of_handshakes_makes_room_for_one_more() {
        use Progress::{Begun, Greeted, Waits};
        let first = |is: Progress, others: Progress| move |number| (1, if number == 0 { is } else { others });
        assert_eq!(given_up(|_| (1, Begun)), Some(0), "the oldest of equals");
        assert_eq!(given_up(first(Greeted, Begun)), Some(1), "a client passes those that have not begun");
        assert_eq!(given_up(first(Begun, Greeted)), Some(1), "a client begins beside those that stand still");
        assert_eq!(
            given_up(|number| (1, if number == 9 { Waits } else { Begun })),
            Some(9),
            "who only waits"
        );
        let few = |number| if number < 5 { (number as u8 + 20, Begun) } else { (1, Greeted) };
        assert_eq!(given_up(few), Some(5), "the address with most");
    }
}
