//! The door for ImageReview over mutual TLS, and the admin listener beside it.

pub mod control;
pub mod listeners;
pub mod metrics;
pub mod rejections;
pub mod status;
pub mod systemd;
mod admin;
mod connections;
mod observe;
mod pages;
mod scrape;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::Instant;

pub use self::admin::serve_admin;
use self::connections::Shared;
use self::connections::budget::{Exhausted, Held, Share};
pub use self::connections::serve;
use crate::evaluate::lanes::{Dispatcher, Overloaded};
use crate::evaluate::turns::Client;
use crate::limits::{self, Bound};
use crate::policy::PolicySet;
use crate::reload::Started;
use crate::reload::gate::Recent;
use crate::review::verdict::Verdict;
use crate::review::{FailureStatus, ImageReviewAnswer, Review, ReviewError};
use crate::serve::metrics::Metrics;
use crate::serve::status::Sources;
use crate::telemetry::answered::{Ids, Reviewed};
use crate::telemetry::log_throttle::{self, Lines};
use crate::text;

/// What the door works with, and the admin listener tells of.
pub struct Host {
    sources: Sources,
    dispatcher: Dispatcher,
    shared: Shared,
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
            shared: Shared::new(limit),
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
        client: &Client,
    ) -> Result<(Arc<Review>, Verdict), NoVerdict> {
        match review {
            Ok(review) => {
                let review = Arc::new(review);
                let verdict = self.dispatcher.evaluate(Arc::clone(set), Arc::clone(&review), client).await;
                Ok((review, verdict.map_err(|Overloaded| NoVerdict::Overloaded(limits::QUEUE))?))
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

/// The address of a request's client, an extension of the request.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// Why a request gets no verdict.
enum NoVerdict {
    NotAnImageReview(String),
    /// By more than this bound.
    Overloaded(Bound),
    NothingToGet,
    WrongMethod,
}

/// The webhook. An ImageReview is judged whatever its path and query: the path is of the kubeconfig's `server`, which
/// was often written for another backend, and the apiserver adds `?timeout=30s`.
pub fn routes(host: Arc<Host>) -> Router {
    Router::new().fallback(webhook).with_state(host)
}

/// Paths where GET says what this host is.
const ABOUT_AT: [&str; 3] = ["/", "/image-review", "/image-review/"];

const ABOUT: &str = "This is an image policy host: the backend of the kube-apiserver's ImagePolicyWebhook admission \
    plugin.\nPOST an imagepolicy.k8s.io/v1alpha1 ImageReview to any path to learn whether its images may run.\n";

async fn webhook(
    State(host): State<Arc<Host>>,
    Extension(share): Extension<Arc<Share>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let response = match parts.method {
        Method::POST => review(&host, &share, body).await,
        Method::GET | Method::HEAD => {
            discard(&share, body).await;
            match ABOUT_AT.contains(&parts.uri.path()) {
                true => Ok(ABOUT.into_response()),
                false => Err(NoVerdict::NothingToGet),
            }
        }
        _ => {
            discard(&share, body).await;
            Err(NoVerdict::WrongMethod)
        }
    };
    response.unwrap_or_else(|why| host.reject(&parts, &why))
}

/// From bytes to an answer.
async fn review(host: &Host, share: &Arc<Share>, mut body: Body) -> Result<Response, NoVerdict> {
    let began = Instant::now();
    let mut held = share.hold();
    let read = match read(&mut body, host.sources.policies.current().limits.body, &mut held).await {
        Ok(bytes) => Ok(bytes),
        Err(Unread::Refused(why)) => Err(ReviewError::Refused(why)),
        Err(Unread::EndedEarly(why)) => Err(ReviewError::NotAnImageReview(why)),
        Err(Unread::Exhausted) => {
            discard(share, body).await;
            return Err(NoVerdict::Overloaded(limits::UNDER_WAY));
        }
    };
    // Only now: a body that comes slowly is judged by what is in force when it is there.
    let set = host.sources.policies.current();
    let review = read.and_then(|bytes| Review::parse(&bytes, &set.limits));
    let (review, verdict) = host.judge(&set, review, share.client()).await?;
    let reviewed = Reviewed::new(&host.ids, began.elapsed(), review, verdict);
    let answer =
        json(StatusCode::OK, &ImageReviewAnswer::new(&reviewed.verdict, reviewed.audit_annotations()));
    host.observe(&set, reviewed);
    Ok(answer)
}

/// Why a body could not be read.
enum Unread {
    /// It is too large, or arrived too slowly: this is the reason of the denial.
    Refused(String),
    /// The client gave up.
    EndedEarly(String),
    /// All requests under way hold too much.
    Exhausted,
}

impl From<Exhausted> for Unread {
    fn from(Exhausted: Exhausted) -> Unread {
        Unread::Exhausted
    }
}

/// Reads and forgets a body that nobody needs: a response that comes before the end of the request's body is an error
/// to some clients (curl 7.88, over HTTP/2), which then show none of it.
async fn discard(share: &Arc<Share>, mut body: Body) {
    // A body that is over its bound is forgotten, so nothing is held.
    let _ = read(&mut body, 0, &mut share.hold()).await;
}

/// Reads a body of at most `limit` bytes, which are held. The rest of a longer body is read and forgotten.
async fn read(body: &mut Body, limit: u64, held: &mut Held) -> Result<Bytes, Unread> {
    let mut total = 0;
    let time = limits::BODY_TIME.time();
    let arrived = tokio::time::timeout(time, arrive(body, limit, &mut total, held)).await;
    match arrived {
        Ok(Err(unread)) => Err(unread),
        _ if total > limit => Err(Unread::Refused(limits::BODY.says(total, limit))),
        Ok(Ok(bytes)) => Ok(bytes),
        Err(_) => Err(Unread::Refused(limits::BODY_TIME.says_of(time))),
    }
}

async fn arrive(body: &mut Body, limit: u64, total: &mut u64, held: &mut Held) -> Result<Bytes, Unread> {
    // Most bodies come in one piece, which needs no copy.
    let (mut whole, mut bytes) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error = text::shown(&error.to_string(), 256);
            Unread::EndedEarly(format!("the request's body ended early: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        *total = total.saturating_add(data.len() as u64);
        if *total <= limit {
            held.more(data.len() as u64)?;
            if whole.is_empty() {
                whole = data;
                continue;
            }
            if bytes.is_empty() {
                bytes.extend_from_slice(&whole);
            }
            bytes.extend_from_slice(&data);
        } else if *total > limit.saturating_add(limits::BODY_DRAIN.default) {
            break;
        }
    }
    Ok(if bytes.is_empty() { whole } else { bytes.into() })
}

impl NoVerdict {
    /// Returns the status code, Kubernetes' `StatusReason` and the message.
    fn status(&self, parts: &Parts) -> (StatusCode, &'static str, String) {
        match self {
            NoVerdict::NotAnImageReview(message) => {
                let message = format!("this webhook takes ImageReview: {message}");
                (StatusCode::BAD_REQUEST, "BadRequest", message)
            }
            NoVerdict::NothingToGet => {
                let path = text::shown(parts.uri.path(), 128);
                let message = format!(
                    "there is nothing at {path}: this webhook takes POST of an ImageReview, to any path"
                );
                (StatusCode::NOT_FOUND, "NotFound", message)
            }
            NoVerdict::WrongMethod => {
                let method = text::shown(parts.method.as_str(), 64);
                let message = format!("this webhook takes POST of an ImageReview, not {method}");
                (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            }
            NoVerdict::Overloaded(bound) => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", bound.says("", bound.default))
            }
        }
    }
}

impl Host {
    /// Answers a request that gets no verdict, with a line in the log. A request that is no ImageReview is recorded.
    ///
    /// The answer to an overload has no Retry-After: with one the apiserver would retry eleven times as often (client-go,
    /// rest/with_retry.go).
    fn reject(&self, parts: &Parts, why: &NoVerdict) -> Response {
        let (code, reason, message) = why.status(parts);
        self.metrics.rejected(code.as_u16());
        let peer = parts.extensions.get().map_or_else(|| "?".to_owned(), |Peer(peer)| peer.to_string());
        let (method, path) = (text::shown(parts.method.as_str(), 64), text::shown(parts.uri.path(), 128));
        let line = format!("{method} {path} from {peer}: {message}");
        if !matches!(why, NoVerdict::Overloaded(_)) {
            self.sources.rejections.record(&line);
        }
        if self.lines.may(log_throttle::Kind::Request) {
            tracing::warn!("rejected a request with {}: {line}", code.as_u16());
        }
        let mut response = json(code, &FailureStatus::new(code.as_u16(), reason, &message));
        if code == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 §15.5.6 wants it.
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
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
