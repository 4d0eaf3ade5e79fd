//! The lifetime of a connection: the times of its events, and the next step that follows from them. Callers
//! pass the time, so nothing here waits.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Protocol {
    /// HTTP/1.1, where only a response can announce the end of the connection.
    Http1,
    /// HTTP/2, where GOAWAY announces the end at any time, and a client retries a refused request on another
    /// connection.
    Http2,
}

/// An instruction to a connection. A variant further down replaces one above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::serve) enum Directive {
    /// Serve.
    Serve,
    /// On HTTP/1.1, end with the next response, or when idle after [`limits::RETIRE_TIME`]. On HTTP/2, same
    /// as `End`.
    Retire,
    /// End when no request is pending. Requests are accepted for another [`limits::FAREWELL_TIME`].
    End,
    /// Accept no request, and close when the pending requests have their responses, at the latest after
    /// [`limits::FAREWELL_TIME`].
    Revoke,
    /// Close at once.
    Close,
}

/// The next step of a connection's task.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::serve) enum Step {
    /// Announce the end of the connection to the client.
    Shutdown,
    /// Drop the connection.
    Close,
    /// Wait for the connection, at most until this time.
    Wait(Instant),
}

/// The state of a connection and the times of its events.
#[derive(Debug)]
pub(in crate::serve) struct Lifetime {
    protocol: Protocol,
    /// Number of requests without a response.
    requests: usize,
    /// Responses that the client has not yet received in full, by number, each with the time at which its
    /// head was sent.
    responses: BTreeMap<u64, Instant>,
    responded: u64,
    /// Time at which the last request ended, with or without a response.
    active: Instant,
    /// Whether the client has ever received a response.
    used: bool,
    /// Arrival time of the first byte of an incomplete head. HTTP/1.1 only.
    head: Option<Instant>,
    received: Received,
    /// Time since which the client accepts no bytes.
    stalled: Option<Instant>,
    retired: Option<Instant>,
    ending: Option<Instant>,
    revoked: Option<Instant>,
    shut_down: bool,
    closed: bool,
}

/// The bytes that arrived since the last HTTP/1.1 request, in as much detail as shows whether a part of
/// another request is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// No bytes.
    Nothing,
    /// A part of a head, and the part of its final empty line.
    Head(EmptyLine),
    /// A head, and the number of bytes after its first empty line.
    After(u64),
    /// Bytes that the host cannot assign to a request: another request began before the end of the last, or
    /// the length of a body is unknown.
    Unknown,
}

/// The part of an empty line that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EmptyLine {
    No,
    /// The end of a line.
    Newline,
    /// The end of a line, and the carriage return of the next.
    Return,
}

/// The body that a request of HTTP/1.1 announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Announced {
    /// A body of this number of bytes.
    Length(u64),
    /// A chunked body.
    Chunked,
}

/// Time for the last response to leave the buffers of a connection.
const FLUSH: Duration = Duration::from_millis(100);

/// The error for a request on a connection that accepts no more requests.
#[derive(Debug)]
pub(in crate::serve) struct TooLate;

impl Lifetime {
    pub(in crate::serve) fn new(protocol: Protocol, now: Instant) -> Lifetime {
        Lifetime {
            protocol,
            requests: 0,
            responses: BTreeMap::new(),
            responded: 0,
            active: now,
            used: false,
            head: None,
            received: Received::Nothing,
            stalled: None,
            retired: None,
            ending: None,
            revoked: None,
            shut_down: false,
            closed: false,
        }
    }

    /// Records bytes from the client. The bytes may belong to the body of a request.
    pub(in crate::serve) fn received(&mut self, bytes: &[u8], now: Instant) {
        if self.protocol == Protocol::Http1 && !bytes.is_empty() {
            self.received = self.received.and(bytes);
            if self.is_idle() {
                self.head = Some(now);
            }
        }
    }

    /// Records that bytes for the client are waiting to be sent, or no longer are.
    pub(in crate::serve) fn stalled(&mut self, stalled: bool, now: Instant) {
        if stalled {
            self.stalled.get_or_insert(now);
        } else if self.stalled.take().is_some() && self.head.is_some() {
            // The next head could not be read while the client did not accept the response before it.
            self.head = Some(now);
        }
    }

    /// Records a request with a complete head.
    ///
    /// # Errors
    /// Returns an error if the connection accepts no more requests.
    pub(in crate::serve) fn begin(&mut self, now: Instant) -> Result<(), TooLate> {
        let farewell = |ending: Instant| now >= ending + limits::FAREWELL_TIME.time();
        if self.closed || self.revoked.is_some() || self.ending.is_some_and(farewell) {
            return Err(TooLate);
        }
        self.head = None;
        self.requests += 1;
        Ok(())
    }

    /// Records the head of a response. Returns the response's number, for [`Lifetime::ended`].
    pub(in crate::serve) fn respond(&mut self, now: Instant) -> u64 {
        self.requests = self.requests.saturating_sub(1);
        self.responded += 1;
        self.responses.insert(self.responded, now);
        self.responded
    }

    /// Records that the client has received a response or abandoned its request. `response` is None for a
    /// request that ends without a response.
    pub(in crate::serve) fn ended(&mut self, response: Option<u64>, announced: Announced, now: Instant) {
        match response {
            Some(response) => {
                self.responses.remove(&response);
                self.used = true;
            }
            None => self.requests = self.requests.saturating_sub(1),
        }
        self.active = now;
        if self.protocol == Protocol::Http1 {
            let whole = match (self.received, announced) {
                (Received::After(bytes), Announced::Length(length)) => bytes == length,
                _ => false,
            };
            // The next head may have begun; no other timeout would apply to it.
            (self.received, self.head) =
                if whole { (Received::Nothing, None) } else { (Received::Unknown, Some(now)) };
        }
    }

    pub(in crate::serve) fn follow(&mut self, directive: Directive, now: Instant) {
        let begin = |since: &mut Option<Instant>| _ = since.get_or_insert(now);
        match (directive, self.protocol) {
            (Directive::Serve, _) => {}
            (Directive::Retire, Protocol::Http1) => begin(&mut self.retired),
            (Directive::Retire, Protocol::Http2) | (Directive::End, _) => begin(&mut self.ending),
            (Directive::Revoke, _) => {
                begin(&mut self.ending);
                begin(&mut self.revoked);
            }
            (Directive::Close, _) => self.closed = true,
        }
    }

    /// Returns whether the next response is the last of its connection and must announce that. HTTP/1.1 only.
    pub(in crate::serve) fn is_last(&self) -> bool {
        self.protocol == Protocol::Http1 && (self.retired.is_some() || self.ending.is_some())
    }

    /// Returns whether a request is pending or a response is not yet received in full.
    pub(in crate::serve) fn is_busy(&self) -> bool {
        self.requests > 0 || !self.responses.is_empty()
    }

    /// Returns whether a request waits for its response.
    pub(in crate::serve) fn is_asked(&self) -> bool {
        self.requests > 0
    }

    /// Returns the time at which the last request ended.
    pub(in crate::serve) fn active(&self) -> Instant {
        self.active
    }

    /// Returns whether the client has ever received a response.
    pub(in crate::serve) fn is_used(&self) -> bool {
        self.used
    }

    fn is_idle(&self) -> bool {
        !self.is_busy() && self.head.is_none()
    }

    /// Decides the next step.
    pub(in crate::serve) fn step(&mut self, now: Instant) -> Step {
        let mut due = Due { now, next: now + limits::IDLE_TIME.time() };
        let farewell = limits::FAREWELL_TIME.time();
        let not_taken = self.responses.first_key_value().map(|(_, since)| *since);
        let head = self.head.filter(|_| self.stalled.is_none());
        self.closed |= due.over(head, limits::HEADERS_TIME.time())
            || due.over(self.stalled, limits::STALL_TIME.time())
            || due.over(not_taken, limits::STALL_TIME.time());
        if self.revoked.is_some() {
            self.closed |= !self.is_busy() || due.over(self.revoked, farewell);
        }
        if let Some(ending) = self.ending
            && !self.is_asked()
        {
            // Counted from the time at which the end began, so that no request delays the end.
            let over = match not_taken {
                Some(since) => since.max(ending) + farewell,
                None => (ending + farewell).max(self.active + FLUSH),
            };
            self.closed |= due.over(Some(over), Duration::ZERO);
        }
        if self.closed {
            return Step::Close;
        }
        if self.ending.is_none() && self.is_idle() {
            let lingers = self
                .retired
                .map(|retired| (retired + limits::RETIRE_TIME.time()).max(self.active + farewell));
            if due.over(Some(self.active), limits::IDLE_TIME.time()) || due.over(lingers, Duration::ZERO) {
                self.ending = Some(now);
                due.over(self.ending, farewell);
            }
        }
        // On HTTP/1.1 a shutdown would lose a request that has arrived only in part.
        let can_shut_down = self.protocol == Protocol::Http2 || self.is_idle();
        if self.ending.is_some() && can_shut_down && !self.shut_down {
            self.shut_down = true;
            return Step::Shutdown;
        }
        Step::Wait(due.next)
    }
}

/// The current time, and the next time at which a timeout is due.
struct Due {
    now: Instant,
    next: Instant,
}

impl Due {
    /// Returns whether `time` has passed since `since`. If not, records when it will have.
    fn over(&mut self, since: Option<Instant>, time: Duration) -> bool {
        let Some(since) = since else { return false };
        let at = since + time;
        if at > self.now {
            self.next = self.next.min(at);
        }
        at <= self.now
    }
}

impl Received {
    fn and(self, bytes: &[u8]) -> Received {
        let mut line = match self {
            Received::Nothing => EmptyLine::No,
            Received::Head(line) => line,
            Received::After(before) => return Received::After(before.saturating_add(bytes.len() as u64)),
            Received::Unknown => return Received::Unknown,
        };
        for (position, byte) in bytes.iter().enumerate() {
            line = match (line, byte) {
                (EmptyLine::No, b'\n') => EmptyLine::Newline,
                (EmptyLine::Newline, b'\r') => EmptyLine::Return,
                (EmptyLine::Newline | EmptyLine::Return, b'\n') => {
                    return Received::After((bytes.len() - position - 1) as u64);
                }
                _ => EmptyLine::No,
            };
        }
        Received::Head(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end found for a head does not depend on the pieces in which the head arrives, and is never after
    /// the true end.
    #[test]
    fn the_end_of_a_head_is_found_in_any_pieces() {
        for (text, after) in [
            (&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], Some(0)),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n12345", Some(5)),
            (b"GET / HTTP/1.1\nhost: a\n\n123", Some(3)),
            (b"GET / HTTP/1.1\r\nhost: a\n\r\n1", Some(1)),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r", None),
            (b"\r\n\r\nGET", Some(3)),
        ] {
            for piece in 1..=text.len() {
                let found = text.chunks(piece).fold(Received::Nothing, |received, bytes| received.and(bytes));
                match after {
                    Some(bytes) => assert_eq!(found, Received::After(bytes), "{text:?} in pieces of {piece}"),
                    None => assert!(matches!(found, Received::Head(_)), "{text:?} in pieces of {piece}"),
                }
            }
        }
    }

    /// The end of a connection has a fixed deadline, whatever requests the client makes meanwhile.
    #[test]
    fn no_request_makes_the_end_of_a_connection_later() {
        let farewell = limits::FAREWELL_TIME.time();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let began = Instant::now();
            let mut lifetime = Lifetime::new(protocol, began);
            lifetime.follow(Directive::End, began);
            let mut now = began;
            while lifetime.begin(now).is_ok() {
                let response = lifetime.respond(now);
                lifetime.ended(Some(response), Announced::Length(0), now);
                now += Duration::from_millis(100);
            }
            assert_eq!(now - began, farewell, "{protocol:?}");
            assert_eq!(lifetime.step(now + farewell), Step::Close, "{protocol:?}");
        }
    }

    /// A client that is no longer trusted begins no request. Its connection closes when its pending requests
    /// end.
    #[test]
    fn a_revoked_connection_takes_no_request() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(Protocol::Http2, now);
        lifetime.begin(now).unwrap();
        lifetime.follow(Directive::Revoke, now);
        assert!(lifetime.begin(now).is_err());
        assert_eq!(lifetime.step(now), Step::Shutdown);
        assert_eq!(lifetime.step(now), Step::Wait(now + limits::FAREWELL_TIME.time()));
        lifetime.ended(None, Announced::Length(0), now);
        assert_eq!(lifetime.step(now), Step::Close);
    }
}
