//! A client that is no longer trusted is not served, and no client delays the end of its connection: on
//! HTTP/1.1, on HTTP/2, and with clients that never acknowledge the end.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{Validity, Wanted, lone_authority};
use crate::support::client::{BOTH, Client, Protocol, review_of};
use crate::support::frames::{self, *};
use crate::support::{Installation, Server};

/// A change of host.yaml or its files after which the client is not trusted.
#[derive(Clone, Copy, Debug)]
enum Change {
    Authority,
    Names,
}

impl Change {
    fn make(self, installation: &Installation, server: &mut Server) {
        match self {
            Change::Authority => {
                installation.write("apiserver-client-ca.pem", lone_authority("other").as_bytes());
            }
            Change::Names => {
                let text = std::fs::read_to_string(installation.path("host.yaml")).unwrap();
                let changed = text.replace("kube-apiserver", "another-client");
                assert_ne!(text, changed);
                installation.write("host.yaml", changed.as_bytes());
            }
        }
        server.reloader.reload();
    }
}

fn named() -> Installation {
    Installation::bare(json!({ "tls": { "clientNames": ["kube-apiserver"] } }))
}

/// A client that acknowledges no PING, so that HTTP/2 cannot be closed gracefully.
struct Silent {
    stream: TlsStream<TcpStream>,
    next: u32,
}

impl Silent {
    async fn new(client: &Client, server: &Server) -> Silent {
        Silent { stream: frames::open(client, server.address).await, next: 1 }
    }

    /// Sends a review on a new stream. Returns whether there is a response.
    async fn is_answered(&mut self) -> bool {
        let stream = self.next;
        self.next += 2;
        if self.stream.write_all(&frames::review(stream, &review_of("nginx"))).await.is_err() {
            return false;
        }
        while let Some(frame) = frames::read(&mut self.stream).await {
            match (frame.kind, frame.stream) {
                (HEADERS, of) if of == stream => return true,
                (RST_STREAM, of) if of == stream => return false,
                _ => {}
            }
        }
        false
    }

    async fn closed(&mut self) {
        while frames::read(&mut self.stream).await.is_some() {}
    }
}

#[tokio::test]
async fn no_request_is_answered_that_begins_when_its_client_is_no_longer_trusted() {
    for change in [Change::Authority, Change::Names] {
        let installation = named();
        let mut server = installation.serve().await;
        let client = installation.client();
        let mut silent = Silent::new(&client, &server).await;
        assert!(silent.is_answered().await);
        let mut kept = Vec::new();
        for protocol in BOTH {
            let mut connection = client.connect(server.address, protocol).await.unwrap();
            assert_eq!(connection.review("nginx").await.unwrap().status, 200);
            kept.push(connection);
        }
        change.make(&installation, &mut server);
        assert!(!silent.is_answered().await, "{change:?}, without PING");
        for (connection, protocol) in kept.iter_mut().zip(BOTH) {
            assert!(connection.review("nginx").await.is_err(), "{change:?}, {protocol:?}");
        }
    }
}

/// The connection is closed at once, whether or not its client sends requests.
#[tokio::test]
async fn a_connection_goes_with_the_trust_in_its_client() {
    for change in [Change::Authority, Change::Names] {
        let installation = named();
        let mut server = installation.serve().await;
        let client = installation.client();
        let mut silent = Silent::new(&client, &server).await;
        let mut kept = client.connect(server.address, Protocol::Http1).await.unwrap();
        assert!(silent.is_answered().await);
        assert_eq!(kept.review("nginx").await.unwrap().status, 200);
        change.make(&installation, &mut server);
        let closed = async {
            silent.closed().await;
            kept.closed().await;
        };
        timeout(Duration::from_secs(1), closed).await.unwrap_or_else(|_| panic!("{change:?}: still open"));
    }
}

/// A request that began before gets its response, unless the rest of it takes too long.
#[tokio::test]
async fn a_request_under_way_is_answered_when_the_trust_ends() {
    for in_time in [true, false] {
        let installation = named();
        let mut server = installation.serve().await;
        let mut silent = Silent::new(&installation.client(), &server).await;
        silent.stream.write_all(&frame(HEADERS, END_HEADERS, 1, POST)).await.unwrap();
        // Frames are read in order.
        silent.next = 3;
        assert!(silent.is_answered().await);
        Change::Authority.make(&installation, &mut server);
        let began = Instant::now();
        if in_time {
            let body = review_of("nginx");
            silent.stream.write_all(&frame(DATA, END_STREAM, 1, body.as_bytes())).await.unwrap();
            let answer = frames::next(&mut silent.stream, HEADERS).await.expect("a response");
            assert_eq!(answer.stream, 1);
        }
        silent.closed().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

/// An expired certificate is no better on a kept connection than in a handshake.
#[tokio::test]
async fn an_expired_certificate_is_not_served_on_a_kept_connection() {
    let installation = named();
    let server = installation.serve().await;
    let brief = Wanted { valid: Validity::Seconds(4), ..Wanted::client() };
    let client = Client::new(&installation.pki, Some(&brief));
    let mut kept = Vec::new();
    for protocol in BOTH {
        let mut connection = client.connect(server.address, protocol).await.unwrap();
        assert_eq!(connection.review("nginx").await.unwrap().status, 200, "{protocol:?}");
        kept.push(connection);
    }
    sleep(Duration::from_secs(6)).await;
    for (connection, protocol) in kept.iter_mut().zip(BOTH) {
        assert!(connection.review("nginx").await.is_err(), "{protocol:?}");
    }
}

/// New certificates of the host only close the connections of a client that is trusted as before. A client
/// that keeps sending requests gets responses for a short time.
#[tokio::test]
async fn the_end_of_a_connection_is_limited_from_its_beginning() {
    let installation = named();
    let mut server = installation.serve().await;
    let mut silent = Silent::new(&installation.client(), &server).await;
    let renewed = installation.pki.issue(&Wanted::server());
    installation.write("external-cert.pem", renewed.chain.as_bytes());
    installation.write("external-key.pem", renewed.key.as_bytes());
    server.reloader.reload();
    assert!(silent.is_answered().await, "the client is trusted as before");
    let began = Instant::now();
    while silent.is_answered().await {
        assert!(began.elapsed() < Duration::from_secs(10), "still answered");
        sleep(Duration::from_millis(50)).await;
    }
    silent.closed().await;
    assert!(began.elapsed() < Duration::from_secs(10), "closed after {:?}", began.elapsed());
}

/// A shutdown waits no longer for such a client than for one that acknowledges the end.
#[tokio::test]
async fn no_client_holds_up_a_stop_by_asking_on() {
    let installation = named();
    let server = installation.serve().await;
    let mut silent = Silent::new(&installation.client(), &server).await;
    assert!(silent.is_answered().await);
    let began = Instant::now();
    let stopped = server.stop();
    while silent.is_answered().await {
        assert!(began.elapsed() < Duration::from_secs(15), "still answered");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(stopped.await.unwrap(), "a request was cut off");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
