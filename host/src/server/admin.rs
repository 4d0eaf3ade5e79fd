//! Health and status for operators and probes: plain HTTP, on loopback unless configured otherwise.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use super::Host;
use super::connections::{Rooms, Transport, serve_connections};
use crate::dispatch::Pace;
use crate::policy::{Policy, Seen};
use crate::reload::Problem;
use crate::tls::{Certificate, Nearness, Notices, Role};
use crate::{bounds, metrics, text};

/// Serves `/livez`, `/readyz`, `/status` and `/metrics` until `shutdown` comes.
pub async fn serve_admin(listener: TcpListener, host: Arc<Host>, shutdown: impl Future<Output = ()>) {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics_page))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose, /status and /metrics here\n")
        })
        .with_state(Arc::clone(&host));
    let rooms = Rooms::new(|| bounds::ADMIN_CONNECTIONS.size());
    tokio::select! {
        _ = serve_connections(listener, Transport::Plain, routes, rooms, shutdown) => {}
        () = host.watch_certificates() => {}
    }
}

async fn metrics_page(State(host): State<Arc<Host>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], host.metrics_page()).into_response()
}

/// Ready as long as clients can be answered by a set, whatever became of newer ones: nothing is gained when nobody asks a
/// host that still denies what it has to. What else is not as it should be is listed as failed all the same.
async fn ready(State(host): State<Arc<Host>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let parameters = || query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    let verbose = parameters().any(|(key, _)| key == "verbose");
    let mut excluded: Vec<&str> =
        parameters().filter(|(key, _)| *key == "exclude").map(|(_, name)| name).collect();
    let mut lines = String::new();
    let mut ready = true;
    for Check { name, failed, fatal } in host.checks(SystemTime::now()) {
        // Writing to a String cannot fail.
        let _ = match failed {
            _ if excluded.contains(&name.as_str()) => {
                excluded.retain(|excluded| *excluded != name);
                writeln!(lines, "[+]{name} excluded: ok")
            }
            None => writeln!(lines, "[+]{name} ok"),
            Some(why) => {
                ready &= !fatal;
                writeln!(lines, "[-]{name} failed: {why}")
            }
        };
    }
    if !excluded.is_empty() {
        let names: Vec<_> = excluded.iter().map(|name| format!("{:?}", text::shown(name, 64))).collect();
        let names = names.join(", ");
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    match ready {
        true if !verbose => "ok".into_response(),
        true => (lines + "readyz check passed\n").into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, lines + "readyz check failed\n").into_response(),
    }
}

/// One line of `/readyz?verbose`.
struct Check {
    name: String,
    failed: Option<String>,
    /// Nobody can be answered then.
    fatal: bool,
}

impl Check {
    fn new(name: impl Into<String>, failed: Option<String>) -> Check {
        Check { name: name.into(), failed, fatal: false }
    }
}

impl Host {
    fn checks(&self, now: SystemTime) -> Vec<Check> {
        let set = self.policies.current();
        let mut checks = vec![Check::new("generation", None)];
        checks.extend(set.policies.iter().map(|entry| {
            let failed = match &entry.loaded {
                Err(_) => Some("not loaded".to_owned()),
                Ok(policy) => failing(&policy.record().seen()),
            };
            Check::new(format!("policy/{}", entry.name), failed)
        }));
        for Problem { subject, message } in self.problems.current().iter() {
            let name = subject.replacen("policy ", "policy/", 1);
            match checks.iter_mut().find(|check| check.name == name) {
                // What is in force of it is not what is configured.
                Some(check) => check.failed = Some(message.clone()),
                None => checks.push(Check::new(name, Some(message.clone()))),
            }
        }
        let tls = self.tls.current();
        for role in [Role::Serving, Role::ClientCa] {
            let of_role = || tls.certificates().iter().filter(move |certificate| certificate.role == role);
            let notices: Vec<_> = of_role().filter_map(|certificate| certificate.notice(now)).collect();
            let expired =
                |certificate: &Certificate| matches!(certificate.nearness(now), Some(Nearness::Expired(_)));
            let fatal = match role {
                // Each is of the chain.
                Role::Serving => of_role().any(expired),
                Role::ClientCa => of_role().all(expired),
            };
            if of_role().next().is_some() {
                let failed = (!notices.is_empty()).then(|| notices.join("; "));
                checks.push(Check { fatal, ..Check::new(format!("certificate/{}", role.name()), failed) });
            }
        }
        if self.decision_log.config().is_some() {
            let trouble = self.decision_log.state().trouble;
            checks.push(Check::new("decision-log", trouble.map(|trouble| trouble.to_string())));
        }
        checks
    }

    /// Says in time when certificates expire, as long as it is run.
    async fn watch_certificates(&self) {
        let mut notices = Notices::default();
        let mut looks = tokio::time::interval(BETWEEN_LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            for (nearness, notice) in notices.due(self.tls.current().certificates(), SystemTime::now()) {
                match nearness {
                    Nearness::Expired(_) => tracing::error!("{notice}"),
                    Nearness::Within(_) => tracing::warn!("{notice}"),
                }
            }
        }
    }
}

/// From here on a certificate needs somebody who replaces it.
const SOON: Nearness = Nearness::Within(7);
/// How often is looked whether a certificate expires.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// Malfunctions without an answer between them from which on a policy is told to be failing: one or two may be of the
/// machine.
const FAILING: u64 = 3;

/// How a policy fails that gives no answers any more.
pub(super) fn failing(seen: &Seen) -> Option<String> {
    let (_, last) = seen.last.as_ref().filter(|_| seen.in_a_row >= FAILING)?;
    Some(format!("{} malfunctions in a row, the last one: {last}", seen.in_a_row))
}

/// What a policy has done, for `/status`.
fn record(policy: &Policy) -> serde_json::Value {
    let seen = policy.record().seen();
    let time = |at: &SystemTime| humantime::format_rfc3339_seconds(*at).to_string();
    let malfunctions: serde_json::Map<_, _> = seen
        .malfunctions
        .iter()
        .filter_map(|(kind, count)| Some((json!(kind).as_str()?.to_owned(), json!(count))))
        .collect();
    json!({
        "pace": Pace::of(seen.expected),
        "microsecondsAnImage": seen.expected.as_micros(),
        "snapshot": match policy.snapshot() {
            None => "being taken",
            Some(Ok(())) => "in use",
            Some(Err(why)) => why,
        },
        "evaluations": seen.evaluations,
        "malfunctions": malfunctions,
        "malfunctionsInARow": seen.in_a_row,
        "lastMalfunction": seen.last.as_ref().map(|(at, message)| json!({ "at": time(at), "message": message })),
    })
}

async fn status(State(host): State<Arc<Host>>) -> Response {
    let set = host.policies.current();
    let policies: Vec<_> = set
        .policies
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name.as_str(),
                "mode": entry.mode,
                "failurePolicy": entry.failure_policy,
                "digest": entry.loaded.as_ref().ok().map(|policy| policy.digest()),
                "error": entry.loaded.as_ref().err(),
                "record": entry.loaded.as_ref().ok().map(|policy| record(policy)),
            })
        })
        .collect();
    let problems = host.problems.current();
    let loaded = set.policies.iter().filter_map(|entry| entry.loaded.as_ref().ok());
    let failing = loaded.filter(|policy| failing(&policy.record().seen()).is_some()).count();
    let log = host.decision_log.state();
    let (tls, now) = (host.tls.current(), SystemTime::now());
    let soon = |certificate: &Certificate| certificate.nearness(now).is_some_and(|near| near <= SOON);
    let expiring = tls.certificates().iter().any(soon);
    Json(json!({
        "generation": { "number": set.number(), "digest": set.digest() },
        "mode": set.rules.mode,
        "degraded": !problems.is_empty() || failing > 0 || log.trouble.is_some() || expiring,
        "policies": policies,
        "problems": problems.iter().map(|problem| json!({
            "subject": problem.subject,
            "message": problem.message,
        })).collect::<Vec<_>>(),
        "certificates": tls.certificates(),
        "decisionLog": host.decision_log.config().map(|config| json!({
            "directory": config.directory,
            "written": log.written,
            "dropped": log.dropped,
            "failed": log.failed,
            "waiting": log.waiting,
            "trouble": log.trouble.as_deref(),
        })),
    }))
    .into_response()
}
