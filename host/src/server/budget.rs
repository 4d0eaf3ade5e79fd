//! What the requests under way on all connections hold in memory, together.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::HttpBody;
use hyper::body::{Frame, SizeHint};

use crate::bounds;

/// A number of bytes that is held from, up to its bound.
#[derive(Default)]
pub(super) struct Budget(AtomicU64);

/// The bound is reached.
#[derive(Debug)]
pub(super) struct Exhausted;

/// Bytes that are held until this is dropped.
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// Holds nothing yet.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        Held { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Held {
    /// Holds so many more.
    ///
    /// # Errors
    /// All together would be over the bound.
    pub(super) fn more(&mut self, bytes: u64) -> Result<(), Exhausted> {
        let total = self.budget.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        if total > bounds::UNDER_WAY.default { Err(Exhausted) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The body of an answer, and what its request holds until it is taken.
pub(super) struct Holding<B> {
    body: B,
    _held: Held,
}

impl<B> Holding<B> {
    /// Lets `held` go with `body`.
    pub(super) fn new(body: B, held: Held) -> Holding<B> {
        Holding { body, _held: held }
    }
}

impl<B: HttpBody + Unpin> HttpBody for Holding<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
