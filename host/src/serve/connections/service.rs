//! The service of a connection, around the handler of the webhook or of the admin listener. It counts the
//! memory of each request, runs the request in its client's turns, and announces the end of the connection.

use std::future::Future;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::budget::{Exhausted, Reservation, Share};
use super::track::{Exchange, Track};
use crate::evaluate::turns::Turns;
use crate::limits;
use crate::serve::Host;
use crate::serve::body::discard;
use crate::serve::webhook::{NoVerdict, Peer};

/// The service that handles the requests of a connection.
pub(super) struct ConnectionService {
    pub(super) host: Arc<Host>,
    pub(super) routes: TowerToHyperService<axum::Router>,
    pub(super) share: Arc<Share>,
    pub(super) track: Arc<Track>,
    /// Turns for HTTP/2, where each request has its own task. On HTTP/1.1 a request runs in the turns of its
    /// connection.
    pub(super) turns: Option<Arc<Turns>>,
    pub(super) peer: SocketAddr,
}

/// The error for a request that arrives too late on its connection. An HTTP/2 client may retry the request on
/// another connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection takes no more requests")]
pub(super) struct Refused(#[source] h2::Error);

impl ConnectionService {
    /// Passes a request to the handler, and returns its response.
    pub(super) fn call(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<CountedBody>, Refused>> {
        // The exchange begins here, not when the returned future is first polled.
        let exchange = self.track.begin(request.headers());
        let mut held = self.share.hold();
        let held_now = held.more(REQUEST + head_bytes(&request));
        async move {
            let mut exchange = exchange.map_err(|_| Refused(h2::Reason::REFUSED_STREAM.into()))?;
            request.extensions_mut().insert(Peer(self.peer));
            request.extensions_mut().insert(Arc::clone(&self.share));
            let mut response = match held_now {
                Ok(()) => {
                    let response = self.routes.call(request);
                    let response = match &self.turns {
                        Some(turns) => turns.run(self.track.client(), response).await,
                        None => response.await,
                    };
                    match response {
                        Ok(response) => response,
                        Err(never) => match never {},
                    }
                }
                Err(Exhausted) => {
                    let (parts, body) = request.into_parts();
                    discard(&self.share, Body::new(body)).await;
                    self.host.reject(&parts, &NoVerdict::Overloaded(limits::UNDER_WAY))
                }
            };
            if self.track.is_last() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            exchange.respond();
            held.shrink(REQUEST + response.body().size_hint().lower());
            let split = self.turns.is_some();
            Ok(response.map(|body| CountedBody {
                body,
                last: Bytes::new(),
                split,
                _exchange: exchange,
                _held: held,
            }))
        }
    }
}

/// Memory of a request besides its bytes: the stream, the task and their parts.
const REQUEST: u64 = 8 << 10;

/// Returns the memory held by a request's head.
fn head_bytes<B>(request: &Request<B>) -> u64 {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    (fields.sum::<usize>() + path) as u64
}

/// Memory of a header field besides its bytes.
const FIELD: usize = 128;

/// The body of a response, dropped when the client has received the response.
pub(super) struct CountedBody {
    body: Body,
    last: Bytes,
    split: bool,
    _exchange: Exchange,
    _held: Reservation,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    /// Returns the last byte in a frame of its own on HTTP/2. That frame leaves only when the client's window
    /// has room for the whole body. In a single frame, the body would be dropped once the window has room for
    /// its first byte.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.last.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.last)))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.split => Some(Ok(match frame.into_data() {
                Ok(mut data) if data.len() > 1 && self.body.is_end_stream() => {
                    self.last = data.split_off(data.len() - 1);
                    Frame::data(data)
                }
                Ok(data) => Frame::data(data),
                Err(frame) => frame,
            })),
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.last.len() {
            0 => self.body.size_hint(),
            last => SizeHint::with_exact(last as u64),
        }
    }
}
