//! Bodies of requests, read within the limits of size, time and memory.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;

use super::connections::budget::{Exhausted, Reservation, Share};
use crate::limits;
use crate::text;

/// The reason why a body could not be read.
pub(super) enum Unread {
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
pub(super) async fn discard(share: &Arc<Share>, mut body: Body) {
    // A body over its limit is discarded, so no bytes are held.
    let _ = read(&mut body, 0, &mut share.hold()).await;
}

/// Reads a body of at most `limit` bytes, which count in `held`. The rest of a longer body is read and
/// discarded, up to `BODY_DRAIN`.
pub(super) async fn read(body: &mut Body, limit: u64, held: &mut Reservation) -> Result<Bytes, Unread> {
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

async fn arrive(
    body: &mut Body,
    limit: u64,
    total: &mut u64,
    held: &mut Reservation,
) -> Result<Bytes, Unread> {
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
