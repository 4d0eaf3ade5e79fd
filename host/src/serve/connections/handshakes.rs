//! Pending connections: those in their TLS handshake, and those that wait for a slot among the served
//! connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::client_identity;
use super::fairness::{self, Counts, Progress};
use crate::limits;

/// All pending connections, within a limit.
#[derive(Default)]
pub(in crate::serve) struct Handshakes {
    table: Mutex<Table>,
    ended: Notify,
}

#[derive(Default)]
struct Table {
    pending: BTreeMap<u64, Entry>,
    of: Counts<IpAddr>,
    numbers: u64,
}

struct Entry {
    network: IpAddr,
    progress: Progress,
    /// Dropped to close the connection.
    _keep: oneshot::Sender<()>,
}

/// A pending connection.
pub(in crate::serve) struct PendingHandshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    /// Resolves when the connection must be closed: to make room for others, or at shutdown.
    pub(in crate::serve) given_up: oneshot::Receiver<()>,
}

impl Handshakes {
    /// Returns the number of pending connections.
    pub(in crate::serve) fn len(&self) -> usize {
        self.table.lock().pending.len()
    }

    /// Waits until a connection is no longer pending.
    pub(in crate::serve) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Closes all pending connections.
    pub(in crate::serve) fn give_up_all(&self) {
        let mut table = self.table.lock();
        table.pending.clear();
        table.of = Counts::default();
        self.ended.notify_one();
    }

    /// Adds a connection of `peer`. If the limit is exceeded, closes a pending connection.
    pub(in crate::serve) fn enter(self: &Arc<Self>, peer: SocketAddr) -> PendingHandshake {
        let (keep, given_up) = oneshot::channel();
        let network = client_identity::network(peer);
        let mut table = self.table.lock();
        table.numbers += 1;
        let number = table.numbers;
        table.pending.insert(number, Entry { network, progress: Progress::Begun, _keep: keep });
        table.of.add(&network);
        if table.pending.len() > limits::ENTERING.size()
            && let Some(dispensable) = table.dispensable()
        {
            table.remove(dispensable);
        }
        drop(table);
        PendingHandshake { handshakes: Arc::clone(self), number, given_up }
    }
}

impl Table {
    /// Returns the pending connection to close.
    fn dispensable(&self) -> Option<u64> {
        let most = self.of.most();
        let of_most = self.pending.iter().filter(|(_, entry)| self.of.of(&entry.network) == most);
        fairness::dispensable(of_most.map(|(number, entry)| (*number, entry.progress)))
    }

    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.pending.remove(&number) {
            self.of.remove(&entry.network);
        }
    }
}

impl PendingHandshake {
    /// Returns a function that records the progress of the connection.
    pub(in crate::serve) fn progress(&self) -> impl Fn(Progress) + use<> {
        let (handshakes, number) = (Arc::clone(&self.handshakes), self.number);
        move |now| {
            if let Some(entry) = handshakes.table.lock().pending.get_mut(&number) {
                entry.progress = now;
            }
        }
    }
}

impl Drop for PendingHandshake {
    fn drop(&mut self) {
        self.handshakes.table.lock().remove(self.number);
        self.handshakes.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection over the limit closes one of the network with the most.
    #[test]
    fn a_crowd_of_handshakes_makes_room_for_one_more() {
        let handshakes = Arc::<Handshakes>::default();
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let others = (0..limits::ENTERING.size() as u16).map(|number| {
            let pending = handshakes.enter(address(if number < 5 { number as u8 + 20 } else { 1 }));
            pending.progress()(Progress::Greeted);
            pending
        });
        let mut pending: Vec<_> = others.collect();
        pending.push(handshakes.enter(address(1)));
        let closed = Err(oneshot::error::TryRecvError::Closed);
        let position = pending.iter_mut().position(|pending| pending.given_up.try_recv() == closed);
        assert_eq!(position, Some(5));
    }
}
