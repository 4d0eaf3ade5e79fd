//! The webhook for ImageReview over mutual TLS, and the admin listener.

pub mod control;
pub mod listeners;
pub mod metrics;
pub mod rejections;
pub mod run;
pub mod status;
pub mod systemd;
mod admin;
mod admin_client;
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
use crate::limits::{self, Limit};
use crate::policy::PolicySet;
use crate::reload::Started;
use crate::reload::gate::Recent;
use crate::review::verdict::Verdict;
use crate::review::{FailureStatus, Refusal, Review, ReviewError, image_review};
use crate::serve::metrics::Metrics;
use crate::serve::status::Sources;
use crate::telemetry::answered::{Ids, Reviewed};
use crate::telemetry::log_throttle::{self, Lines};
use crate::text;

/// The state that the webhook works with and the admin listener reports.
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
    /// Creates a host that judges by the policy set in force. `lines_lost` returns the number of lost log
    /// lines.
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

    /// Returns the sources of the status.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Logs the counts of suppressed lines, and writes the rest of the decision log.
    pub async fn close(&self) {
        self.lines.tell_all();
        let log = self.sources.decision_log.clone();
        let closed = tokio::task::spawn_blocking(move || log.close(WRITING));
        if !matches!(closed.await, Ok(true)) {
            tracing::error!("decision log: the disk takes too long, so the last lines are lost");
        }
    }

    /// Evaluates a review, or denies a review that is malformed or over a limit.
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
            Err(ReviewError::Refused(refusal)) => {
                let reason = refusal.to_string();
                Ok((Arc::default(), Verdict::refuse(&set.rules, &set.generation(), &reason)))
            }
            Err(ReviewError::NotAnImageReview(message)) => Err(NoVerdict::NotAnImageReview(message)),
        }
    }
}

/// Timeout of writing the rest of the decision log. A working disk needs a tenth of this time.
const WRITING: Duration = Duration::from_secs(3);

/// The address of a request's client, as an extension of the request.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// The reason why a request gets no verdict.
enum NoVerdict {
    NotAnImageReview(String),
    /// The host exceeds this limit.
    Overloaded(Limit),
    NothingToGet,
    WrongMethod,
}

/// Returns the routes of the webhook, which accepts an ImageReview at any path and query. The path comes from
/// the kubeconfig's `server`, which was often written for another backend, and the apiserver adds
/// `?timeout=30s`.
pub fn routes(host: Arc<Host>) -> Router {
    Router::new().fallback(webhook).with_state(host)
}

/// Paths at which GET returns [`ABOUT`].
const ABOUT_AT: [&str; 3] = ["/", "/image-review", "/image-review/"];

const ABOUT: &str = "This is an image policy host: the backend of the kube-apiserver's ImagePolicyWebhook \
    admission plugin.\nPOST an imagepolicy.k8s.io/v1alpha1 ImageReview to any path to learn whether its \
    images may run.\n";

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

/// Reads, parses and evaluates a review, and returns the response.
async fn review(host: &Host, share: &Arc<Share>, mut body: Body) -> Result<Response, NoVerdict> {
    let began = Instant::now();
    let mut held = share.hold();
    let read = match read(&mut body, host.sources.policies.current().limits.body, &mut held).await {
        Ok(bytes) => Ok(bytes),
        Err(Unread::Refused(why)) => Err(Refusal::Body(why).into()),
        Err(Unread::EndedEarly(why)) => Err(ReviewError::NotAnImageReview(why)),
        Err(Unread::Exhausted) => {
            discard(share, body).await;
            return Err(NoVerdict::Overloaded(limits::UNDER_WAY));
        }
    };
    // Read after the body, so that a body that arrives slowly is judged by the set in force at its end.
    let set = host.sources.policies.current();
    let review = read.and_then(|bytes| image_review::parse(&bytes, &set.limits));
    let (review, verdict) = host.judge(&set, review, share.client()).await?;
    let reviewed = Reviewed::new(&host.ids, began.elapsed(), review, verdict);
    let answer = json(StatusCode::OK, &image_review::render(&reviewed.verdict, reviewed.audit_annotations()));
    host.observe(&set, reviewed);
    Ok(answer)
}

/// The reason why a body could not be read.
enum Unread {
    /// The body is too large or arrived too slowly. The text is the reason of the denial.
    Refused(String),
    /// The client ended the body early.
    EndedEarly(String),
    /// The client's requests hold more than its share of memory.
    Exhausted,
}

impl From<Exhausted> for Unread {
    fn from(Exhausted: Exhausted) -> Unread {
        Unread::Exhausted
    }
}

/// Reads and discards a body that is not needed. Some clients (curl 7.88, over HTTP/2) report an error, and
/// do not show the response, if the response arrives before the end of the request's body.
async fn discard(share: &Arc<Share>, mut body: Body) {
    // A body over its limit is discarded, so no bytes are held.
    let _ = read(&mut body, 0, &mut share.hold()).await;
}

/// Reads a body of at most `limit` bytes, which count in `held`. The rest of a longer body is read and
/// discarded, up to `BODY_DRAIN`.
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
    // Most bodies arrive in a single frame, which needs no copy.
    let (mut whole, mut bytes) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error = text::escape_and_truncate(&error.to_string(), 256);
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
                let path = text::escape_and_truncate(parts.uri.path(), 128);
                let message = format!(
                    "there is nothing at {path}: this webhook takes POST of an ImageReview, to any path"
                );
                (StatusCode::NOT_FOUND, "NotFound", message)
            }
            NoVerdict::WrongMethod => {
                let method = text::escape_and_truncate(parts.method.as_str(), 64);
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
    /// Returns the response to a request that gets no verdict, and logs the request. Unless the reason is an
    /// overload, also records the request in `rejections`.
    ///
    /// The response to an overload has no Retry-After: with the header the apiserver would retry eleven times
    /// as often (client-go, rest/with_retry.go).
    fn reject(&self, parts: &Parts, why: &NoVerdict) -> Response {
        let (code, reason, message) = why.status(parts);
        self.metrics.rejected(code.as_u16());
        let peer = parts.extensions.get().map_or_else(|| "?".to_owned(), |Peer(peer)| peer.to_string());
        let (method, path) = (
            text::escape_and_truncate(parts.method.as_str(), 64),
            text::escape_and_truncate(parts.uri.path(), 128),
        );
        let line = format!("{method} {path} from {peer}: {message}");
        if !matches!(why, NoVerdict::Overloaded(_)) {
            self.sources.rejections.record(&line);
        }
        if self.lines.may(log_throttle::Kind::Request) {
            tracing::warn!("rejected a request with {}: {line}", code.as_u16());
        }
        let mut response = json(code, &FailureStatus::new(code.as_u16(), reason, &message));
        if code == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 §15.5.6 requires the header.
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    // Most responses are shorter.
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
