//! Life and end of connections: slow clients, idle ones, and the shutdown. Waits take no real time: after
//! `pause` the clock jumps whenever there is nothing else to do.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, advance, pause, resume, sleep};
use tokio_rustls::client::TlsStream;

use crate::support::certificates::Wanted;
use crate::support::client::{Answer, BOTH, Connection, Protocol, full, post, review_of};
use crate::support::{Installation, Server};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// The end of the response.
const END: &str = "may run.\n";

/// Starts a host without policies, and opens a TLS connection for HTTP/1.1 byte by byte.
async fn raw() -> (Installation, Server, TlsStream<TcpStream>) {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    let stream = installation.client().handshake(server.address, &["http/1.1"]).await.unwrap();
    (installation, server, stream)
}

/// Reads until the bytes end in `end`.
async fn read_to(stream: &mut TlsStream<TcpStream>, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// Waits until the host closes the connection. Returns the duration.
async fn closed_after(stream: &mut TlsStream<TcpStream>) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    // Closed with or without a TLS close_notify.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"), "an answer to nothing: {}", String::from_utf8_lossy(&rest));
    began.elapsed()
}

fn seconds(from: u64, to: u64) -> std::ops::Range<Duration> {
    Duration::from_secs(from)..Duration::from_secs(to)
}

/// limit: headers-time within
#[tokio::test]
async fn headers_may_take_their_time() {
    let (_installation, _server, mut stream) = raw().await;
    for _ in 0..2 {
        // A kept connection may be idle for longer than headers may take.
        pause();
        sleep(Duration::from_secs(60)).await;
        for part in [&GET[..1], &GET[1..20]] {
            resume();
            stream.write_all(part).await.unwrap();
            pause();
            sleep(Duration::from_secs(3)).await;
        }
        resume();
        stream.write_all(&GET[20..]).await.unwrap();
        let answer = read_to(&mut stream, END).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Headers that never end are cut off: of the first request and of later ones, in one piece with the previous
/// request or not, all at once and byte by byte.
///
/// limit: headers-time breaks
#[tokio::test]
async fn headers_that_never_end_are_cut_off() {
    const PART: &[u8] = b"POST / HTTP/1.1\r\n";
    const CHUNKED: &[u8] =
        b"GET / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    const LONG: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc";
    for (before, pipelined) in [
        (&b""[..], false),
        (GET, false),
        (GET, true),
        (LONG, true),
        (CHUNKED, true),
        (b"\r\n\r\nGET / HTTP/1.1\nhost: localhost\n\n", true),
    ] {
        for trickles in [false, true] {
            let (_installation, _server, mut stream) = raw().await;
            let pieces =
                if pipelined { vec![[before, PART].concat()] } else { vec![before.to_vec(), PART.to_vec()] };
            for piece in pieces {
                stream.write_all(&piece).await.unwrap();
                if !before.is_empty() && piece.starts_with(before) {
                    read_to(&mut stream, END).await;
                }
            }
            stream.flush().await.unwrap();
            pause();
            let (mut reading, mut writing) = tokio::io::split(stream);
            let trickling = tokio::spawn(async move {
                while trickles && writing.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_secs(3)).await;
                }
                writing
            });
            let began = Instant::now();
            let _ = reading.read_u8().await;
            let took = began.elapsed();
            // The clock may jump before the host has read the first byte; an idle connection is kept for 180
            // s.
            let before = String::from_utf8_lossy(before);
            assert!(seconds(9, 90).contains(&took), "{before:?}, {pipelined}, {trickles}: {took:?}");
            trickling.abort();
            resume();
        }
    }
}

/// Sends requests without reading responses until the host reads no more. Returns the number of requests.
async fn fill(stream: &mut TlsStream<TcpStream>) -> usize {
    let requests = GET.repeat(100);
    let mut written = 0;
    while let Ok(part) =
        tokio::time::timeout(Duration::from_millis(500), stream.write(&requests[written % GET.len()..])).await
    {
        written += part.unwrap();
        assert!(written < 256 << 20, "the host keeps the answers of a client that takes none");
    }
    written
}

/// limit: stall-time within
#[tokio::test]
async fn answers_may_wait_to_be_taken() {
    let (_installation, _server, mut stream) = raw().await;
    let asked = fill(&mut stream).await / GET.len();
    pause();
    sleep(Duration::from_secs(15)).await;
    resume();
    assert_eq!(answers(stream, asked).await, asked);
}

/// limit: stall-time breaks
#[tokio::test]
async fn who_takes_no_answers_is_cut_off() {
    let (_installation, _server, mut stream) = raw().await;
    let asked = fill(&mut stream).await / GET.len();
    pause();
    sleep(Duration::from_secs(60)).await;
    resume();
    assert!(answers(stream, asked).await < asked, "all {asked} answers were kept for a minute");
}

/// Reads responses, until there are `wanted` of them or the connection ends. Returns their number.
async fn answers(stream: TlsStream<TcpStream>, wanted: usize) -> usize {
    let (mut reading, mut writing) = tokio::io::split(stream);
    // Sends the rest, which fails if the connection has ended.
    let rest = tokio::spawn(async move { writing.flush().await });
    let (mut taken, mut bytes) = (0, Vec::new());
    while taken < wanted {
        bytes.drain(..bytes.len().saturating_sub(END.len() - 1));
        if reading.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            break;
        }
        taken += bytes.windows(END.len()).filter(|window| *window == END.as_bytes()).count();
    }
    rest.abort();
    taken
}

/// A connection in use gets its last response before it is closed. An idle one is closed soon.
///
/// limit: linger within, linger breaks
#[tokio::test]
async fn who_is_idle_when_the_host_stops_is_answered_once_more() {
    for asked in [true, false] {
        let (_installation, server, mut stream) = raw().await;
        stream.write_all(GET).await.unwrap();
        read_to(&mut stream, END).await;
        pause();
        let stopped = server.stop();
        if asked {
            sleep(Duration::from_millis(1500)).await;
            resume();
            stream.write_all(GET).await.unwrap();
            let answer = read_to(&mut stream, END).await;
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        } else {
            let took = closed_after(&mut stream).await;
            assert!(seconds(1, 6).contains(&took), "{took:?}");
        }
        assert!(stopped.await.unwrap());
    }
}

/// A connection that was accepted before the shutdown is served, even if its handshake ends later.
#[tokio::test]
async fn who_enters_while_the_host_stops_is_served() {
    for protocol in BOTH {
        let installation = Installation::bare(json!({}));
        let server = installation.serve().await;
        let mut before = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
        let entering = TcpStream::connect(server.address).await.unwrap();
        // Connections are accepted in order.
        TcpStream::connect(server.address).await.unwrap();
        assert_eq!(before.review("nginx").await.unwrap().status, 200);
        let stopped = server.stop();
        before.closed().await;
        let mut connection = installation.client().connect_over(entering, protocol).await.unwrap();
        assert_eq!(connection.review("nginx").await.unwrap().status, 200, "{protocol:?}");
        connection.closed().await;
        assert!(stopped.await.unwrap());
    }
}

/// An HTTP/2 client has to reply before its connection can be closed gracefully.
///
/// limit: farewell-time within, farewell-time breaks
#[tokio::test]
async fn who_does_not_let_go_is_cut_off() {
    for lets_go in [true, false] {
        let installation = Installation::bare(json!({}));
        let server = installation.serve().await;
        let mut silent = installation.client().handshake(server.address, &["h2"]).await.unwrap();
        let mut before = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
        assert_eq!(before.review("nginx").await.unwrap().status, 200);
        pause();
        let stopped = server.stop();
        if lets_go {
            sleep(Duration::from_millis(1500)).await;
            resume();
            let mut connection = Connection::over(silent, Protocol::Http2).await.unwrap();
            assert_eq!(connection.review("nginx").await.unwrap().status, 200);
            connection.closed().await;
        } else {
            let took = closed_after(&mut silent).await;
            assert!(seconds(1, 8).contains(&took), "{took:?}");
        }
        assert!(stopped.await.unwrap());
    }
}

/// A shutdown does not wait for slow reviews beyond its limit, and reports that.
///
/// limit: stop-time breaks
#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let installation = Installation::never_ending("2s", json!({ "limits": { "reviewDeadline": "25s" } }));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let review = tokio::spawn(connection.another().send_request(post(review_of("nginx"))));
    for _ in 0..3 {
        let about = hyper::Request::get("https://localhost/").body(full("")).unwrap();
        assert_eq!(connection.send(about).await.unwrap().status, 200, "requests arrive in order");
    }
    pause();
    let began = Instant::now();
    let stopped = server.stop();
    // The clock does not jump by itself during an evaluation.
    while !stopped.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(30), "kubelet kills after 30 s");
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(!stopped.await.unwrap(), "a review that takes 2 s was answered in no time");
    assert!(review.await.unwrap().is_err());
}

/// New TLS material is for new connections, and older connections end. An HTTP/2 client gets a GOAWAY at
/// once. HTTP/1.1 has no such message, so the connection is kept until its next use or a long idle time.
///
/// limit: retire-time within, retire-time breaks
#[tokio::test]
async fn connections_of_older_material_are_let_go() {
    let installation = Installation::bare(json!({}));
    let mut server = installation.serve().await;
    let client = installation.client();
    let mut older1 = client.connect(server.address, Protocol::Http1).await.unwrap();
    let mut older2 = client.connect(server.address, Protocol::Http2).await.unwrap();
    let mut late = client.connect(server.address, Protocol::Http1).await.unwrap();
    let mut idle = client.handshake(server.address, &["http/1.1"]).await.unwrap();
    for older in [&mut older1, &mut older2, &mut late] {
        assert_eq!(older.review("nginx").await.unwrap().status, 200);
    }
    let renew = |server: &mut Server| {
        let renewed = installation.pki.issue(&Wanted::server());
        installation.write("external-cert.pem", renewed.chain.as_bytes());
        installation.write("external-key.pem", renewed.key.as_bytes());
        server.reloader.reload();
    };
    renew(&mut server);
    older2.closed().await;
    let last = |answer: &Answer| {
        assert_eq!((answer.status.as_u16(), &answer.headers["connection"]), (200, &"close".parse().unwrap()));
    };
    last(&older1.review("nginx").await.unwrap());
    let mut newer = client.connect(server.address, Protocol::Http1).await.unwrap();
    assert_eq!(newer.review("nginx").await.unwrap().headers.get("connection"), None);
    // Further new certificates do not extend the time.
    pause();
    let began = Instant::now();
    sleep(Duration::from_secs(60)).await;
    renew(&mut server);
    // The apiserver's own timer closes after 90 s.
    sleep(Duration::from_secs(35)).await;
    resume();
    last(&late.review("nginx").await.unwrap());
    pause();
    closed_after(&mut idle).await;
    let took = began.elapsed();
    assert!(seconds(90, 120).contains(&took), "{took:?}");
}
