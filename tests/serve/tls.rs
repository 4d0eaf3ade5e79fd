//! TLS: which clients are accepted, which certificates can serve, and the log about both. Every file of
//! `cases/tls-clients` and `cases/tls-servers` is a test.

use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::KeyPair;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::certificates::{Wanted, lone_authority};
use crate::support::client::{BOTH, Client, Connection, Protocol};
use crate::support::{Installation, assert_none, cases};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClientCase {
    #[expect(dead_code, reason = "for the reader of the case")]
    why: String,
    /// The client's certificate, if it presents one.
    client: Option<Wanted>,
    /// Changes to `tls` of host.yaml.
    #[serde(default)]
    tls: Value,
    /// Part of the log. Without it the client is served.
    refused: Option<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client() {
    let cases = cases::<ClientCase>("cases/tls-clients");
    assert!(cases.len() >= 15, "only {} cases", cases.len());
    let mut found = Vec::new();
    for (name, case) in cases {
        let tls = if case.tls.is_null() { json!({}) } else { case.tls };
        let installation = Installation::bare(json!({ "tls": tls }));
        let mut process = installation.start();
        let (address, _) = process.addresses();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = Client::speaking(&installation.pki, case.client.as_ref(), &[version]);
            let answer = async {
                client.connect(address, Protocol::Http1).await?.review("nginx").await.map_err(Into::into)
            };
            let answer: Result<_, Box<dyn std::error::Error + Send + Sync>> = answer.await;
            let version = version.version;
            match (answer, &case.refused) {
                (Ok(answer), None) if answer.json()["status"]["allowed"] == true => {}
                (Err(_), Some(cause)) => {
                    let line = process.wait_for("TLS handshake refused: ");
                    if !line.contains(cause) {
                        found.push(format!("{name}, {version:?}: {line} does not say: {cause}"));
                    }
                }
                (answer, _) => found.push(format!("{name}, {version:?}: {answer:?}")),
            }
        }
    }
    assert_none(&found);
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServerCase {
    #[expect(dead_code, reason = "for the reader of the case")]
    why: String,
    /// The serving certificate; by default a sound one.
    certificate: Option<Wanted>,
    /// Content that replaces the files.
    #[serde(default)]
    files: BTreeMap<String, Vec<Content>>,
    /// The file that the message names.
    names: Option<String>,
    /// Part of the message about the file. Without it the host serves.
    refused: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "for the count of tests that every limit has")]
    limit: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Content {
    /// The original content of this file.
    Of(String),
    /// The original content of a file, repeated this many times.
    OfTimes(String, usize),
    /// This many authorities of one name.
    Authorities(usize),
    Text(String),
    /// This many spaces.
    Spaces(usize),
    /// A private key that belongs to no certificate.
    FreshKey,
    /// The file is missing.
    Missing,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server() {
    let cases = cases::<ServerCase>("cases/tls-servers");
    assert!(cases.len() >= 15, "only {} cases", cases.len());
    let mut found = Vec::new();
    for (name, case) in cases {
        let installation = Installation::bare(json!({}));
        if let Some(wanted) = &case.certificate {
            let identity = installation.pki.issue(wanted);
            installation.write("external-cert.pem", identity.chain.as_bytes());
            installation.write("external-key.pem", identity.key.as_bytes());
        }
        let read = |file: &str| std::fs::read_to_string(installation.path(file)).unwrap();
        let contents: Vec<(&String, Option<String>)> = case
            .files
            .iter()
            .map(|(file, parts)| {
                let parts = parts.iter().map(|part| match part {
                    Content::Of(other) => Some(read(other)),
                    Content::OfTimes(other, times) => Some(read(other).repeat(*times)),
                    Content::Authorities(count) => Some((0..*count).map(|_| lone_authority("a")).collect()),
                    Content::Text(text) => Some(text.clone()),
                    Content::Spaces(count) => Some(" ".repeat(*count)),
                    Content::FreshKey => Some(KeyPair::generate().unwrap().serialize_pem()),
                    Content::Missing => None,
                });
                (file, parts.collect())
            })
            .collect();
        for (file, content) in contents {
            match content {
                Some(content) => installation.write(file, content.as_bytes()),
                None => std::fs::remove_file(installation.path(file)).unwrap(),
            }
        }
        let mut process = installation.start();
        let Some(cause) = &case.refused else {
            let (address, _) = process.addresses();
            let answer =
                installation.client().connect(address, Protocol::Http2).await.unwrap().review("a").await;
            assert_eq!(answer.unwrap().status, 200, "{name}");
            continue;
        };
        let (status, said) = process.end();
        let expected = format!("host: {}: ", installation.path(&case.names.unwrap_or_default()).display());
        if status.code() != Some(2)
            || !said.starts_with(&expected)
            || !said.contains(cause)
            || said.lines().count() != 1
        {
            found.push(format!("{name}: {status}, {said:?} instead of {expected:?} and {cause:?}"));
        }
    }
    assert_none(&found);
}

#[tokio::test]
async fn protocols_are_chosen_by_alpn() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for (offered, chosen, protocol) in [
        (&["h2", "http/1.1"][..], Some("h2"), Protocol::Http2),
        (&["http/1.1"], Some("http/1.1"), Protocol::Http1),
        (&["h2"], Some("h2"), Protocol::Http2),
        (&[], None, Protocol::Http1),
    ] {
        let stream = installation.client().handshake(server.address, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        let mut connection = Connection::over(stream, protocol).await.unwrap();
        assert_eq!(connection.review("nginx").await.unwrap().status, 200, "{offered:?}");
    }
    assert!(installation.client().handshake(server.address, &["spdy/3"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_told_apart_in_the_log() {
    let installation = Installation::bare(json!({}));
    let mut process = installation.start();
    let (address, _) = process.addresses();

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    process.wait_for("the client does not speak TLS: its URL must begin with https://");
    // Closed with or without an alert, and perhaps reset because of unread data.
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));

    drop(TcpStream::connect(address).await.unwrap());
    process.wait_for("the client hung up during the handshake");

    // A client that does not trust the host's authority.
    let stranger = Installation::bare(json!({}));
    assert!(stranger.client().handshake(address, &["h2"]).await.is_err());
    process.wait_for("the client refused this host's certificate");
}

/// From here on the clock jumps whenever there is nothing else to do, so long waits take no time.
/// limit: idle-time within
/// limit: idle-time breaks
#[tokio::test]
async fn an_idle_connection_outlives_the_apiservers_own_timer() {
    const APISERVER_CLOSES_AFTER: Duration = Duration::from_secs(90);
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for protocol in BOTH {
        let mut connection = installation.client().connect(server.address, protocol).await.unwrap();
        for _ in 0..3 {
            assert_eq!(connection.review("nginx").await.unwrap().status, 200);
            tokio::time::pause();
            tokio::time::sleep(APISERVER_CLOSES_AFTER + Duration::from_secs(10)).await;
            tokio::time::resume();
        }
        assert_eq!(connection.review("nginx").await.unwrap().status, 200, "{protocol:?}");
        tokio::time::pause();
        let idle = tokio::time::Instant::now();
        connection.closed().await;
        assert!(idle.elapsed() > APISERVER_CLOSES_AFTER, "{protocol:?} closed after {:?}", idle.elapsed());
        assert!(idle.elapsed() < Duration::from_secs(600), "an idle connection is kept for ever");
        tokio::time::resume();
    }
}

/// limit: handshake-time breaks
#[tokio::test]
async fn a_handshake_that_stalls_is_cut_off() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for beginning in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        let took = began.elapsed();
        assert!(Duration::from_secs(5) < took && took < Duration::from_secs(30), "{took:?}");
        tokio::time::resume();
    }
}

/// limit: connections within
/// limit: connections breaks
#[tokio::test]
async fn connections_wait_for_room() {
    let installation = Installation::bare(json!({ "limits": { "connections": 2 } }));
    let server = installation.serve().await;
    let client = installation.client();
    let mut first = client.connect(server.address, Protocol::Http2).await.unwrap();
    let mut second = client.connect(server.address, Protocol::Http1).await.unwrap();
    let waiting = tokio::spawn({
        let (client, address) = (client.clone(), server.address);
        async move { client.connect(address, Protocol::Http1).await.unwrap().review("nginx").await.unwrap() }
    });
    for _ in 0..50 {
        assert_eq!(first.review("nginx").await.unwrap().status, 200);
        assert_eq!(second.review("nginx").await.unwrap().status, 200);
    }
    assert!(!waiting.is_finished(), "a third connection is served beside two");
    drop(first);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(second.review("nginx").await.unwrap().status, 200);
}

/// limit: entering breaks
#[tokio::test]
async fn connections_without_a_handshake_keep_nobody_out() {
    let installation = Installation::bare(json!({ "limits": { "connections": 2 } }));
    let server = installation.serve().await;
    // More than may be in a handshake at the same time, and than may be served.
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut connection = installation.client().connect(server.address, Protocol::Http1).await.unwrap();
    assert_eq!(connection.review("nginx").await.unwrap().status, 200);
    // The oldest were closed, long before their time for a handshake was over.
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_secs(5), idle[0].read(&mut byte)).await;
    assert_eq!(closed.unwrap().unwrap_or(0), 0);
}

/// limit: handshake-time within, entering within
#[tokio::test]
async fn who_is_slow_to_enter_is_waited_for() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..200 {
        others.push(TcpStream::connect(server.address).await.unwrap());
    }
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(7)).await;
    tokio::time::resume();
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_millis(300), slow.read(&mut byte)).await;
    assert!(closed.is_err(), "given up after 7 s, with 200 others: {closed:?}");
}
