//! Notifications to the service manager, if any: ready, reloading, stopping and alive (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

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
    fn message(self) -> io::Result<String> {
        let states = match self {
            State::Ready => vec![NotifyState::Ready, NotifyState::Status("serving")],
            State::Reloading => vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?],
            State::Stopping => {
                vec![NotifyState::Stopping, NotifyState::Status("finishing the reviews under way")]
            }
            State::Alive => vec![NotifyState::Watchdog],
        };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        Ok(lines.join("\n"))
    }
}

/// Notifies the service manager, if `NOTIFY_SOCKET` is set. A failure is logged and has no other effect.
pub fn notify(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(
            "{} (NOTIFY_SOCKET): the service manager cannot be told: {error}",
            text::path(socket.as_ref())
        );
    }
}

/// Sends without waiting, unlike `sd_notify::notify`: a service manager that does not read its socket must
/// not block the host.
fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.message()?.as_bytes(), &address(socket)?)?;
    Ok(())
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        if let [b'@', name @ ..] = socket.as_bytes() {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(socket)
}

/// Returns the interval of [`State::Alive`] notifications. Returns None if the service manager requests none.
pub fn watchdog() -> Option<Duration> {
    let longest = sd_notify::watchdog_enabled().filter(|longest| !longest.is_zero())?;
    // sd_watchdog_enabled(3) recommends half of the timeout.
    Some(longest / 2)
}
