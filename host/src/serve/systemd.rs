//! Notifications to the service manager, if any: ready, reloading, stopping and alive (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::text;

/// A state of the host to notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The host serves.
    Ready,
    /// The host checks for changed files on request.
    Reloading,
    /// The host finishes the pending reviews.
    Stopping,
    /// The host is alive.
    Alive,
}

impl State {
    fn message(self) -> String {
        match self {
            State::Ready => "READY=1\nSTATUS=serving".to_owned(),
            State::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
                format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")
            }
            State::Stopping => "STOPPING=1\nSTATUS=finishing the reviews under way".to_owned(),
            State::Alive => "WATCHDOG=1".to_owned(),
        }
    }
}

/// Notifies the service manager, if `NOTIFY_SOCKET` is set. A failure is logged and has no other effect.
pub fn tell(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, &state.message()) {
        tracing::warn!(
            "{} (NOTIFY_SOCKET): the service manager cannot be told: {error}",
            text::path(socket.as_ref())
        );
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read its socket must not block the host.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Returns the interval of [`State::Alive`] notifications. Returns None if the service manager requests none.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    let longest = number("WATCHDOG_USEC").filter(|&microseconds| ours && microseconds > 0)?;
    // sd_watchdog_enabled(3) recommends half of the timeout.
    Some(Duration::from_micros(longest) / 2)
}
