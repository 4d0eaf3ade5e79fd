//! Health and status for operators and probes: plain HTTP, on loopback unless configured otherwise.

use std::fmt::Write;
use std::future::Future;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

use super::connections::{Transport, serve_connections};
use crate::bounds;
use crate::policy::PolicyReader;
use crate::reload::ProblemsReader;

#[derive(Clone)]
struct Admin {
    policies: PolicyReader,
    problems: ProblemsReader,
}

/// Serves `/livez`, `/readyz` and `/status` until `shutdown` comes.
pub async fn serve_admin(
    listener: TcpListener,
    policies: PolicyReader,
    problems: ProblemsReader,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose and /status here\n") })
        .with_state(Admin { policies, problems });
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
    let problems = admin.problems.current();
    let set = admin.policies.current();
    let mut lines = format!("[+]generation {} ok\n", set.generation());
    for entry in &set.policies {
        let mark = if entry.loaded.is_ok() { "[+]" } else { "[-]" };
        let state = if entry.loaded.is_ok() { "ok" } else { "failed: not loaded" };
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{mark}policy {} {state}", entry.name);
    }
    for problem in problems.iter() {
        let _ = writeln!(lines, "[-]{} failed: {}", problem.subject, problem.message);
    }
    lines.push_str("readyz check passed\n");
    lines.into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    let set = admin.policies.current();
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
            })
        })
        .collect();
    let problems = admin.problems.current();
    Json(json!({
        "generation": { "number": set.number(), "digest": set.digest() },
        "mode": set.rules.mode,
        "degraded": !problems.is_empty(),
        "policies": policies,
        "problems": problems.iter().map(|problem| json!({
            "subject": problem.subject,
            "message": problem.message,
        })).collect::<Vec<_>>(),
    }))
    .into_response()
}
