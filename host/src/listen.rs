//! The sockets that connections come in by: bound here, given by the service manager, or taken over from another host.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// Why there is nothing to listen on. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} (`{key}`){hint}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key of host.yaml that names it.
        key: &'static str,
        /// Why not, and what to do.
        hint: String,
    },
    /// What the service manager gave cannot be used.
    #[error("the service manager gave a socket that cannot be used: {0} (`ListenStream=` with ADDRESS:PORT is wanted)")]
    Given(String),
}

/// One for each listener.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For reviews.
    pub door: Option<TcpListener>,
    /// For health and status.
    pub admin: Option<TcpListener>,
}

impl Sockets {
    /// What the service manager gives (sd_listen_fds(3)): the sockets with the names `door` and `admin`, or the first and
    /// the second. To be called before there are threads.
    ///
    /// # Errors
    /// It is something else than these.
    pub fn given() -> Result<Sockets, ListenError> {
        // Before what reads them takes them out of the environment, so that no child process sees them.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut given = ListenFd::from_env();
        let named = names.iter().any(|name| ["door", "admin"].contains(name));
        let mut sockets = Sockets::default();
        for index in 0..given.len() {
            let socket = given.take_tcp_listener(index).map_err(|error| ListenError::Given(error.to_string()))?;
            let name = if named { names.get(index).copied().unwrap_or_default() } else { ["door", "admin"].get(index).copied().unwrap_or_default() };
            let place = match name {
                "door" => &mut sockets.door,
                "admin" => &mut sockets.admin,
                other => return Err(ListenError::Given(format!("socket {} is named `{other}`", index + 1))),
            };
            if place.is_some() {
                return Err(ListenError::Given(format!("two are for `{name}`")));
            }
            *place = socket;
        }
        Ok(sockets)
    }
}
