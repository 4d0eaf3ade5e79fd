//! Connections before the end of their handshake, and those that wait for a place among the connections that serve.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::clients;
use crate::bounds;

/// How far a connection has come, the most dispensable first.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Progress {
    /// It waits for a place, because its client has at least as many connections as any other.
    Waits,
    /// Its client has sent nothing yet.
    Silent,
    /// Its client has sent something.
    Heard,
    /// Its client has sent all that the host needs to answer.
    Greeted,
    /// It was accepted just now, so the host has not looked yet.
    Fresh,
}

/// All pending connections, within a bound.
#[derive(Default)]
pub(super) struct Handshakes {
    table: Mutex<Table>,
    ended: Notify,
}

#[derive(Default)]
struct Table {
    pending: BTreeMap<u64, Entry>,
    /// How many are pending of each address.
    of: HashMap<IpAddr, usize>,
    numbers: u64,
}

struct Entry {
    address: IpAddr,
    progress: Arc<AtomicU8>,
    /// Dropped to give the connection up.
    _keep: oneshot::Sender<()>,
}

/// One pending connection.
pub(super) struct PendingHandshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    progress: Arc<AtomicU8>,
    /// Resolves when the connection has to go: for others, or because the host stops.
    pub(super) given_up: oneshot::Receiver<()>,
}

impl Handshakes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many are pending.
    pub(super) fn len(&self) -> usize {
        self.table().pending.len()
    }

    /// Waits until one is pending no more.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Gives up all.
    pub(super) fn give_up_all(&self) {
        let mut table = self.table();
        table.pending.clear();
        table.of.clear();
        self.ended.notify_one();
    }

    /// Adds a connection of `peer`. Where there are too many, one is given up: of the address that has most, the one that
    /// has come least far, and of those the oldest.
    pub(super) fn enter(self: &Arc<Self>, peer: SocketAddr) -> PendingHandshake {
        let (keep, given_up) = oneshot::channel();
        let progress = Arc::new(AtomicU8::new(Progress::Fresh as u8));
        let address = clients::network(peer);
        let mut table = self.table();
        table.numbers += 1;
        let number = table.numbers;
        table.pending.insert(number, Entry { address, progress: Arc::clone(&progress), _keep: keep });
        *table.of.entry(address).or_default() += 1;
        if table.pending.len() > bounds::ENTERING.size()
            && let Some(dispensable) = table.most_dispensable()
        {
            table.remove(dispensable);
        }
        drop(table);
        PendingHandshake { handshakes: Arc::clone(self), number, progress, given_up }
    }
}

impl Table {
    fn most_dispensable(&self) -> Option<u64> {
        let of = |entry: &Entry| self.of.get(&entry.address).copied().unwrap_or_default();
        let rank = |(number, entry): &(&u64, &Entry)| {
            (usize::MAX - of(entry), entry.progress.load(Ordering::Relaxed), **number)
        };
        self.pending.iter().min_by_key(rank).map(|(number, _)| *number)
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
    /// Records how far the connection has come.
    pub(super) fn progress(&self) -> impl Fn(Progress) + use<> {
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

    /// Who among 256 others is given up for one more.
    fn given_up(others: impl Fn(u16) -> (u8, Progress)) -> Option<usize> {
        let handshakes = Arc::<Handshakes>::default();
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let mut pending: Vec<_> = (0..bounds::ENTERING.size() as u16)
            .map(|number| {
                let (last, progress) = others(number);
                let pending = handshakes.enter(address(last));
                pending.progress()(progress);
                pending
            })
            .collect();
        // It is of the address with most.
        pending.push(handshakes.enter(address(1)));
        pending.iter_mut().position(|pending| {
            pending.given_up.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        })
    }

    #[test]
    fn the_most_dispensable_handshake_is_given_up() {
        use Progress::{Greeted, Heard, Silent, Waits};
        for (what, others, expected) in [
            ("the oldest of equals", &(|_| (1u8, Heard)) as &dyn Fn(u16) -> (u8, Progress), 0),
            ("who has sent nothing", &|number| (1, if number == 7 { Silent } else { Heard }), 7),
            ("the oldest, whatever a new one has done", &|_| (1, Greeted), 0),
            ("who is not greeted", &|number| (1, if number == 9 { Heard } else { Greeted }), 9),
            ("who waits for a place", &|number| (1, if number == 11 { Waits } else { Silent }), 11),
            (
                "the address with most, however far",
                &|number| {
                    (
                        if number < 5 { number as u8 + 20 } else { 1 },
                        if number < 5 { Silent } else { Greeted },
                    )
                },
                5,
            ),
        ] {
            assert_eq!(given_up(others), Some(expected), "{what}");
        }
    }
}
