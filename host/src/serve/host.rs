//! The state that the webhook, the admin listener and the control socket share.

use std::sync::Arc;
use std::time::Duration;

use super::connections::Shared;
use super::metrics::Metrics;
use super::status::Sources;
use crate::evaluate::dispatch::Dispatcher;
use crate::reload::Started;
use crate::reload::gate::Recent;
use crate::telemetry::answered::Ids;
use crate::telemetry::log_throttle::LogThrottle;

/// Timeout of writing the rest of the decision log. A working disk needs a tenth of this time.
const WRITING: Duration = Duration::from_secs(3);

/// The state that the webhook works with and the admin listener reports.
pub struct Host {
    pub(super) sources: Sources,
    pub(super) dispatcher: Dispatcher,
    pub(super) shared: Shared,
    pub(super) ids: Ids,
    pub(super) metrics: Metrics,
    pub(super) recent: Arc<Recent>,
    pub(super) log_throttle: Arc<LogThrottle>,
    pub(super) lines_lost: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Host {
    /// Creates a host that judges by the policy set in force. `lines_lost` returns the number of lost log
    /// lines.
    pub fn new(started: &Started, lines_lost: impl Fn() -> u64 + Send + Sync + 'static) -> Arc<Host> {
        let policies = started.policies.clone();
        let dispatcher = Dispatcher::new(&policies.current());
        let limit = move || policies.current().limits.connections;
        Arc::new(Host {
            sources: Sources::of(started),
            dispatcher,
            shared: Shared::new(limit),
            ids: Ids::default(),
            metrics: Metrics::default(),
            recent: Arc::clone(&started.recent),
            log_throttle: Arc::default(),
            lines_lost: Box::new(lines_lost),
        })
    }

    /// Returns the sources of the status.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Logs the counts of suppressed lines, and writes the rest of the decision log.
    pub async fn close(&self) {
        self.log_throttle.report_all_suppressed();
        let log = self.sources.decision_log.clone();
        let closed = tokio::task::spawn_blocking(move || log.close(WRITING));
        if !matches!(closed.await, Ok(true)) {
            tracing::error!("decision log: the disk takes too long, so the last lines are lost");
        }
    }
}
