//! The handler of the webhook: its routes, and the status, headers and body of every response.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::Instant;

use super::Host;
use super::body::{Unread, discard, read};
use super::connections::budget::Share;
use crate::evaluate::dispatch::Overloaded;
use crate::evaluate::turns::Client;
use crate::limits::{self, Limit};
use crate::policy::PolicySet;
use crate::review::verdict::Verdict;
use crate::review::{FailureStatus, Refusal, Review, ReviewError, image_review};
use crate::telemetry::answered::AnsweredReview;
use crate::telemetry::log_throttle;
use crate::text;

/// The address of a request's client, as an extension of the request.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The reason why a request gets no verdict.
pub(super) enum NoVerdict {
    NotAnImageReview(String),
    /// The host exceeds this limit.
    Overloaded(Limit),
    NothingToGet,
    WrongMethod,
}

/// Returns the routes of the webhook, which accepts an ImageReview at any path and query. The path comes from
/// the kubeconfig's `server`, which was often written for another backend, and the apiserver adds
/// `?timeout=30s`.
pub(super) fn routes(host: Arc<Host>) -> Router {
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
    let reviewed = AnsweredReview::new(&host.ids, began.elapsed(), review, verdict);
    let answer = json(StatusCode::OK, &image_review::render(&reviewed.verdict, reviewed.audit_annotations()));
    host.observe(&set, reviewed);
    Ok(answer)
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

    /// Returns the response to a request that gets no verdict, and logs the request. Unless the reason is an
    /// overload, also records the request in `rejections`.
    ///
    /// The response to an overload has no Retry-After: with the header the apiserver would retry eleven times
    /// as often (client-go, rest/with_retry.go).
    pub(super) fn reject(&self, parts: &Parts, why: &NoVerdict) -> Response {
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
        if self.log_throttle.allows(log_throttle::Kind::Request) {
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
