//! What `/metrics` tells: all that the host knows of itself, read when it is asked for.

use std::time::UNIX_EPOCH;

use super::Host;
use super::admin::failing;
use crate::lines;
use crate::metrics::*;
use crate::tls::Role;

impl Host {
    /// The page as it is now.
    pub(super) fn metrics_page(&self) -> String {
        let mut page = Page::default();
        let set = self.policies.current();
        self.metrics.show(&mut page, &set);
        for entry in &set.policies {
            let name = entry.name.as_str();
            let policy = entry.loaded.as_ref().ok();
            let failing = policy.is_none_or(|policy| failing(&policy.record().seen()).is_some());
            page.count(&FAILING, &[name], u64::from(failing));
            let digest = policy.map_or("", |policy| policy.digest());
            let (mode, failure_policy) = (word(&entry.mode), word(&entry.failure_policy));
            page.count(&POLICY_INFO, &[name, &mode, &failure_policy, digest], 1);
            if let Some(policy) = policy {
                page.times(&POLICY_SECONDS, &[name], policy.record().times());
            }
        }
        let (steady, slow) = self.dispatcher.admitted();
        page.count(&WAITING, &["steady"], steady as u64);
        page.count(&WAITING, &["slow"], slow as u64);
        page.count(&GENERATION_INFO, &[&set.generation(), set.digest()], 1);
        page.count(&GENERATION, &[], set.number());
        page.count(&PROBLEMS, &[], self.problems.current().len() as u64);
        let (serving, entering) = self.rooms.taken();
        page.count(&CONNECTIONS, &["serving"], serving as u64);
        page.count(&CONNECTIONS, &["entering"], entering as u64);
        let log = self.decision_log.state();
        for (result, count) in [("written", log.written), ("dropped", log.dropped), ("failed", log.failed)] {
            page.count(&DECISION_LINES, &[result], count);
        }
        page.count(&DECISION_QUEUE, &[], log.waiting as u64);
        let tls = self.tls.current();
        for role in [Role::Serving, Role::ClientCa] {
            // The one that expires first comes first.
            if let Some(first) = tls.certificates().iter().find(|certificate| certificate.role == role) {
                let at = first.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
                page.number(&CERTIFICATE, &[role.name()], at.as_secs_f64());
            }
        }
        for kind in lines::Kind::ALL {
            page.count(&LINES_LEFT_OUT, &[kind.label()], self.lines.left_out(kind));
        }
        page.count(&LINES_LOST, &[], (self.lines_lost)());
        page.text()
    }
}

/// A word as host.yaml has it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::json!(value).as_str().unwrap_or_default().to_owned()
}
