//! The memory that requests and responses hold on all connections together, and each client's share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::evaluate::turns::Client;
use crate::limits;
use parking_lot::Mutex;

/// The bytes that all clients hold, up to a limit.
#[derive(Default)]
pub(in crate::serve) struct MemoryBudget {
    total: AtomicU64,
    shares: Mutex<HashMap<Client, Weak<Share>>>,
}

/// The bytes that one client holds. A client may hold as much as it leaves free. So with every client that
/// holds much the next gets less, and something is left for every other client.
pub(in crate::serve) struct Share {
    budget: Arc<MemoryBudget>,
    client: Client,
    held: AtomicU64,
}

/// The error for a client that holds more than its share.
#[derive(Debug)]
pub(in crate::serve) struct Exhausted;

/// A number of bytes that count until this value is dropped.
pub(in crate::serve) struct Reservation {
    share: Arc<Share>,
    bytes: u64,
}

impl MemoryBudget {
    /// Returns the share of `client`. All connections of a client have the same share.
    pub(in crate::serve) fn share(self: &Arc<Self>, client: &Client) -> Arc<Share> {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(client).and_then(Weak::upgrade) {
            return share;
        }
        let share =
            Arc::new(Share { budget: Arc::clone(self), client: client.clone(), held: AtomicU64::new(0) });
        shares.insert(client.clone(), Arc::downgrade(&share));
        share
    }
}

impl Share {
    pub(in crate::serve) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns a reservation of no bytes.
    pub(in crate::serve) fn hold(self: &Arc<Self>) -> Reservation {
        Reservation { share: Arc::clone(self), bytes: 0 }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.budget.shares.lock();
        // The client may have a new share by now.
        if shares.get(&self.client).is_some_and(|share| share.strong_count() == 0) {
            shares.remove(&self.client);
        }
    }
}

impl Reservation {
    /// Adds `bytes`.
    ///
    /// # Errors
    /// Returns an error if the client now holds more than its share. The bytes count all the same until this
    /// value is dropped.
    pub(in crate::serve) fn more(&mut self, bytes: u64) -> Result<(), Exhausted> {
        let add = |to: &AtomicU64| to.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let (total, held) = (add(&self.share.budget.total), add(&self.share.held));
        self.bytes = self.bytes.saturating_add(bytes);
        let free = limits::UNDER_WAY.default.saturating_sub(total);
        if held > free { Err(Exhausted) } else { Ok(()) }
    }

    /// Reduces the held bytes to at most `bytes`.
    pub(in crate::serve) fn shrink(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.share.budget.total.fetch_sub(less, Ordering::Relaxed);
        self.share.held.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> Client {
        Client::Subject(Arc::new([number]))
    }

    /// Takes all that `share` gets, in pieces of a mebibyte. Returns the number of pieces.
    fn take(share: &Arc<Share>) -> (Reservation, u64) {
        let (mut held, mut pieces) = (share.hold(), 0);
        while held.more(1 << 20).is_ok() {
            pieces += 1;
        }
        held.shrink(pieces << 20);
        (held, pieces)
    }

    #[test]
    fn clients_that_take_all_they_get_leave_something_to_the_next() {
        let budget = Arc::<MemoryBudget>::default();
        let mut held = Vec::new();
        for (number, expected) in (0..5).zip([128, 64, 32, 16, 8]) {
            let share = budget.share(&client(number));
            let (taken, pieces) = take(&share);
            assert_eq!(pieces, expected);
            assert_eq!(take(&budget.share(&client(number))).1, 0, "the share of all its connections");
            held.push(taken);
        }
        drop(held);
        assert_eq!(take(&budget.share(&client(9))).1, 128, "all was given back");
        assert!(budget.shares.lock().is_empty(), "a client without a connection is forgotten");
    }
}
