//! HTTP/2 frame by frame (RFC 9113), for sequences that no well-behaved client sends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::client::Client;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// A flag of PING and SETTINGS.
pub(crate) const ACK: u8 = 1;
/// A flag of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// A flag of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

/// `POST https://localhost/`, as HPACK's static table has it (RFC 7541).
pub(crate) const POST: &[u8] = b"\x83\x87\x84\x01\x09localhost";
/// `GET https://localhost/`.
pub(crate) const GET: &[u8] = b"\x82\x87\x84\x01\x09localhost";

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A received frame.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Returns whether a DATA or HEADERS frame is the last of its stream.
    pub(crate) fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Returns the error code of a GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().unwrap())
    }
}

/// Opens a connection and exchanges the preface and settings.
pub(crate) async fn open(client: &Client, address: SocketAddr) -> TlsStream<TcpStream> {
    open_with(client, address, &[]).await
}

/// Opens a connection like `open`, with these settings.
pub(crate) async fn open_with(client: &Client, address: SocketAddr, settings: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = client.handshake(address, &["h2"]).await.unwrap();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, settings)].concat();
    stream.write_all(&preface).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap().kind, SETTINGS);
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    stream
}

/// Encodes the setting that gives each stream a window of `bytes` bytes.
pub(crate) fn window(bytes: u32) -> Vec<u8> {
    [&[0, 4], &bytes.to_be_bytes()[..]].concat()
}

/// Encodes the request of a review, on a stream of its own.
pub(crate) fn review(stream: u32, body: &str) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, POST), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

/// Reads the next frame. Returns None at the end of the connection.
pub(crate) async fn read(stream: &mut TlsStream<TcpStream>) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
        payload,
    })
}

/// Reads up to the next frame of a kind. Returns None if the connection ends before.
pub(crate) async fn next(stream: &mut TlsStream<TcpStream>, kind: u8) -> Option<Frame> {
    loop {
        let frame = read(stream).await?;
        if frame.kind == kind {
            return Some(frame);
        }
    }
}
