//! The door for ImageReview over mutual TLS, and the admin listener beside it.

mod admin;
mod budget;
mod connections;
mod observe;
mod scrape;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::Instant;

pub use self::admin::serve_admin;
use self::budget::{Budget, Exhausted, Held};
use self::connections::Rooms;
pub use self::connections::{Stop, serve};
use crate::bounds::{self, Bound};
use crate::dispatch::{Dispatcher, Overloaded};
use crate::gate::Recent;
use crate::lines::{self, Lines};
use crate::metrics::Metrics;
use crate::policy::PolicySet;
use crate::reload::Started;
use crate::review::{FailureStatus, ImageReviewAnswer, Review, ReviewError};
use crate::reviewed::{Ids, Reviewed};
use crate::status::Sources;
use crate::text;
use crate::verdict::Verdict;

/// What the door works with, and the admin listener tells of.
pub struct Host {
    sources: Sources,
    dispatcher: Dispatcher,
    rooms: Arc<Rooms>,
    budget: Arc<Budget>,
    ids: Ids,
    metrics: Metrics,
    recent: Arc<Recent>,
    lines: Arc<Lines>,
    lines_lost: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Host {
    /// A host that judges by what is in force of `started`. `lines_lost` tells how many lines of the log were lost.
    pub fn new(started: &Started, lines_lost: impl Fn() -> u64 + Send + Sync + 'static) -> Arc<Host> {
        let policies = started.policies.clone();
        let dispatcher = Dispatcher::new(&policies.current());
        let limit = move || policies.current().limits.connections;
        Arc::new(Host {
            sources: Sources::of(started),
            dispatcher,
            rooms: Rooms::new(limit),
            budget: Arc::default(),
            ids: Ids::default(),
            metrics: Metrics::default(),
            recent: Arc::clone(&started.recent),
            lines: Arc::default(),
            lines_lost: Box::new(lines_lost),
        })
    }

    /// What its status is read from.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Writes what is still to be written of the reviews that were answered.
    pub async fn close(&self) {
        self.lines.tell_all();
        let log = self.sources.decision_log.clone();
        let closed = tokio::task::spawn_blocking(move || log.close(WRITING));
        if !matches!(closed.await, Ok(true)) {
            tracing::error!("decision log: the disk takes too long, so the last lines are lost");
        }
    }

    /// Judges what was read, or denies what cannot be.
    async fn judge(
        &self,
        set: &Arc<PolicySet>,
        review: Result<Review, ReviewError>,
    ) -> Result<(Arc<Review>, Verdict), NoVerdict> {
        match review {
            Ok(review) => {
                let review = Arc::new(review);
                let verdict = self.dispatcher.evaluate(Arc::clone(set), Arc::clone(&review)).await;
                Ok((review, verdict.map_err(|Overloaded| NoVerdict::Overloaded(bounds::QUEUE))?))
            }
            Err(ReviewError::Refused(reason)) => {
                Ok((Arc::default(), Verdict::refuse(&set.rules, &set.generation(), &reason)))
            }
            Err(ReviewError::NotAnImageReview(message)) => Err(NoVerdict::NotAnImageReview(message)),
        }
    }
}

/// For writing what is still to be written: a disk that works needs a tenth of it.
const WRITING: Duration = Duration::from_secs(3);

/// Why a request gets no verdict.
enum NoVerdict {
    NotAnImageReview(String),
    /// By more than this bound.
    Overloaded(Bound),
    NoSuchPath(Uri),
    WrongMethod(Method),
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
    let answer = match method {
        Method::POST => review(&host, body).await,
        Method::GET | Method::HEAD => Ok(ABOUT.into_response()),
        method => Err(NoVerdict::WrongMethod(method)),
    };
    answer.unwrap_or_else(|why| host.reject(&why))
}

const ABOUT: &str = "This is an image policy host: the backend of the kube-apiserver's ImagePolicyWebhook admission \
    plugin.\nPOST an imagepolicy.k8s.io/v1alpha1 ImageReview here to be told whether its images may run.\n";

/// From bytes to an answer.
async fn review(host: &Host, body: Body) -> Result<Response, NoVerdict> {
    let began = Instant::now();
    let mut held = host.budget.hold();
    let read = read(body, host.sources.policies.current().limits.body, &mut held).await;
    let read = read.map_err(|Exhausted| NoVerdict::Overloaded(bounds::UNDER_WAY))?;
    // Only now: a body that comes slowly is judged by what is in force when it is there.
    let set = host.sources.policies.current();
    let review = read.and_then(|bytes| Review::parse(&bytes, &set.limits));
    let (review, verdict) = host.judge(&set, review).await?;
    let reviewed = Reviewed::new(&host.ids, began.elapsed(), review, verdict);
    let answer = json(StatusCode::OK, &ImageReviewAnswer::from(&reviewed.verdict));
    host.observe(&set, reviewed);
    Ok(answer)
}

/// Reads a body of at most `limit` bytes, which are held.
async fn read(mut body: Body, limit: u64, held: &mut Held) -> Result<Result<Bytes, ReviewError>, Exhausted> {
    // Most bodies come in one piece, which needs no copy.
    let (mut whole, mut bytes) = (Bytes::new(), Vec::new());
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
                if whole.is_empty() {
                    whole = data;
                    continue;
                }
                if bytes.is_empty() {
                    bytes.extend_from_slice(&whole);
                }
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
        Ok(Ok(Ok(()))) => Ok(if bytes.is_empty() { whole } else { bytes.into() }),
        Err(_) => Err(ReviewError::Refused(bounds::BODY_TIME.says_of(time))),
    })
}

async fn no_such_path(State(host): State<Arc<Host>>, uri: Uri) -> Response {
    host.reject(&NoVerdict::NoSuchPath(uri))
}

impl NoVerdict {
    fn answer(&self) -> (StatusCode, Response) {
        let (code, reason, message) = match self {
            NoVerdict::NotAnImageReview(message) => {
                (StatusCode::BAD_REQUEST, "BadRequest", format!("this door takes ImageReview: {message}"))
            }
            // Without Retry-After: with it the apiserver would retry eleven times as often (client-go,
            // rest/with_retry.go).
            NoVerdict::Overloaded(bound) => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", bound.says("", bound.default))
            }
            NoVerdict::NoSuchPath(uri) => {
                let path = text::shown(uri.path(), 128);
                let message =
                    format!("there is nothing at {path}: the door for ImageReview is / (or /image-review)");
                (StatusCode::NOT_FOUND, "NotFound", message)
            }
            NoVerdict::WrongMethod(method) => {
                let method = text::shown(method.as_str(), 64);
                let message = format!("this door takes POST of an ImageReview, not {method}");
                (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            }
        };
        let mut answer = json(code, &FailureStatus::new(code.as_u16(), reason, &message));
        if let NoVerdict::WrongMethod(_) = self {
            // RFC 9110 §15.5.6 wants it.
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        (code, answer)
    }
}

impl Host {
    /// Answers a request that gets no verdict.
    fn reject(&self, why: &NoVerdict) -> Response {
        let (code, answer) = why.answer();
        self.metrics.rejected(code.as_u16());
        match why {
            NoVerdict::NotAnImageReview(message) if self.lines.may(lines::Kind::Request) => {
                tracing::warn!("refused a request: this door takes ImageReview: {message}");
            }
            NoVerdict::Overloaded(bound) if self.lines.may(lines::Kind::Request) => {
                tracing::warn!("refused a request with 429: {}", bound.says("", bound.default));
            }
            _ => {}
        }
        answer
    }
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    // Most answers are shorter.
    let mut bytes = Vec::with_capacity(512);
    if let Err(error) = serde_json::to_writer(&mut bytes, body) {
        tracing::error!(%error, "an answer cannot be written as JSON: please report this");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let mut answer = Response::new(Body::from(bytes));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
