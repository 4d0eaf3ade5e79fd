//! Health and status for operators and probes: plain HTTP, on loopback unless configured otherwise.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::connections::{Stop, Transport, serve_connections};
use crate::bounds;
use crate::dispatch::Pace;
use crate::policy::{Policy, PolicyReader, Seen};
use crate::reload::ProblemsReader;

#[derive(Clone)]
struct Admin {
    policies: PolicyReader,
    problems: ProblemsReader,
}

/// Serves `/livez`, `/readyz` and `/status` until it has to stop.
pub async fn serve_admin(
    listener: TcpListener,
    policies: PolicyReader,
    problems: ProblemsReader,
    stop: watch::Receiver<Stop>,
) {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is /livez, /readyz?verbose and /status here\n") })
        .with_state(Admin { policies, problems });
    serve_connections(listener, Transport::Plain, routes, Arc::default(), || bounds::ADMIN_CONNECTIONS.size(), stop).await;
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
        let state = match &entry.loaded {
            Err(_) => Err("not loaded".to_owned()),
            Ok(policy) => failing(&policy.record().seen()).map_or(Ok(()), Err),
        };
        // Writing to a String cannot fail.
        let _ = match state {
            Ok(()) => writeln!(lines, "[+]policy {} ok", entry.name),
            Err(why) => writeln!(lines, "[-]policy {} failed: {why}", entry.name),
        };
    }
    for problem in problems.iter() {
        let _ = writeln!(lines, "[-]{} failed: {}", problem.subject, problem.message);
    }
    lines.push_str("readyz check passed\n");
    lines.into_response()
}

/// Malfunctions without an answer between them from which on a policy is told to be failing: one or two may be of the
/// machine.
const FAILING: u64 = 3;

/// How a policy fails that gives no answers any more.
fn failing(seen: &Seen) -> Option<String> {
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
                "record": entry.loaded.as_ref().ok().map(|policy| record(policy)),
            })
        })
        .collect();
    let problems = admin.problems.current();
    let loaded = set.policies.iter().filter_map(|entry| entry.loaded.as_ref().ok());
    let failing = loaded.filter(|policy| failing(&policy.record().seen()).is_some()).count();
    Json(json!({
        "generation": { "number": set.number(), "digest": set.digest() },
        "mode": set.rules.mode,
        "degraded": !problems.is_empty() || failing > 0,
        "policies": policies,
        "problems": problems.iter().map(|problem| json!({
            "subject": problem.subject,
            "message": problem.message,
        })).collect::<Vec<_>>(),
    }))
    .into_response()
}
