//! The record of a served connection, written by the tasks that serve it.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::fairness::Served;
use super::lifetime::{Announced, Directive, Lifetime, Protocol, Step, TooLate};
use super::revalidation::Trust;
use crate::evaluate::turns::Client;

/// The record of a connection.
pub(in crate::serve) struct Track {
    client: Client,
    lifetime: Mutex<Lifetime>,
    trust: Option<Mutex<Trust>>,
}

impl Track {
    pub(super) fn new(client: Client, protocol: Protocol, trust: Option<Trust>) -> Track {
        let lifetime = Mutex::new(Lifetime::new(protocol, Instant::now()));
        Track { client, lifetime, trust: trust.map(Mutex::new) }
    }

    pub(in crate::serve) fn client(&self) -> &Client {
        &self.client
    }

    /// Records a directive. The connection's task calls this.
    pub(super) fn follow(&self, directive: Directive) {
        self.lifetime.lock().follow(directive, Instant::now());
    }

    /// Decides the next step of the connection's task.
    pub(super) fn step(&self) -> Step {
        self.lifetime.lock().step(Instant::now())
    }

    /// Records bytes from the client.
    pub(in crate::serve) fn received(&self, bytes: &[u8]) {
        self.lifetime.lock().received(bytes, Instant::now());
    }

    /// Records whether bytes for the client are waiting to be sent.
    pub(in crate::serve) fn stalled(&self, stalled: bool) {
        self.lifetime.lock().stalled(stalled, Instant::now());
    }

    /// Begins a request whose head is complete.
    ///
    /// # Errors
    /// Returns an error if the connection is ending, or if its client is no longer trusted.
    pub(in crate::serve) fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Result<Exchange, TooLate> {
        self.check_trust();
        self.lifetime.lock().begin(Instant::now())?;
        Ok(Exchange { track: Arc::clone(self), response: None, announced: Announced::by(headers) })
    }

    /// Returns whether a response sent now is the last on the connection and must carry `Connection: close`.
    pub(in crate::serve) fn is_last(&self) -> bool {
        self.lifetime.lock().is_last()
    }

    /// Returns whether a request waits for its response.
    pub(super) fn is_asked(&self) -> bool {
        self.lifetime.lock().is_asked()
    }

    /// Returns the connection as fairness sees it.
    pub(super) fn served(&self, number: u64, of_client: usize) -> Served {
        let lifetime = self.lifetime.lock();
        let (busy, used, active) = (lifetime.is_busy(), lifetime.is_used(), lifetime.active());
        Served { number, of_client, busy, used, active }
    }

    /// Ends the connection if its client is no longer trusted, or was verified by TLS material that is no
    /// longer in force.
    pub(super) fn check_trust(&self) {
        let directive = self.trust.as_ref().and_then(|trust| trust.lock().check(SystemTime::now()));
        if let Some(directive) = directive {
            self.follow(directive);
        }
    }
}

impl Announced {
    /// Returns the body that `headers` announce. The kind matters on HTTP/1.1 only.
    fn by(headers: &HeaderMap) -> Announced {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Announced::Chunked;
        }
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Announced::Length(length.unwrap_or_default())
    }
}

/// A request and its response, until the client has received the response.
pub(in crate::serve) struct Exchange {
    track: Arc<Track>,
    response: Option<u64>,
    announced: Announced,
}

impl Exchange {
    /// Records the head of the response.
    pub(in crate::serve) fn respond(&mut self) {
        self.response = Some(self.track.lifetime.lock().respond(Instant::now()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.track.lifetime.lock().ended(self.response, self.announced, Instant::now());
    }
}
