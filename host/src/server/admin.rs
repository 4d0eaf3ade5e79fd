//! Health and status for operators and probes: plain HTTP, on loopback unless configured otherwise.

use std::fmt::Write;
use std::future::Future;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use tokio::net::TcpListener;

use super::connections::{Transport, serve_connections};
use crate::bounds;
use crate::policy::PolicyReader;
use crate::reload::StandingReader;
use crate::status::Status;

#[derive(Clone)]
struct Admin {
    policies: PolicyReader,
    standing: StandingReader,
}

/// Serves `/livez`, `/readyz` and `/status` until `shutdown` comes.
pub async fn serve_admin(
    listener: TcpListener,
    policies: PolicyReader,
    standing: StandingReader,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose and /status here\n") })
        .with_state(Admin { policies, standing });
    serve_connections(listener, Transport::Plain, routes, || bounds::ADMIN_CONNECTIONS.size(), shutdown)
        .await;
}

/// Ready as long as a set is in force, whatever became of newer ones; `?verbose` lists the checks in Kubernetes' form.
async fn ready(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    if !verbose {
        return "ok".into_response();
    }
    let status = Status::now(&admin.policies, &admin.standing);
    let mut lines =
        format!("[+]generation {}-{} ok\n", status.generation.publication.number, status.generation.digest);
    for policy in &status.policies {
        let not_loaded = policy.error.as_ref().map(|_| "not loaded");
        // Writing to a String cannot fail.
        let _ = match not_loaded.or(policy.failing.as_deref()) {
            None => writeln!(lines, "[+]policy {} ok", policy.name),
            Some(why) => writeln!(lines, "[-]policy {} failed: {why}", policy.name),
        };
    }
    for problem in &status.problems {
        let _ = writeln!(lines, "[-]{} failed: {}", problem.subject, problem.message);
    }
    lines.push_str("readyz check passed\n");
    lines.into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    Json(Status::now(&admin.policies, &admin.standing)).into_response()
}
