//! The pages of the admin listener. Each page is kept for [`KEPT`], so requests at a higher rate render
//! nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Host;
use super::admin::{Check, checks};
use crate::policy::PolicySet;
use crate::reload::ReloadStatus;
use crate::serve::status::Status;
use crate::tls::Tls;

/// Time for which a page is kept.
const KEPT: Duration = Duration::from_millis(100);

/// The pages of a host, each with its cached version.
pub(super) struct Pages {
    host: Arc<Host>,
    metrics: Kept<Bytes>,
    status: Kept<StatusPage>,
}

/// The status, as its document and as checks.
pub(super) struct StatusPage {
    /// The document as JSON. Empty if serialization fails.
    pub(super) json: Bytes,
    /// The lines of `/readyz?verbose`.
    pub(super) checks: Vec<Check>,
}

/// A cached page, with the time and state at which it was rendered.
struct Kept<T>(Mutex<Option<(Instant, InForce, Arc<T>)>>);

/// The state that a cached page must match. No request to the admin listener can change this state, so
/// clients cannot force pages to be rendered.
#[derive(Clone)]
struct InForce {
    policies: Arc<PolicySet>,
    reload: Arc<ReloadStatus>,
    tls: Arc<Tls>,
    draining: bool,
    rejections: bool,
}

impl Pages {
    pub(super) fn new(host: Arc<Host>) -> Arc<Pages> {
        Arc::new(Pages { host, metrics: Kept::default(), status: Kept::default() })
    }

    /// Returns the page of `/metrics`.
    pub(super) fn metrics(&self) -> Arc<Bytes> {
        self.metrics.get(&self.host, || self.host.metrics_page().into())
    }

    /// Returns the status page.
    pub(super) fn status(&self) -> Arc<StatusPage> {
        self.status.get(&self.host, || {
            let status = Status::at(SystemTime::now(), &self.host.sources);
            let json = serde_json::to_vec(&status).unwrap_or_else(|error| {
                tracing::error!(%error, "the status cannot be written as JSON: please report this");
                Vec::new()
            });
            StatusPage { json: json.into(), checks: checks(&status) }
        })
    }

    /// Returns the host of the pages.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept(Mutex::new(None))
    }
}

impl<T> Kept<T> {
    /// Returns the cached page if it is fresh and its state is in force. Otherwise renders a new page.
    fn get(&self, host: &Host, render: impl FnOnce() -> T) -> Arc<T> {
        let now = InForce::of(host);
        let mut kept = self.0.lock();
        if let Some((rendered, state, page)) = &*kept
            && rendered.elapsed() < KEPT
            && state.is(&now)
        {
            return Arc::clone(page);
        }
        let page = Arc::new(render());
        *kept = Some((Instant::now(), now, Arc::clone(&page)));
        page
    }
}

impl InForce {
    fn of(host: &Host) -> InForce {
        let sources = &host.sources;
        InForce {
            policies: sources.policies.current(),
            reload: sources.reload_status.current(),
            tls: sources.tls.current(),
            draining: sources.drain.has_begun(),
            rejections: sources.rejections.problem().is_some(),
        }
    }

    fn is(&self, other: &InForce) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies)
            && Arc::ptr_eq(&self.reload, &other.reload)
            && Arc::ptr_eq(&self.tls, &other.tls)
            && self.draining == other.draining
            && self.rejections == other.rejections
    }
}
