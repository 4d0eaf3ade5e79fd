//! Effects of one client on the others: floods of frames, streams that are reset, bodies that never come, and
//! ten times the load. The host stays small, and well-behaved clients get their responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::support::Installation;
use crate::support::certificates::Wanted;
use crate::support::client::{Client, Connection, Protocol, post, review_of};
use crate::support::frames::{self, *};
use crate::support::process::Process;

const MI: u64 = 1 << 20;
/// ENHANCE_YOUR_CALM (RFC 9113, section 7).
const CALM: u32 = 0xb;

/// Encodes streams that are begun and reset, all in one piece.
fn begun_and_reset(streams: u32) -> Vec<u8> {
    let stream = |number: u32| {
        let id = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, id, POST), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
    };
    (0..streams).flat_map(stream).collect()
}

/// Encodes streams whose headers break the protocol, each by itself: HTTP/2 has no field `connection`.
fn malformed(streams: u32) -> Vec<u8> {
    let block = [POST, b"\x00\x0aconnection\x01x"].concat();
    (0..streams).flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)).collect()
}

/// limit: resets within, resets breaks, stream-errors within, stream-errors breaks
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

/// A host as a program, and one connection that keeps sending reviews.
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

    /// Sends reviews for a while. Every response has to come in time. Returns the number of 429 responses
    /// instead of 200, and the growth of the process.
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

/// Frames that cost their sender nothing, for as long as the host reads them, from clients that read the
/// responses and from clients that do not.
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

/// Begins as many streams as a connection may have, none of which ends.
async fn begun(
    client: &crate::support::client::Client,
    address: std::net::SocketAddr,
    body: &[u8],
) -> TlsStream<TcpStream> {
    let mut stream = frames::open(client, address).await;
    // Sent in one piece, which is quick: the host waits only 10 s for a missing body.
    let mut begin = Vec::new();
    for number in 0..256 {
        let id = 2 * number + 1;
        begin.extend(frame(HEADERS, END_HEADERS, id, frames::POST));
        for piece in body.chunks(1 << 14) {
            begin.extend(frame(DATA, 0, id, piece));
        }
    }
    stream.write_all(&begin).await.unwrap();
    // The reply to a PING shows that everything sent before has been read.
    stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    stream.flush().await.unwrap();
    frames::next(&mut stream, PING).await.unwrap();
    stream
}

/// Returns another client that the host trusts. kubeadm's authority has many.
fn another(installation: &Installation, name: &str) -> Client {
    Client::new(&installation.pki, Some(&Wanted { common_name: name.to_owned(), ..Wanted::client() }))
}

/// A client that uses up its share gets an error, and no other client is affected.
///
/// limit: under-way within, under-way breaks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_have_a_common_limit() {
    let mut host = Asked::start(json!({})).await;
    let greedy = another(&host.installation, "greedy");
    let mut connection = greedy.connect(host.address, Protocol::Http2).await.unwrap();
    let before = host.process.resident();
    let mut streams = Vec::new();
    for _ in 0..60 {
        streams.push(begun(&greedy, host.address, b"").await);
    }
    assert_eq!(connection.review("nginx").await.unwrap().status, 200, "with 15,360 others");
    for _ in 0..10 {
        streams.push(begun(&greedy, host.address, b"").await);
    }
    // Requests that were read begin soon after.
    let began = Instant::now();
    let answer = loop {
        let answer = connection.review("nginx").await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "with 17,920 others: {}", answer.text());
    };
    assert_eq!(answer.status, 429);
    assert_eq!(answer.json()["message"], "this image policy host has too many requests under way");
    let growth = host.process.resident() - before;
    assert!(growth < 192 * MI, "the process grew by {growth} bytes for 128 MiB under way");
    let (busy, _) = host.ask(Duration::from_millis(500)).await;
    assert_eq!(busy, 0, "another client pays for it");
    drop(streams);
    let began = Instant::now();
    while connection.review("nginx").await.unwrap().status != 200 {
        assert!(began.elapsed() < Duration::from_secs(5), "nothing is under way any more");
    }
}

/// A client's way to make the host hold memory for a connection.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// The client reads no byte of any response.
    Window(u32),
    /// The client sends no body.
    NoBody,
    /// The client reads a byte of a response now and then.
    Drip,
}

impl Hold {
    async fn begin(self, client: &Client, address: std::net::SocketAddr) -> JoinSet<()> {
        let window = match self {
            Hold::Window(bytes) => bytes,
            Hold::NoBody | Hold::Drip => 1,
        };
        let stream = frames::open_with(client, address, &frames::window(window)).await;
        let (mut reading, mut writing) = tokio::io::split(stream);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut bytes = [0; 4096];
            while reading.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        });
        tasks.spawn(async move {
            let streams = (0..256).map(|number| 2 * number + 1);
            let begin: Vec<u8> = match self {
                Hold::NoBody => {
                    streams.clone().flat_map(|id| frame(HEADERS, END_HEADERS, id, frames::POST)).collect()
                }
                _ => streams
                    .clone()
                    .flat_map(|id| frame(HEADERS, END_HEADERS | END_STREAM, id, frames::GET))
                    .collect(),
            };
            if writing.write_all(&begin).await.is_err() || !matches!(self, Hold::Drip) {
                return std::future::pending().await;
            }
            let drip: Vec<u8> =
                streams.flat_map(|id| frame(WINDOW_UPDATE, 0, id, &1_u32.to_be_bytes())).collect();
            while writing.write_all(&drip).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        tasks
    }
}

/// No client is rejected because another holds as many requests and responses as it can, with a certificate
/// of its own, or several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_much_keeps_nobody_else_from_being_answered() {
    let mut host = Asked::start(json!({})).await;
    for hold in [Hold::Window(0), Hold::Window(1), Hold::Drip, Hold::NoBody] {
        for clients in [1, 4] {
            let clients: Vec<_> =
                (0..clients).map(|number| another(&host.installation, &format!("greedy-{number}"))).collect();
            let mut held = Vec::new();
            for number in 0..20 {
                held.push(hold.begin(&clients[number % clients.len()], host.address).await);
            }
            let (busy, growth) = host.ask(Duration::from_secs(1)).await;
            assert_eq!(busy, 0, "{hold:?}, {} clients", clients.len());
            assert!(growth < 96 * MI, "{hold:?}: the process grew by {growth} bytes");
        }
    }
}

/// The time limit of a response counts from its head, whatever the client does to its windows meanwhile.
///
/// limit: stall-time within, stall-time breaks
#[tokio::test]
async fn a_response_that_is_not_taken_ends_its_connection() {
    for (window, drips) in [(0, false), (1, false), (0, true)] {
        let installation = Installation::bare(json!({}));
        let server = installation.serve().await;
        let client = installation.client();
        for takes in [true, false] {
            let mut stream = frames::open_with(&client, server.address, &frames::window(window)).await;
            let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, frames::GET);
            stream.write_all(&request).await.unwrap();
            assert!(frames::next(&mut stream, HEADERS).await.is_some());
            tokio::time::pause();
            let began = tokio::time::Instant::now();
            if takes {
                tokio::time::sleep(Duration::from_secs(15)).await;
                tokio::time::resume();
                let wide = frame(WINDOW_UPDATE, 0, 1, &10_000_u32.to_be_bytes());
                stream.write_all(&wide).await.unwrap();
                while !frames::next(&mut stream, DATA).await.expect("the rest of the response").ends() {}
                tokio::time::pause();
                tokio::time::sleep(Duration::from_secs(60)).await;
                tokio::time::resume();
                stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
                assert!(
                    frames::next(&mut stream, PING).await.is_some(),
                    "a connection with nothing under way is kept"
                );
                continue;
            }
            let (mut reading, mut writing) = tokio::io::split(stream);
            let dripping = tokio::spawn(async move {
                while drips
                    && writing.write_all(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())).await.is_ok()
                {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                writing
            });
            let mut rest = Vec::new();
            let _ = reading.read_to_end(&mut rest).await;
            let took = began.elapsed();
            assert!((10..60).contains(&took.as_secs()), "window {window}, drips {drips}: {took:?}");
            dripping.abort();
            tokio::time::resume();
        }
    }
}

/// If all connections are in use, the client with the most gives one up: an idle one, or one on which no
/// request ever ends. A connection in use is not closed for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_most_connections_gives_one_up() {
    for clients in [1, 4] {
        for busy in [false, true] {
            let installation = Installation::bare(json!({ "limits": { "connections": 4 } }));
            let mut process = installation.start();
            let (address, _) = process.addresses();
            let mut taken = Vec::new();
            for number in 0..4 {
                let client = another(&installation, &format!("other-{}", number % clients));
                let mut stream = frames::open(&client, address).await;
                if busy {
                    stream.write_all(&frame(HEADERS, END_HEADERS, 1, frames::POST)).await.unwrap();
                    stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
                    frames::next(&mut stream, PING).await.unwrap();
                }
                taken.push(stream);
            }
            let enters = async {
                let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
                assert_eq!(connection.review("nginx").await.unwrap().status, 200);
                connection
            };
            let entered = tokio::time::timeout(Duration::from_secs(5), enters).await;
            let mut connection =
                entered.unwrap_or_else(|_| panic!("{clients} clients, busy {busy}: kept out"));
            // The other clients reconnect as often as they like.
            let mut crowd = JoinSet::new();
            for number in 0..40 {
                let client = another(&installation, &format!("other-{}", number % clients));
                crowd.spawn(async move {
                    while let Ok(mut stream) = client.handshake(address, &["h2"]).await {
                        let _ = stream.read(&mut [0; 64]).await;
                    }
                });
            }
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(2) {
                let answer = connection.review("nginx").await;
                assert_eq!(
                    answer.expect("a connection in use is kept").status,
                    200,
                    "{clients} clients, busy {busy}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Handshakes that stall, at any point, keep no other client out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_keep_nobody_out() {
    let installation = Installation::bare(json!({}));
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let hello = client_hello();
    for begun in [&b""[..], &hello[..1], &hello[..hello.len() / 2], &hello] {
        let mut standing = Vec::new();
        for _ in 0..600 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun).await.unwrap();
            standing.push(stream);
        }
        for _ in 0..10 {
            let mut connection = installation.client().connect(address, Protocol::Http1).await.unwrap();
            assert_eq!(connection.review("nginx").await.unwrap().status, 200, "after {} bytes", begun.len());
            standing.push(TcpStream::connect(address).await.unwrap());
        }
    }
}

/// A client with more waiting reviews than the queue holds keeps no other from its turn, however slow a
/// review is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_full_of_one_clients_reviews_has_room_for_another() {
    let limits = json!({ "limits": { "queue": 16, "concurrentReviews": 1, "reviewDeadline": "20s" } });
    let installation = Installation::never_ending("50ms", limits);
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let greedy = another(&installation, "greedy").connect(address, Protocol::Http2).await.unwrap();
    let mut crowd = JoinSet::new();
    for _ in 0..64 {
        let mut sender = greedy.another();
        crowd.spawn(async move {
            loop {
                let review = post(review_of("nginx"));
                if sender.ready().await.is_err() || sender.send_request(review).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    for _ in 0..20 {
        let began = Instant::now();
        let answer = connection.review("nginx").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        // The review waits for the running one; a queue of 16 would take most of a second.
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
}

/// Returns the first message of a client.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Ten times as many connections as are served at once, and each served one sends as much as it can. The
/// memory of the process is limited, the earlier client keeps getting responses, and afterwards everything is
/// as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_is_survived() {
    const CONNECTIONS: usize = 64;
    let mut host = Asked::start(json!({ "limits": { "connections": CONNECTIONS } })).await;
    let body = vec![b' '; 1 << 16];
    let mut attack = JoinSet::new();
    for number in 0..10 * CONNECTIONS {
        let (client, address, body) = (host.installation.client(), host.address, body.clone());
        attack.spawn(async move {
            // Waiting connections never get this far: the rest is in buffers of the system.
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
    // Requests under way may hold 256 MiB.
    assert!(growth < 512 * MI, "the process grew by {growth} bytes");
    attack.shutdown().await;
    let (_, _) = host.ask(Duration::from_secs(1)).await;
    let (busy_after, _) = host.ask(Duration::from_secs(1)).await;
    assert_eq!(busy_after, 0, "{busy} answers were 429 meanwhile");
    let mut newer = host.installation.client().connect(host.address, Protocol::Http1).await.unwrap();
    assert_eq!(newer.review("nginx").await.unwrap().status, 200);
}
