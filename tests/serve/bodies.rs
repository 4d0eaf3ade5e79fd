//! Bodies, headers and streams at the webhook: over their limits, slow, and cut off.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::webhook::{Expected, differences};
use crate::support::client::{BOTH, Protocol, full, review_of};
use crate::support::frames::{self, frame};
use crate::support::{Installation, assert_none};

/// A body that cannot be sent whole gets a response or is cut off, and the host continues to serve.
/// limit: body-drain breaks
#[tokio::test]
async fn a_body_far_over_every_limit() {
    let installation = Installation::new(json!({ "limits": { "body": "64Ki" } }));
    let server = installation.serve().await;
    for protocol in BOTH {
        let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let piece = Bytes::from(vec![b' '; 1 << 20]);
        let feeding = tokio::spawn(async move {
            // The body has no end: sending stops when the host reads no more.
            let mut sent = 0;
            while sender.send_data(piece.clone()).await.is_ok() {
                sent += 1;
            }
            sent
        });
        let request = Request::post("https://localhost/").body(body.boxed()).unwrap();
        if let Ok(answer) = connection.send(request).await {
            let says = vec!["limits.body".to_owned()];
            assert_none(&differences(&Expected { status: 200, allowed: Some(false), says }, &answer, false));
        }
        drop(connection);
        let sent = feeding.await.unwrap();
        assert!((64..96).contains(&sent), "{protocol:?}: the host took {sent} MiB");
        let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
        assert_eq!(
            connection.review("registry.k8s.io/pause").await.unwrap().json()["status"]["allowed"],
            true
        );
    }
}

/// A client that is to read the response about the limit must be able to send its whole body first.
/// limit: body-drain within
#[tokio::test]
async fn a_body_over_its_limit_is_read_to_its_end() {
    let installation = Installation::new(json!({ "limits": { "body": "64Ki" } }));
    let server = installation.serve().await;
    for protocol in BOTH {
        let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
        let body = Full::new(Bytes::from(vec![b' '; 32 << 20])).boxed();
        let answer = connection.send(Request::post("https://localhost/").body(body).unwrap()).await.unwrap();
        let says = vec!["limits.body".to_owned()];
        assert_none(&differences(&Expected { status: 200, allowed: Some(false), says }, &answer, false));
        let again = connection.review("registry.k8s.io/pause").await.unwrap();
        assert_eq!(again.json()["status"]["allowed"], true, "the connection is as good as before");
    }
}

/// Returns the head of a request that expects `100 Continue`, by which the client knows that the host waits
/// for the body.
fn head(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_client_that_hangs_up_half_way() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let body = review_of("registry.k8s.io/pause");
    let mut stream = installation.client().handshake(server.address, &["http/1.1"]).await.unwrap();
    stream.write_all(head(body.len()).as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100"));
    stream.write_all(&body.as_bytes()[..20]).await.unwrap();
    drop(stream);

    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let (mut sender, channel) = Channel::<Bytes>::new(1);
    let request = Request::post("https://localhost/").body(channel.boxed()).unwrap();
    let mut another = connection.another();
    let cut_off = tokio::spawn(async move { another.send_request(request).await });
    sender.send(Frame::data(Bytes::from_static(b"{\"kind\""))).await.unwrap();
    assert!(connection.review("registry.k8s.io/pause").await.is_ok(), "frames are read in order");
    cut_off.abort();
    drop(sender);
    let answer = connection.review("registry.k8s.io/pause").await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true);
}

/// limit: body-time breaks
#[tokio::test]
async fn a_client_that_stalls_half_way_is_denied() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let mut stream = installation.client().handshake(server.address, &["http/1.1"]).await.unwrap();
    stream.write_all(head(1000).as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100"));
    stream.write_all(b"{").await.unwrap();
    // From here on the clock jumps whenever there is nothing else to do.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"allowed\":false"), "{answer}");
    assert!(answer.contains("did not arrive within 10s"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(30), "the apiserver has given up: {:?}", began.elapsed());
}

/// limit: body-time within
#[tokio::test]
async fn a_body_may_take_its_time() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let body = review_of("registry.k8s.io/pause");
    let (mut sender, channel) = Channel::<Bytes>::new(1);
    let request = Request::post("https://localhost/").body(channel.boxed()).unwrap();
    let answer = tokio::spawn(connection.another().send_request(request));
    sender.send_data(Bytes::copy_from_slice(&body.as_bytes()[..20])).await.unwrap();
    assert!(connection.review("registry.k8s.io/pause").await.is_ok(), "frames are read in order");
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(7)).await;
    tokio::time::resume();
    sender.send_data(Bytes::copy_from_slice(&body.as_bytes()[20..])).await.unwrap();
    drop(sender);
    let answer = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&answer).unwrap().contains("\"allowed\":true"), "{answer:?}");
}

/// limit: headers within, headers breaks
#[tokio::test]
async fn headers_have_a_limit() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    for protocol in BOTH {
        for (bytes, status) in [(48 << 10, 200), (80 << 10, 431)] {
            let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
            let request = Request::get("https://localhost/").header("x-long", "x".repeat(bytes));
            let answer = connection.send(request.body(full("")).unwrap()).await.unwrap();
            assert_eq!(answer.status, status, "{protocol:?}, {bytes} bytes");
        }
    }
}

/// limit: streams within, streams breaks
#[tokio::test]
async fn a_connection_has_so_many_streams() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let begin = |connection: &mut crate::support::client::Connection| {
        let (sender, channel) = Channel::<Bytes>::new(1);
        let request = Request::post("https://localhost/").body(channel.boxed()).unwrap();
        (sender, tokio::spawn(connection.another().send_request(request)))
    };
    let mut begun: Vec<_> = (0..255).map(|_| begin(&mut connection)).collect();
    let answer = connection.review("registry.k8s.io/pause").await.unwrap();
    assert_eq!(answer.status, 200, "with 255 others");
    begun.push(begin(&mut connection));
    let mut another = connection.another();
    let request = Request::get("https://localhost/").body(full("")).unwrap();
    let waiting = tokio::spawn(async move { another.send_request(request).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "one more is served beside 256");
    begun.clear();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

/// Requests that get 4xx: the request line, the HPACK of its headers, and the status.
const REJECTED: [(&str, &[u8], u16); 3] = [
    ("POST /image_policy", b"\x83\x87\x04\x0d/image_policy\x01\x09localhost", 400),
    ("PUT /", b"\x02\x03PUT\x87\x84\x01\x09localhost", 405),
    ("GET /x", b"\x82\x87\x04\x02/x\x01\x09localhost", 404),
];

/// curl 7.88 takes a response before the end of its own body for a stream error if a reset follows.
#[tokio::test]
async fn a_rejected_body_is_taken_before_the_response_over_http2() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for length in [200, 200 << 10] {
        let mut stream = frames::open(&installation.client(), server.address).await;
        let body = vec![b'x'; length];
        // RFC 9113 §6.9.2
        let mut window = 65_535;
        for number in 0..100 {
            for (index, (name, headers, status)) in REJECTED.iter().enumerate() {
                let id = 2 * (number * 3 + index as u32) + 1;
                stream.write_all(&frame(frames::HEADERS, frames::END_HEADERS, id, headers)).await.unwrap();
                let mut response = Vec::new();
                let mut chunks = body.chunks(16_384).peekable();
                let mut ended = false;
                while !ended {
                    if let Some(chunk) = chunks.next_if(|chunk| chunk.len() <= window) {
                        let last = if chunks.peek().is_none() { frames::END_STREAM } else { 0 };
                        stream.write_all(&frame(frames::DATA, last, id, chunk)).await.unwrap();
                        window -= chunk.len();
                        continue;
                    }
                    let came = frames::read(&mut stream).await.unwrap();
                    match came.kind {
                        frames::WINDOW_UPDATE if came.stream == 0 => {
                            window += u32::from_be_bytes(came.payload.try_into().unwrap()) as usize;
                        }
                        frames::RST_STREAM | frames::GOAWAY => panic!("{name}: frame {}", came.kind),
                        frames::HEADERS | frames::DATA => {
                            assert_eq!(chunks.peek(), None, "{name}: a response before the body's end");
                            ended = came.flags & frames::END_STREAM != 0;
                            if came.kind == frames::DATA {
                                response.extend(came.payload);
                            }
                        }
                        _ => {}
                    }
                }
                let response: Value = serde_json::from_slice(&response).unwrap();
                assert_eq!(response["code"], *status, "{name}: {response}");
            }
        }
    }
}

#[tokio::test]
async fn a_rejected_body_is_taken_before_the_response_over_http1() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for length in [200, 200 << 10] {
        let mut stream = installation.client().handshake(server.address, &["http/1.1"]).await.unwrap();
        for _ in 0..100 {
            for (name, _, status) in REJECTED {
                let head = format!("{name} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat()).await.unwrap();
                let mut response = Vec::new();
                while !response.ends_with(b"}") {
                    assert_ne!(stream.read_buf(&mut response).await.unwrap(), 0, "{name}: closed");
                }
                let response = String::from_utf8(response).unwrap();
                assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
            }
        }
    }
}
