//! What one client can do to the others: floods of frames, streams that are reset, bodies that never come, and ten times
//! the load. The host stays small, and those who keep to the rules are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::support::Installation;
use crate::support::client::{Connection, Protocol};
use crate::support::frames::{self, *};
use crate::support::process::Process;

const MI: u64 = 1 << 20;
/// ENHANCE_YOUR_CALM (RFC 9113, section 7).
const CALM: u32 = 0xb;

/// Streams that are begun and reset, all in one piece.
fn begun_and_reset(streams: u32) -> Vec<u8> {
    let stream = |number: u32| {
        let id = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, id, POST), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
    };
    (0..streams).flat_map(stream).collect()
}

/// Streams whose headers break the protocol, each by itself: HTTP/2 has no field `connection`.
fn malformed(streams: u32) -> Vec<u8> {
    let block = [POST, b"\x00\x0aconnection\x01x"].concat();
    (0..streams).flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)).collect()
}

/// bound: resets within, resets breaks, stream-errors within, stream-errors breaks
#[tokio::test]
async fn who_resets_streams_again_and_again_is_cut_off() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for (what, streams, bytes, ends) in [
        ("resets", 20, begun_and_reset(20), false),
        ("resets", 1000, begun_and_reset(1000), true),
        ("errors", 64, malformed(64), false),
        ("errors", 66, malformed(66), true),
    ] {
        let mut stream = frames::open(&installation.client(), server.address).await;
        let next_stream = 2 * streams + 1;
        let request = frame(HEADERS, END_HEADERS | END_STREAM, next_stream, frames::GET);
        stream.write_all(&[bytes, request].concat()).await.unwrap();
        let end = loop {
            let frame = frames::read(&mut stream).await.expect("an answer or GOAWAY");
            if frame.kind == GOAWAY || frame.kind == HEADERS && frame.stream == next_stream {
                break (frame.kind == GOAWAY).then(|| frame.code());
            }
        };
        assert_eq!(end, ends.then_some(CALM), "{streams} {what}");
    }
}

/// A host as a program, and one connection that goes on asking it.
struct Asked {
    installation: Installation,
    process: Process,
    connection: Connection,
    address: std::net::SocketAddr,
}

impl Asked {
    async fn start(changes: serde_json::Value) -> Asked {
        let installation = Installation::bare(changes);
        let mut process = installation.start();
        let (address, _) = process.addresses();
        let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
        assert_eq!(connection.review("nginx").await.unwrap().status, 200);
        Asked { installation, process, connection, address }
    }

    /// Asks for a while. Every answer has to be there in time; returns how many were not 200 but 429, and by how much the
    /// process grew.
    async fn ask(&mut self, time: Duration) -> (usize, u64) {
        let before = self.process.resident();
        let began = Instant::now();
        let (mut busy, mut most) = (0, before);
        while began.elapsed() < time {
            let answer = tokio::time::timeout(Duration::from_secs(5), self.connection.review("nginx"));
            match answer.await.expect("an answer in time").unwrap().status.as_u16() {
                200 => {}
                429 => busy += 1,
                other => panic!("answered {other}"),
            }
            most = most.max(self.process.resident());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (busy, most - before)
    }
}

/// Frames that cost their sender nothing, for as long as the host takes them, from clients that read what comes and from
/// clients that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_harm_nobody_else() {
    let mut host = Asked::start(json!({})).await;
    let headers = frame(HEADERS, 0, 1, frames::POST);
    let name = [&b"\x00\x04name\x7f\x81\x7f"[..], &[b'x'; 256]].concat();
    for (what, begins, repeats) in [
        ("PING", vec![], frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("CONTINUATION", headers, frame(CONTINUATION, 0, 1, &name)),
        ("CONTINUATION without content", frame(HEADERS, 0, 1, frames::POST), frame(CONTINUATION, 0, 1, &[])),
        ("DATA without content", frame(HEADERS, END_HEADERS, 1, frames::POST), frame(DATA, 0, 1, &[])),
        ("unknown frames", vec![], frame(0x42, 0, 0, &[0; 64])),
    ] {
        for reads in [true, false] {
            let over = Arc::new(AtomicBool::new(false));
            let mut floods = JoinSet::new();
            for _ in 0..4 {
                let mut stream = frames::open(&host.installation.client(), host.address).await;
                stream.write_all(&begins).await.unwrap();
                let (piece, over) = (repeats.repeat(200), Arc::clone(&over));
                floods.spawn(async move {
                    let (mut reading, mut writing) = tokio::io::split(stream);
                    let reading = tokio::spawn(async move {
                        let mut answers = [0; 4096];
                        while reads && reading.read(&mut answers).await.is_ok_and(|read| read > 0) {}
                        reading
                    });
                    let flood = async {
                        while !over.load(Ordering::Relaxed) && writing.write_all(&piece).await.is_ok() {}
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
                    reading.abort();
                });
            }
            let (busy, growth) = host.ask(Duration::from_secs(1)).await;
            over.store(true, Ordering::Relaxed);
            floods.join_all().await;
            assert_eq!(busy, 0, "{what}");
            assert!(growth < 32 * MI, "{what}, read {reads}: the process grew by {growth} bytes");
        }
    }
}

/// As many streams as a connection may have, none of which ends.
async fn begun(
    client: &crate::support::client::Client,
    address: std::net::SocketAddr,
    body: &[u8],
) -> TlsStream<TcpStream> {
    let mut stream = frames::open(client, address).await;
    // In one piece, which is quick: a body that does not come is waited for but 10 s.
    let mut begin = Vec::new();
    for number in 0..256 {
        let id = 2 * number + 1;
        begin.extend(frame(HEADERS, END_HEADERS, id, frames::POST));
        for piece in body.chunks(1 << 14) {
            begin.extend(frame(DATA, 0, id, piece));
        }
    }
    stream.write_all(&begin).await.unwrap();
    // What was sent has been read when this is answered.
    stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    stream.flush().await.unwrap();
    frames::next(&mut stream, PING).await.unwrap();
    stream
}

/// bound: under-way within, under-way breaks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_have_a_common_bound() {
    let mut host = Asked::start(json!({})).await;
    let client = host.installation.client();
    let mut streams = Vec::new();
    for _ in 0..15 {
        streams.push(begun(&client, host.address, b"").await);
    }
    assert_eq!(host.connection.review("nginx").await.unwrap().status, 200, "with 3,840 others");
    streams.push(begun(&client, host.address, b"").await);
    streams.push(begun(&client, host.address, b"").await);
    // What was read is begun soon after.
    let began = Instant::now();
    let answer = loop {
        let answer = host.connection.review("nginx").await.unwrap();
        if answer.status == 429 {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "with 4,352 others: {}", answer.text());
    };
    assert_eq!(answer.json()["message"], "this image policy host has too many requests under way");
    drop(streams);
    let (_, growth) = host.ask(Duration::from_secs(1)).await;
    assert_eq!(host.connection.review("nginx").await.unwrap().status, 200, "nothing is under way any more");
    assert!(growth < 64 * MI, "the process grew by {growth} bytes");
}

/// Ten times as many connections as are served at once, and each of those that are sends as much as it can: what the
/// process holds is bounded, who was there goes on being answered, and when it is over all is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_is_survived() {
    const CONNECTIONS: usize = 64;
    let mut host = Asked::start(json!({ "limits": { "connections": CONNECTIONS } })).await;
    let body = vec![b' '; 1 << 16];
    let mut attack = JoinSet::new();
    for number in 0..10 * CONNECTIONS {
        let (client, address, body) = (host.installation.client(), host.address, body.clone());
        attack.spawn(async move {
            // Those that have to wait never get this far: the rest is in buffers of the system.
            if number % 2 == 0 {
                return Some(begun(&client, address, &body).await);
            }
            let mut stream = client.handshake(address, &["http/1.1"]).await.ok()?;
            let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(&body.repeat(32)).await.ok()?;
            Some(stream)
        });
    }
    let (busy, growth) = host.ask(Duration::from_secs(8)).await;
    // 256 MiB is what may be under way.
    assert!(growth < 512 * MI, "the process grew by {growth} bytes");
    attack.shutdown().await;
    let (_, _) = host.ask(Duration::from_secs(1)).await;
    let (busy_after, _) = host.ask(Duration::from_secs(1)).await;
    assert_eq!(busy_after, 0, "{busy} answers were 429 meanwhile");
    let mut newer = host.installation.client().connect(host.address, Protocol::Http1).await.unwrap();
    assert_eq!(newer.review("nginx").await.unwrap().status, 200);
}
