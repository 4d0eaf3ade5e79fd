//! Health, status and metrics for operators, probes and scrapers: plain HTTP, on loopback unless configured otherwise.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Host;
use super::connections::{Rooms, Stop, Transport, serve_connections};
use crate::reload::Problem;
use crate::status::{CertificateStatus, Status};
use crate::tls::{Nearness, Notices, Role};
use crate::{bounds, metrics, text};

/// Serves `/livez`, `/readyz`, `/status` and `/metrics` until it has to stop.
pub async fn serve_admin(listener: TcpListener, host: Arc<Host>, stop: watch::Receiver<Stop>) {
    let routes = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics_page))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose, /status and /metrics here\n")
        })
        .with_state(Arc::clone(&host));
    let rooms = Rooms::new(|| bounds::ADMIN_CONNECTIONS.size());
    tokio::select! {
        _ = serve_connections(listener, Transport::Plain(Arc::clone(&host)), routes, Arc::default(), rooms, stop) => {}
        () = host.watch_certificates() => {}
    }
}

/// A restart helps where files are followed no more.
async fn live(State(host): State<Arc<Host>>) -> Response {
    match host.sources.standing.reload_lives() {
        true => "ok".into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "[-]reload failed: it has ended\nlivez check failed\n")
            .into_response(),
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
    for Check { name, failed, fatal } in checks(&Status::at(SystemTime::now(), &host.sources)) {
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

fn checks(status: &Status) -> Vec<Check> {
    // In the words of an apiserver that ends.
    let ends = || "it takes no new connections, and ends when the reviews under way are answered".to_owned();
    let shutdown = Check { fatal: true, ..Check::new("shutdown", status.draining.then(ends)) };
    let mut checks = vec![shutdown, Check::new("generation", None)];
    checks.extend(status.policies.iter().map(|policy| {
        let not_loaded = policy.error.as_ref().map(|_| "not loaded".to_owned());
        Check::new(format!("policy/{}", policy.name), not_loaded.or_else(|| policy.failing.clone()))
    }));
    for Problem { subject, message } in &status.problems {
        let name = subject.replacen("policy ", "policy/", 1);
        match checks.iter_mut().find(|check| check.name == name) {
            // What is in force of it is not what is configured.
            Some(check) => check.failed = Some(message.clone()),
            None => checks.push(Check::new(name, Some(message.clone()))),
        }
    }
    for role in Role::ALL {
        let certificates: Vec<_> =
            status.certificates.iter().filter(|certificate| certificate.role == role).collect();
        if certificates.is_empty() {
            continue;
        }
        let invalid = |certificate: &&CertificateStatus| certificate.expired || certificate.not_yet_valid;
        let fatal = match role {
            Role::Serving | Role::ClientCa => certificates.iter().all(invalid),
            // Clients may need none of them: one may lead to an authority that they trust without it.
            Role::ServingChain => false,
        };
        let notices: Vec<_> =
            certificates.iter().filter_map(|certificate| certificate.notice.as_deref()).collect();
        let failed = (!notices.is_empty()).then(|| notices.join("; "));
        checks.push(Check { fatal, ..Check::new(format!("certificate/{}", role.name()), failed) });
    }
    checks.extend(status.decision_log.iter().map(|log| Check::new("decision-log", log.trouble.clone())));
    checks
}

async fn status(State(host): State<Arc<Host>>) -> Response {
    Json(Status::at(SystemTime::now(), &host.sources)).into_response()
}

/// How often is looked whether a certificate expires.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

impl Host {
    /// Says in time when certificates expire, as long as it is run.
    async fn watch_certificates(&self) {
        let mut notices = Notices::default();
        let mut looks = tokio::time::interval(BETWEEN_LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let tls = self.sources.tls.current();
            for (nearness, notice) in notices.due(tls.certificates(), SystemTime::now()) {
                match nearness {
                    Nearness::Expired(_) | Nearness::NotYet => tracing::error!("{notice}"),
                    Nearness::Within(_) => tracing::warn!("{notice}"),
                }
            }
        }
    }
}
