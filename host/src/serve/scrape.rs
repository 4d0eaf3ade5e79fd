//! The page of `/metrics`. All values are read when the page is requested.

use std::time::UNIX_EPOCH;

use super::Host;
use crate::reload::PassCounts;
use crate::serve::metrics::*;
use crate::serve::status::failing;
use crate::telemetry::log_throttle;
use crate::tls::Role;

impl Host {
    /// Renders the current page.
    pub(super) fn metrics_page(&self) -> String {
        let mut page = Page::default();
        let (set, reload) = (self.sources.policies.current(), self.sources.reload_status.current());
        self.metrics.show(&mut page, &set);
        for entry in &set.policies {
            let name = entry.name.as_str();
            let policy = entry.loaded.as_ref().ok();
            let failing = policy.is_none_or(|policy| failing(&policy.stats().snapshot()).is_some());
            page.count(&FAILING, &[name], u64::from(failing));
            let digest = policy.map_or("", |policy| policy.digest());
            let (mode, failure_policy) = (word(&entry.placement.mode), word(&entry.placement.failure_policy));
            page.count(&POLICY_INFO, &[name, &mode, &failure_policy, digest], 1);
            if let Some(policy) = policy {
                page.histogram(&POLICY_SECONDS, &[name], policy.stats().durations());
            }
        }
        let (steady, slow) = self.dispatcher.admitted();
        page.count(&WAITING, &["steady"], steady as u64);
        page.count(&WAITING, &["slow"], slow as u64);
        page.count(&GENERATION_INFO, &[&set.generation(), set.digest()], 1);
        page.count(&GENERATION, &[], set.number());
        let published = set.publication().published.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.number(&PUBLISHED, &[], published.as_secs_f64());
        page.count(&PROBLEMS, &[], self.sources.problems().len() as u64);
        page.count(&PINNED, &[], u64::from(reload.pinned));
        page.count(&WAITS, &[], u64::from(reload.candidate.is_some()));
        let PassCounts { published, unchanged, waiting, failed } = reload.results;
        for (result, count) in
            [("published", published), ("unchanged", unchanged), ("waiting", waiting), ("failed", failed)]
        {
            page.count(&RELOADS, &[result], count);
        }
        page.count(&CONNECTIONS, &["serving"], self.shared.registry.len() as u64);
        page.count(&CONNECTIONS, &["entering"], self.shared.handshakes.len() as u64);
        let log = self.sources.decision_log.state();
        for (result, count) in [("written", log.written), ("dropped", log.dropped), ("failed", log.failed)] {
            page.count(&DECISION_LINES, &[result], count);
        }
        page.count(&DECISION_QUEUE, &[], log.waiting as u64);
        let tls = self.sources.tls.current();
        for role in Role::ALL {
            // The certificates are sorted by expiry.
            if let Some(first) = tls.certificates().iter().find(|certificate| certificate.role == role) {
                let at = first.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
                page.number(&CERTIFICATE, &[role.name()], at.as_secs_f64());
            }
        }
        for kind in log_throttle::Kind::ALL {
            page.count(&LINES_LEFT_OUT, &[kind.label()], self.log_throttle.suppressed(kind));
        }
        page.count(&LINES_LOST, &[], (self.lines_lost)());
        page.text()
    }
}

/// Returns the word for `value` in host.yaml.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::json!(value).as_str().unwrap_or_default().to_owned()
}
