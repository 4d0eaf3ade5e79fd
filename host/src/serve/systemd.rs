//! What the service manager is told, where there is one: that the host serves, reloads, stops, and lives (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::text;

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Ready,
    /// It looks whether files have changed, because it was asked to.
    Reloading,
    /// It finishes what is under way.
    Stopping,
    /// It lives.
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

/// Tells it, where someone listens. What cannot be told is logged, and changes nothing else.
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
    // Whoever does not read what it is told holds nobody up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// How often the service manager wants to be told that this process lives; none where it does not ask.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    let longest = number("WATCHDOG_USEC").filter(|&microseconds| ours && microseconds > 0)?;
    // Half of it is what sd_watchdog_enabled(3) asks for.
    Some(Duration::from_micros(longest) / 2)
}
