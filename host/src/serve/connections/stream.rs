//! A stream that records its bytes in the connection's lifetime.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::track::Track;

/// The stream of a connection.
pub(in crate::serve) struct TrackedStream<S> {
    stream: S,
    track: Arc<Track>,
    stalled: bool,
}

impl<S> TrackedStream<S> {
    /// Wraps the stream of the connection that `track` records.
    pub(in crate::serve) fn new(stream: S, track: &Arc<Track>) -> TrackedStream<S> {
        TrackedStream { stream, track: Arc::clone(track), stalled: false }
    }

    /// Records whether bytes are stuck in the stream. Only a flush shows that none are left.
    fn written<T>(&mut self, result: Poll<io::Result<T>>, flushed: bool) -> Poll<io::Result<T>> {
        let stalled = result.is_pending() || self.stalled && !flushed;
        if stalled != self.stalled {
            self.stalled = stalled;
            self.track.stalled(stalled);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.track.received(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, false)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flushed, true)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(shut, true)
    }
}
