//! The admin listener: health and status, and clients that overload it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::Installation;
use crate::support::client::{Protocol, get};

#[tokio::test]
async fn health_and_status() {
    let installation = Installation::new(json!({}));
    let server = installation.serve().await;
    assert_eq!(get(server.admin, "/livez").await.unwrap(), (200, "ok".to_owned()));
    assert_eq!(get(server.admin, "/readyz").await.unwrap(), (200, "ok".to_owned()));
    let (status, verbose) = get(server.admin, "/readyz?verbose").await.unwrap();
    assert_eq!(status, 200);
    assert!(verbose.contains("[+]policy/trusted-registries ok\n"), "{verbose}");
    assert!(verbose.ends_with("readyz check passed\n") && !verbose.contains("[-]"), "{verbose}");
    let (status, body) = get(server.admin, "/status").await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["degraded"], &body["mode"]), (200, &json!(false), &json!("enforce")));
    assert_eq!(body["generation"]["number"], 1);
    assert_eq!(body["policies"][0]["name"], "trusted-registries");
    assert_eq!(body["policies"][0]["error"], Value::Null);
    assert_eq!(get(server.admin, "/nothing").await.unwrap().0, 404);
}

/// Warnings about settings are shown, and fail nothing.
#[tokio::test]
async fn a_policy_that_warns_at_load_is_shown_and_not_degraded() {
    let policies = json!([{
        "name": "trusted-registries",
        "module": "policies/trusted-registries.wasm",
        "settings": { "allow": ["registry.k8s.io/**", "*.azurecr.io/**"] },
    }]);
    let installation = Installation::new(json!({ "policies": policies }));
    let mut process = installation.start();
    let line = process.wait_for("trusts registries of strangers");
    assert!(line.contains("WARN"), "{line}");
    let (_, admin) = process.addresses();
    let (status, body) = get(admin, "/status").await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["degraded"], &body["problems"]), (200, &json!(false), &json!([])));
    let warnings = body["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].as_str().unwrap().starts_with("policy trusted-registries: allow: *.azurecr.io/** trusts"),
        "{warnings:?}"
    );
}

/// The kubelet probes the admin listener for liveness. A client that leaves connections open there, with half
/// a request or none, loses the oldest of them.
///
/// limit: admin-connections within
/// limit: admin-connections breaks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_the_admin_listener_keeps_nobody_out() {
    let installation = Installation::bare(json!({}));
    let mut process = installation.start();
    let (webhook, admin) = process.addresses();
    let mut open = Vec::new();
    for number in 0..64 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        }
        open.push(stream);
    }
    let closed = async |stream: &mut TcpStream| {
        // The socket is reset if it had unread data.
        let read = tokio::time::timeout(Duration::from_millis(1), stream.read_u8()).await;
        read.is_ok_and(|read| read.is_err())
    };
    for stream in &mut open {
        assert!(!closed(stream).await, "they are not too many yet");
    }
    for _ in 0..70 {
        let livez = tokio::time::timeout(Duration::from_secs(5), get(admin, "/livez"));
        assert_eq!(livez.await.expect("kept out").unwrap(), (200, "ok".to_owned()));
        open.push(TcpStream::connect(admin).await.unwrap());
    }
    let began = Instant::now();
    while !closed(&mut open[69]).await {
        assert!(began.elapsed() < Duration::from_secs(60), "a connection over the limit is kept");
    }
    process.wait_for("admin listener: all 64 connections are taken");
    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    assert_eq!(connection.review("nginx").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_policy_that_is_broken_shows_and_denies() {
    let installation = Installation::new(json!({}));
    installation.write("policies/trusted-registries.wasm", b"no component");
    let server = installation.serve().await;
    let (status, verbose) = get(server.admin, "/readyz?verbose").await.unwrap();
    assert_eq!(status, 200, "it denies, which is better than not being asked");
    assert!(verbose.contains("[-]policy/trusted-registries failed: "), "{verbose}");
    let body: Value = serde_json::from_str(&get(server.admin, "/status").await.unwrap().1).unwrap();
    assert_eq!(body["degraded"], true);
    assert!(body["policies"][0]["error"].as_str().unwrap().contains("no WebAssembly"), "{body}");
    assert!(body["problems"][0]["message"].as_str().unwrap().contains("no WebAssembly"), "{body}");
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let answer = connection.review("registry.k8s.io/pause").await.unwrap().json();
    assert_eq!(answer["status"]["allowed"], false);
    assert!(answer["status"]["reason"].as_str().unwrap().contains("no WebAssembly"), "{answer}");
}
