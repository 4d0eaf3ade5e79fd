//! Lines of the log that others can cause: of each kind so many a second, and then one that says how many were left out.
//! What is not written is not formatted either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

const SECOND: Duration = Duration::from_secs(1);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image, or a whole review, was denied or would have been.
    Denial,
    /// A policy gave no decision.
    Malfunction,
    /// A policy's own.
    Policy,
    /// A request that got no verdict.
    Request,
    /// A TLS handshake that failed.
    Handshake,
    /// A connection that was closed for others.
    Connection,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Kind; 6] =
        [Kind::Denial, Kind::Malfunction, Kind::Policy, Kind::Request, Kind::Handshake, Kind::Connection];

    /// As metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Denial => "denial",
            Kind::Malfunction => "malfunction",
            Kind::Policy => "policy",
            Kind::Request => "request",
            Kind::Handshake => "handshake",
            Kind::Connection => "connection",
        }
    }

    /// As the log calls many of them.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Denial => "denials",
            Kind::Malfunction => "malfunctions",
            Kind::Policy => "lines of policies",
            Kind::Request => "refused requests",
            Kind::Handshake => "refused TLS handshakes",
            Kind::Connection => "connections closed for others",
        }
    }
}

/// How much was written lately.
pub struct Lines {
    since: Instant,
    kinds: [Written; Kind::ALL.len()],
}

#[derive(Default)]
struct Written {
    /// The second that is counted in its upper half, and the lines of it in the lower.
    lately: AtomicU64,
    left_out: AtomicU64,
    /// All that were left out until now.
    total: AtomicU64,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { since: Instant::now(), kinds: Default::default() }
    }
}

impl Lines {
    /// Whether one more line of this kind may be written now. Who is told no leaves it out; it is counted, and told of
    /// within a second.
    pub fn may(self: &Arc<Self>, kind: Kind) -> bool {
        let Some(written) = self.kinds.get(kind as usize) else { return true };
        let second = self.since.elapsed().as_secs() << 32;
        let one_more = |lately: u64| Some(if lately < second { second + 1 } else { lately + 1 });
        let before = written.lately.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let before = before.unwrap_or_default();
        if before < second || before & u64::from(u32::MAX) < limits::LINES.default {
            return true;
        }
        written.total.fetch_add(1, Ordering::Relaxed);
        if written.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            let lines = Arc::clone(self);
            // Without a runtime there is nobody to wait: the next one that is left out is told of with this one.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    tokio::time::sleep(SECOND).await;
                    lines.tell(kind);
                });
            }
        }
        false
    }

    /// How many lines of a kind were left out until now.
    pub fn left_out(&self, kind: Kind) -> u64 {
        self.kinds.get(kind as usize).map_or(0, |written| written.total.load(Ordering::Relaxed))
    }

    /// Tells at once of all that were left out.
    pub fn tell_all(&self) {
        Kind::ALL.into_iter().for_each(|kind| self.tell(kind));
    }

    fn tell(&self, kind: Kind) {
        let Some(written) = self.kinds.get(kind as usize) else { return };
        let left_out = written.left_out.swap(0, Ordering::Relaxed);
        if left_out == 0 {
            return;
        }
        tracing::warn!(
            left_out,
            "{left_out} more {} were left out of the log, which takes {} of them a second",
            kind.name(),
            limits::LINES.default
        );
    }
}
