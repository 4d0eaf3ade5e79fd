//! The door for ImageReview over mutual TLS, and the admin listener beside it.

mod admin;
mod budget;
mod connections;
mod sweep;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::BodyExt;
use serde::Serialize;

pub use self::admin::serve_admin;
use self::budget::{Budget, Exhausted, Held};
pub use self::connections::{Stop, serve};
use crate::bounds::{self, Bound};
use crate::config::Mode;
use crate::dispatch::{Dispatcher, Overloaded};
use crate::policy::PolicyReader;
use crate::review::{FailureStatus, ImageReviewAnswer, Review, ReviewError};
use crate::text;
use crate::verdict::{Level, Outcome, Verdict};

/// What the door works with.
pub struct Host {
    policies: PolicyReader,
    dispatcher: Dispatcher,
    budget: Arc<Budget>,
}

impl Host {
    /// A door that judges by what `policies` reads.
    pub fn new(policies: PolicyReader) -> Host {
        let dispatcher = Dispatcher::new(&policies.current());
        Host { policies, dispatcher, budget: Arc::default() }
    }
}

/// The paths of the door; a query is ignored, because the apiserver adds `?timeout=30s`.
pub fn routes(host: Arc<Host>) -> Router {
    Router::new()
        .route("/", any(door))
        .route("/image-review", any(door))
        .route("/image-review/", any(door))
        .fallback(no_such_path)
        .with_state(host)
}

async fn door(State(host): State<Arc<Host>>, method: Method, body: Body) -> Response {
    match method {
        Method::POST => review(&host, body).await,
        Method::GET | Method::HEAD => ABOUT.into_response(),
        method => {
            let message = format!("this door takes POST of an ImageReview, not {method}");
            let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &message);
            // RFC 9110 §15.5.6 wants it.
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            answer
        }
    }
}

const ABOUT: &str = "This is an image policy host: the backend of the kube-apiserver's ImagePolicyWebhook admission \
    plugin.\nPOST an imagepolicy.k8s.io/v1alpha1 ImageReview here to be told whether its images may run.\n";

async fn review(host: &Host, body: Body) -> Response {
    let set = host.policies.current();
    let mut held = host.budget.hold();
    let review = match read(body, set.limits.body, &mut held).await {
        Ok(Ok(bytes)) => Review::parse(&bytes, &set.limits),
        Ok(Err(error)) => Err(error),
        Err(Exhausted) => return overloaded(bounds::UNDER_WAY),
    };
    let (namespace, verdict) = match review {
        Ok(review) => {
            let namespace = review.namespace.clone();
            match host.dispatcher.evaluate(Arc::clone(&set), review).await {
                Ok(verdict) => (namespace, verdict),
                Err(Overloaded) => return overloaded(bounds::QUEUE),
            }
        }
        Err(ReviewError::Refused(reason)) => {
            (String::new(), Verdict::refuse(&set.rules, &set.generation(), &reason))
        }
        Err(ReviewError::NotAnImageReview(message)) => {
            let message = format!("this door takes ImageReview: {message}");
            tracing::warn!("refused a request: {message}");
            return failure(StatusCode::BAD_REQUEST, "BadRequest", &message);
        }
    };
    log(&namespace, &set.generation(), &verdict);
    json(StatusCode::OK, &ImageReviewAnswer::from(&verdict))
}

/// Reads a body of at most `limit` bytes, which are held.
async fn read(mut body: Body, limit: u64, held: &mut Held) -> Result<Result<Bytes, ReviewError>, Exhausted> {
    let mut bytes = Vec::new();
    let mut total = 0u64;
    let arrive = async {
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    let error = text::printable(&error.to_string());
                    let message = format!("the request's body ended early: {error}");
                    return Ok(Err(ReviewError::NotAnImageReview(message)));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            total = total.saturating_add(data.len() as u64);
            if total <= limit {
                held.more(data.len() as u64)?;
                bytes.extend_from_slice(&data);
            } else if total > limit.saturating_add(bounds::BODY_DRAIN.default) {
                break;
            }
        }
        Ok(Ok(()))
    };
    let time = bounds::BODY_TIME.time();
    Ok(match tokio::time::timeout(time, arrive).await {
        Ok(Err(exhausted)) => return Err(exhausted),
        Ok(Ok(Err(error))) => Err(error),
        Ok(Ok(Ok(()))) | Err(_) if total > limit => {
            Err(ReviewError::Refused(bounds::BODY.says(total, limit)))
        }
        Ok(Ok(Ok(()))) => Ok(bytes.into()),
        Err(_) => Err(ReviewError::Refused(bounds::BODY_TIME.says_of(time))),
    })
}

async fn no_such_path(uri: Uri) -> Response {
    let path = text::cut(&text::printable(uri.path()), 128);
    let message = format!("there is nothing at {path}: the door for ImageReview is / (or /image-review)");
    failure(StatusCode::NOT_FOUND, "NotFound", &message)
}

/// Without Retry-After: with it the apiserver would retry eleven times as often (client-go, rest/with_retry.go).
fn overloaded(bound: Bound) -> Response {
    let message = bound.says("", bound.default);
    tracing::warn!("refused a request with 429: {message}");
    failure(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", &message)
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    json(code, &FailureStatus::new(code.as_u16(), reason, message))
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON: please report this");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// One line a denial, one a malfunction, and the policies' own lines. What comes from the request is escaped.
fn log(namespace: &str, generation: &str, verdict: &Verdict) {
    let namespace = || text::shown(namespace, 64);
    for image in &verdict.images {
        for said in &image.judged.said {
            let quiet = said.mode == Mode::Enforce && said.judgement.is_ok() && said.log.is_empty();
            if quiet {
                continue;
            }
            let shown = text::image(&image.judged.original);
            let policy = &said.policy;
            for line in &said.log {
                let message = &line.message;
                match line.level {
                    Level::Debug => tracing::debug!(target: "policy", policy, image = shown, "{message}"),
                    Level::Info => tracing::info!(target: "policy", policy, image = shown, "{message}"),
                    Level::Warn => tracing::warn!(target: "policy", policy, image = shown, "{message}"),
                    Level::Error => tracing::error!(target: "policy", policy, image = shown, "{message}"),
                }
            }
            match &said.judgement {
                Err(malfunction) => {
                    let malfunction = text::printable(&malfunction.to_string());
                    tracing::warn!(policy, image = shown, counts_as = %said.outcome(), "malfunction: {malfunction}");
                }
                Ok(decision) if said.mode == Mode::Audit && decision.outcome == Outcome::Deny => {
                    tracing::info!(
                        policy,
                        image = shown,
                        namespace = namespace(),
                        "audit: would deny: {}",
                        said.reason()
                    );
                }
                Ok(_) => {}
            }
        }
    }
    if verdict.allowed {
        match verdict.audit_annotations.get("would-deny") {
            Some(reason) => {
                tracing::info!(namespace = namespace(), generation, "audit: would deny: {reason}")
            }
            None => {
                tracing::debug!(namespace = namespace(), generation, images = verdict.images.len(), "allowed")
            }
        }
    } else {
        tracing::info!(namespace = namespace(), generation, "denied: {}", verdict.reason);
    }
}
