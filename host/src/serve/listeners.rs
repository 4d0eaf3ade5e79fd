//! The listening sockets: opened here, or passed by the service manager.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The reason why a socket is missing. Each message names the next step.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be used.
    #[error("cannot listen on {address} (`{key}`){hint}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key of host.yaml with the address.
        key: &'static str,
        /// The reason and the next step.
        hint: String,
    },
    /// A socket from the service manager cannot be used.
    #[error(
        "the service manager gave a socket that cannot be used: {0} (`ListenStream=` with ADDRESS:PORT is \
         wanted)"
    )]
    Given(String),
}

/// The sockets from the service manager, one for each listener.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For reviews.
    pub webhook: Option<TcpListener>,
    /// For health and status.
    pub admin: Option<TcpListener>,
}

impl Sockets {
    /// Takes the sockets that the service manager passes (sd_listen_fds(3)): those named `webhook` and
    /// `admin`, or the first and the second. Call before any thread starts.
    ///
    /// # Errors
    /// Returns an error if the service manager passes any other socket.
    pub fn given() -> Result<Sockets, ListenError> {
        // Read first: `ListenFd::from_env` removes the names from the environment, so that no child process
        // sees them.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut given = ListenFd::from_env();
        let named = names.iter().any(|name| ["webhook", "admin"].contains(name));
        let mut sockets = Sockets::default();
        for index in 0..given.len() {
            let socket =
                given.take_tcp_listener(index).map_err(|error| ListenError::Given(error.to_string()))?;
            let unnamed = ["webhook", "admin"];
            let name = if named { names.get(index) } else { unnamed.get(index) };
            let name = name.copied().unwrap_or_default();
            let place = match name {
                "webhook" => &mut sockets.webhook,
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

    /// Returns a socket for each listener: the given socket, or a new one.
    ///
    /// # Errors
    /// Returns an error if a new socket cannot be opened.
    pub fn or_bind(
        self,
        webhook: SocketAddr,
        admin: SocketAddr,
    ) -> Result<(TcpListener, TcpListener), ListenError> {
        Ok((one(self.webhook, webhook, "listen")?, one(self.admin, admin, "admin.listen")?))
    }
}

fn one(
    given: Option<TcpListener>,
    address: SocketAddr,
    key: &'static str,
) -> Result<TcpListener, ListenError> {
    let is_for = |local: SocketAddr| {
        local.ip() == address.ip() && (local.port() == address.port() || address.port() == 0)
    };
    if let Some(given) = given {
        let local = given.local_addr();
        if !local.as_ref().is_ok_and(|local| is_for(*local)) {
            let local = local.map_or_else(|error| error.to_string(), |local| local.to_string());
            tracing::warn!(
                "the service manager listens on {local}, which counts, and not on {address} (`{key}`)"
            );
        }
        return Ok(given);
    }
    bind(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                ": another program listens there; `ss -ltnp 'sport = :{}'` shows which. Stop it, or choose \
                 another address",
                address.port()
            ),
            io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need a privilege; choose a higher one".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => ": this machine does not have that address".to_owned(),
            _ => format!(": {error}"),
        };
        ListenError::Bind { address, key, hint }
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    // The default backlog is 128: fewer connections than the apiservers of a cluster open at once.
    rustix::net::listen(&socket, 1024)?;
    Ok(socket)
}
