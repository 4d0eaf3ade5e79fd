//! Rate limit for log lines that others can cause. Each kind has a number of lines a second, and then one
//! line with the number of those left out. A line that is left out is not formatted either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

const SECOND: Duration = Duration::from_secs(1);

/// The kinds of throttled lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image or a whole review that was denied, or would have been.
    Denial,
    /// A policy that gave no decision.
    Malfunction,
    /// A policy's own log line.
    Policy,
    /// A request that got no verdict.
    Request,
    /// A TLS handshake that failed.
    Handshake,
    /// A connection that was closed to free its slot for another.
    Connection,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Kind; 6] =
        [Kind::Denial, Kind::Malfunction, Kind::Policy, Kind::Request, Kind::Handshake, Kind::Connection];

    /// Returns the name of the kind in metrics.
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

    /// Returns the plural name of the kind in the log.
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

/// A rate limit for log lines: the number of lines written lately, by kind.
pub struct LogThrottle {
    since: Instant,
    kinds: [Written; Kind::ALL.len()],
}

#[derive(Default)]
struct Written {
    /// The current second in the upper half, and its number of lines in the lower half.
    lately: AtomicU64,
    suppressed: AtomicU64,
    /// Number of lines left out since the start.
    total: AtomicU64,
}

impl Default for LogThrottle {
    fn default() -> LogThrottle {
        LogThrottle { since: Instant::now(), kinds: Default::default() }
    }
}

impl LogThrottle {
    /// Returns whether one more line of this kind may be written now. With false the caller leaves it out;
    /// the line is counted and reported within a second.
    pub fn allows(self: &Arc<Self>, kind: Kind) -> bool {
        let Some(written) = self.kinds.get(kind as usize) else { return true };
        let second = self.since.elapsed().as_secs() << 32;
        let one_more = |lately: u64| Some(if lately < second { second + 1 } else { lately + 1 });
        let before = written.lately.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let before = before.unwrap_or_default();
        if before < second || before & u64::from(u32::MAX) < limits::LINES.default {
            return true;
        }
        written.total.fetch_add(1, Ordering::Relaxed);
        if written.suppressed.fetch_add(1, Ordering::Relaxed) == 0 {
            let throttle = Arc::clone(self);
            // Without a runtime there is no timer: the line is reported together with the next one that is
            // left out.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    tokio::time::sleep(SECOND).await;
                    throttle.report_suppressed(kind);
                });
            }
        }
        false
    }

    /// Returns the number of lines of a kind left out since the start.
    pub fn suppressed(&self, kind: Kind) -> u64 {
        self.kinds.get(kind as usize).map_or(0, |written| written.total.load(Ordering::Relaxed))
    }

    /// Reports all lines left out, at once.
    pub fn report_all_suppressed(&self) {
        Kind::ALL.into_iter().for_each(|kind| self.report_suppressed(kind));
    }

    fn report_suppressed(&self, kind: Kind) {
        let Some(written) = self.kinds.get(kind as usize) else { return };
        let left_out = written.suppressed.swap(0, Ordering::Relaxed);
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
