//! Fairness: the one place that decides who is served, who waits and who is closed when a listener is full.
//!
//! A connection first takes its handshake and waits for a slot; until then it is *pending*. With a slot it is
//! *served*. Both numbers are limited.
//!
//! 1. Too many pending connections: one of the network with the most pending connections is closed
//!    ([`dispensable`]).
//! 2. A free slot: the waiting client with the fewest served connections gets it ([`next_to_serve`]).
//! 3. No free slot: a served connection is closed for the waiting one, if the rule of the listener ([`Room`])
//!    allows that. Otherwise the connection waits.
//!
//! A pending client is known by its network only, a served one by the subject of its certificate. So a client
//! that opens many connections pays with its own.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use crate::limits;

/// The progress of a pending connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Progress {
    /// The client has not yet sent a complete ClientHello.
    Begun,
    /// The client's ClientHello is complete, and the handshake goes on.
    Greeted,
    /// The connection waits for a slot, and none could be freed: its client has at least as many connections
    /// as any other, or the other connections are in use.
    Waits,
}

/// Returns the pending connection to close, given those of the networks with the most pending connections,
/// oldest first: one that waits for a slot, else the oldest at the step of the handshake where most of them
/// are. So a crowd that stalls at one step makes room for a client that proceeds.
pub(super) fn dispensable(of_most: impl Iterator<Item = (u64, Progress)> + Clone) -> Option<u64> {
    let at = |progress: Progress| of_most.clone().filter(move |(_, at)| *at == progress);
    let crowd = match at(Progress::Begun).count() >= at(Progress::Greeted).count() {
        true => Progress::Begun,
        false => Progress::Greeted,
    };
    at(Progress::Waits).chain(at(crowd)).map(|(number, _)| number).next()
}

/// Returns the waiting connection that gets the next slot, given each with the number of served connections
/// of its client: of the clients with the fewest, the connection that has waited longest.
pub(super) fn next_to_serve(waiting: impl Iterator<Item = (u64, usize)>) -> Option<u64> {
    waiting.min_by_key(|(number, served)| (*served, *number)).map(|(number, _)| number)
}

/// A served connection, for the choice of the one to close.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) number: u64,
    /// Number of served connections of its client.
    pub(super) of_client: usize,
    /// Whether a request is pending or a response is not yet received in full.
    pub(super) busy: bool,
    /// Whether the client has ever received a response on it.
    pub(super) used: bool,
    /// Time at which its last request ended.
    pub(super) active: Instant,
}

impl Served {
    /// Returns whether the connection is in use: a short time without a request may be the time between two.
    fn is_in_use(&self, now: Instant) -> bool {
        (self.busy || self.used) && now < self.active + limits::FAREWELL_TIME.time()
    }
}

/// Divisor of the limit of connections. Every client is guaranteed that part of the limit: a client with
/// three connections loses none in use to a crowd of clients with one connection each.
const GUARANTEED: usize = 64;

/// The rule by which a listener closes a served connection for a waiting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Room {
    /// Closes a connection of the client with the most connections, if the new connection's client has fewer.
    /// If the difference is one, or no client exceeds its guarantee, only a connection that is not in use is
    /// closed. A connection that never had a response goes first, so a crowd gains nothing by reconnecting;
    /// then the one that has been idle longest.
    OfMost,
    /// Closes the connection that has been idle longest, of any client.
    Idlest,
}

impl Room {
    /// Returns the connection to close for a new one. Its client has `own` served connections, and no client
    /// has more than `most`. Returns None if the new connection must wait.
    pub(super) fn displaced(
        self,
        (own, most): (usize, usize),
        limit: usize,
        served: impl Iterator<Item = Served>,
        now: Instant,
    ) -> Option<u64> {
        let displaced = match self {
            Room::Idlest => served.filter(|one| !one.busy).min_by_key(|one| (one.active, one.number)),
            Room::OfMost => {
                let counts = |connections: usize| connections.max(limit / GUARANTEED);
                let (own, most) = (counts(own + 1), counts(most));
                let may_go =
                    |one: &Served| counts(one.of_client) == most && (own < most || !one.is_in_use(now));
                let candidates = served.filter(|one| own <= most && may_go(one));
                candidates.min_by_key(|one| (one.used, one.active, one.number))
            }
        };
        displaced.map(|one| one.number)
    }
}

/// Numbers of connections by their owner.
#[derive(Debug)]
pub(super) struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Counts<K> {
        Counts(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Counts<K> {
    pub(super) fn add(&mut self, owner: &K) {
        *self.0.entry(owner.clone()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, owner: &K) {
        if let Some(count) = self.0.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(owner);
            }
        }
    }

    pub(super) fn of(&self, owner: &K) -> usize {
        self.0.get(owner).copied().unwrap_or_default()
    }

    /// Returns the number of the owner with the most.
    pub(super) fn most(&self) -> usize {
        self.0.values().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_handshakes_makes_room_for_one_more() {
        use Progress::{Begun, Greeted, Waits};
        for (pending, closed, why) in [
            (&[Begun, Begun, Begun][..], 0, "the oldest of equals"),
            (&[Greeted, Begun, Begun], 1, "a client passes those that have not begun"),
            (&[Begun, Greeted, Greeted], 1, "a client begins beside those that stand still"),
            (&[Begun, Begun, Waits], 2, "one that only waits"),
        ] {
            let pending = (0..).zip(pending.iter().copied());
            assert_eq!(dispensable(pending), Some(closed), "{why}");
        }
    }

    #[test]
    fn a_slot_goes_to_the_client_with_the_fewest_connections() {
        assert_eq!(next_to_serve([(1, 2), (2, 1), (3, 1)].into_iter()), Some(2));
        assert_eq!(next_to_serve([].into_iter()), None);
    }

    /// A served connection: the number of its client's connections, `busy`, `used` or `new`, and the second
    /// at which it was last active.
    type Row = (usize, &'static str, u64);

    #[test]
    fn the_connection_to_close_follows_the_rule_of_the_listener() {
        let began = Instant::now();
        let now = began + limits::FAREWELL_TIME.time() + std::time::Duration::from_secs(100);
        let late = (now - began).as_secs();
        let closed = |room: Room, own: usize, limit: usize, rows: &[Row]| {
            let served = (0..).zip(rows).map(|(number, (of_client, state, active))| Served {
                number,
                of_client: *of_client,
                busy: *state == "busy",
                used: *state == "used",
                active: began + std::time::Duration::from_secs(*active),
            });
            let most = rows.iter().map(|row| row.0).max().unwrap_or_default();
            room.displaced((own, most), limit, served, now)
        };
        let of_most = |own, limit, rows: &[Row]| closed(Room::OfMost, own, limit, rows);
        assert_eq!(of_most(0, 4, &[(3, "busy", late), (1, "new", 0)]), Some(0), "of the client with most");
        assert_eq!(of_most(3, 4, &[(3, "new", 0), (1, "new", 0)]), None, "no client has more");
        assert_eq!(of_most(0, 4, &[(1, "busy", late), (1, "used", late)]), None, "in use");
        assert_eq!(of_most(0, 4, &[(1, "busy", late), (1, "used", 0)]), Some(1), "no longer in use");
        assert_eq!(of_most(0, 4, &[(2, "used", 0), (2, "new", 5)]), Some(1), "never had a response");
        assert_eq!(of_most(0, 4, &[(2, "used", 5), (2, "used", 0)]), Some(1), "idle longest");
        assert_eq!(of_most(0, 64 * 3, &[(3, "busy", late), (1, "used", late)]), None, "within the guarantee");
        assert_eq!(
            of_most(2, 64 * 3, &[(3, "used", late), (1, "new", 0)]),
            Some(1),
            "of any client within it"
        );
        let idlest = |rows: &[Row]| closed(Room::Idlest, 9, 4, rows);
        assert_eq!(idlest(&[(1, "busy", 0), (1, "used", 1), (1, "new", 2)]), Some(1), "idle longest");
        assert_eq!(idlest(&[(1, "busy", 0)]), None, "none is idle");
    }
}
