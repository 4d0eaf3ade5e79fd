//! The client of the admin listener, for a host that has no control socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::status::Status;
use crate::limits;

/// Limit on the bytes of a response, so that another program at the address cannot fill the memory.
const MOST: u64 = 64 << 20;

/// Reads the status of the host whose admin listener is at `admin`.
///
/// # Errors
/// Returns an error if no host responds there.
pub(super) fn status(admin: SocketAddr) -> io::Result<Status> {
    let time = limits::CONTROL_TIME.time();
    let mut stream = TcpStream::connect_timeout(&admin, time)?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    // On HTTP/1.0 the server closes the connection after its response, which is not chunked.
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(MOST).read_to_end(&mut response)?;
    let body = response.windows(4).position(|window| window == b"\r\n\r\n");
    let body = body.and_then(|at| response.get(at + 4..)).unwrap_or_default();
    Ok(serde_json::from_slice(body)?)
}
