//! Health, status and metrics for operators, probes and scrapers: plain HTTP, on loopback unless configured
//! otherwise.

use std::fmt::Write;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::Host;
use super::connections::{Shared, Transport, serve_connections};
use super::pages::Pages;
use crate::isolate;
use crate::limits;
use crate::problem::Subject;
use crate::serve::metrics;
use crate::serve::status::{CertificateStatus, Status};
use crate::text;
use crate::tls::{Nearness, Notices, Role};

/// Increment of the admin thread's nice value (nice(2)), so that reviews take precedence: any user of the
/// machine can send requests to the admin listener as fast as possible.
const NICE: i32 = 10;

/// Serves `/livez`, `/readyz`, `/status` and `/metrics` on a thread of low priority until the returned future
/// is dropped, so that a draining host can be observed to its end.
pub async fn serve_admin(listener: TcpListener, host: Arc<Host>) {
    let (ended, end) = oneshot::channel::<()>();
    let thread = listener.into_std().and_then(|listener| {
        std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            isolate::lower_priority(NICE);
            if let Err(error) = serve_here(listener, host, ended) {
                tracing::error!("admin listener: it cannot serve: {error} (restart the host)");
            }
        })
    });
    match thread {
        // The thread ends when `end` is dropped.
        Ok(_) => _ = end.await,
        Err(error) => tracing::error!("admin listener: it cannot serve: {error} (restart the host)"),
    }
}

/// Serves on the current thread until the receiver of `ended` is dropped.
fn serve_here(
    listener: std::net::TcpListener,
    host: Arc<Host>,
    mut ended: oneshot::Sender<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?.ip();
        let routes = Router::new()
            .route("/readyz", get(ready))
            .route("/status", get(status))
            .layer(from_fn(move |request, next| own_names(address, request, next)))
            // Served under any name: a scraper may know the host by another name, and these pages name no
            // namespace and no image.
            .route("/livez", get(live))
            .route("/metrics", get(metrics_page))
            .fallback(|| async {
                (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose, /status and /metrics here\n")
            })
            .with_state(Pages::new(Arc::clone(&host)));
        let shared = Shared::new(|| limits::ADMIN_CONNECTIONS.size());
        let transport = Transport::Plain(Arc::clone(&host));
        tokio::select! {
            _ = serve_connections(listener, transport, routes, shared, pending()) => {}
            () = host.watch_certificates() => {}
            () = ended.closed() => {}
        }
        Ok(())
    })
}

/// Rejects requests that name another host. Otherwise a web page in a browser could reach the listener under
/// a foreign name (DNS rebinding) and read the status.
async fn own_names(listen: IpAddr, request: Request, next: Next) -> Response {
    let headers = request.headers().get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or("?"));
    let foreign = headers
        .chain(request.uri().authority().map(|authority| authority.as_str()))
        .find(|host| !is_own(host, listen));
    match foreign {
        None => next.run(request).await,
        Some(host) => {
            let host = text::escape_and_truncate(host, 128);
            let message =
                format!("this listener is not `{host}`: ask it as localhost, or by its address {listen}\n");
            (StatusCode::MISDIRECTED_REQUEST, message).into_response()
        }
    }
}

/// Returns whether `host`, with or without a port, names a listener at `listen`. Accepted are an empty name,
/// localhost, a loopback address and `listen`. A listener at the unspecified address accepts every address.
fn is_own(host: &str, listen: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match address.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback() || listen.is_unspecified() || address == listen.to_canonical()
        }
        Err(_) => name.is_empty() || name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

/// Handles `/livez`. Fails if the reload thread has ended: files are no longer watched then, and a restart
/// helps.
async fn live(State(pages): State<Arc<Pages>>) -> Response {
    match pages.host().sources.reload_status.reload_lives() {
        true => "ok".into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "[-]reload failed: it has ended\nlivez check failed\n")
            .into_response(),
    }
}

async fn metrics_page(State(pages): State<Arc<Pages>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], Bytes::clone(&pages.metrics())).into_response()
}

/// Handles `/readyz`. The host is ready while it can respond to reviews by the policy set in force, even if a
/// newer set cannot be loaded: nothing is gained by taking a host out of service that still denies correctly.
/// Other problems are listed as failed checks.
async fn ready(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let parameters = || query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    let verbose = parameters().any(|(key, _)| key == "verbose");
    let mut excluded: Vec<&str> =
        parameters().filter(|(key, _)| *key == "exclude").map(|(_, name)| name).collect();
    let mut lines = String::new();
    let mut ready = true;
    for Check { name, failed, fatal } in &pages.status().checks {
        // Writing to a String cannot fail.
        let _ = match failed {
            _ if excluded.contains(&name.as_str()) => {
                excluded.retain(|excluded| excluded != name);
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
        let names: Vec<_> =
            excluded.iter().map(|name| format!("{:?}", text::escape_and_truncate(name, 64))).collect();
        let names = names.join(", ");
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    match ready {
        true if !verbose => "ok".into_response(),
        true => (lines + "readyz check passed\n").into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, lines + "readyz check failed\n").into_response(),
    }
}

/// A line of `/readyz?verbose`.
pub(super) struct Check {
    name: String,
    failed: Option<String>,
    /// Whether the host cannot respond to any client if the check fails.
    fatal: bool,
}

impl Check {
    fn new(name: impl Into<String>, failed: Option<String>) -> Check {
        Check { name: name.into(), failed, fatal: false }
    }
}

/// Returns the lines of `/readyz?verbose`.
pub(super) fn checks(status: &Status) -> Vec<Check> {
    // Named as the check of an apiserver at shutdown.
    let ends = || "the host accepts no new connections, and exits after the pending responses".to_owned();
    let shutdown = Check { fatal: true, ..Check::new("shutdown", status.draining.then(ends)) };
    let mut checks = vec![shutdown, Check::new("generation", None)];
    checks.extend(status.policies.iter().map(|policy| {
        let not_loaded = policy.error.as_ref().map(|_| "not loaded".to_owned());
        Check::new(format!("policy/{}", policy.name), not_loaded.or_else(|| policy.failing.clone()))
    }));
    for problem in &status.problems {
        let name = match &problem.subject {
            Subject::Policy(name) => format!("policy/{name}"),
            other => other.to_string(),
        };
        let failed = Some(problem.message());
        match checks.iter_mut().find(|check| check.name == name) {
            // The configured version of the policy is not the version in force.
            Some(check) => check.failed = failed,
            None => checks.push(Check::new(name, failed)),
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
            // Clients may need none of the chain's certificates: each may lead to an authority that clients
            // trust without it.
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

async fn status(State(pages): State<Arc<Pages>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], pages.status().json.clone()).into_response()
}

/// Interval between two checks whether a certificate expires.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

impl Host {
    /// Logs notices ahead of the expiry of certificates. Never returns.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_asked_by_its_own_names_only() {
        let own = |host: &str, listen: &str| is_own(host, listen.parse().unwrap());
        for host in
            ["localhost", "LocalHost.:9234", "127.0.0.1:9234", "127.8.8.8", "[::1]:9234", "[::1]", "", ":80"]
        {
            for listen in ["127.0.0.1", "::1", "10.0.0.5", "0.0.0.0", "::"] {
                assert!(own(host, listen), "{host} at {listen}");
            }
        }
        for host in [
            "evil.example",
            "evil.example:9234",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "::1x",
            "[localhost]x",
        ] {
            for listen in ["127.0.0.1", "10.0.0.5", "0.0.0.0", "::"] {
                assert!(!own(host, listen), "{host} at {listen}");
            }
        }
        for (host, listen, expected) in [
            ("10.0.0.5:9234", "10.0.0.5", true),
            ("[::ffff:10.0.0.5]:9234", "10.0.0.5", true),
            ("10.0.0.6:9234", "10.0.0.5", false),
            ("10.0.0.6:9234", "127.0.0.1", false),
            ("10.0.0.6:9234", "0.0.0.0", true),
            ("[fd00::1]:9234", "::", true),
        ] {
            assert_eq!(own(host, listen), expected, "{host} at {listen}");
        }
    }
}
