//! The life of a serving host: it starts its parts, serves until a signal stops it, and ends its parts.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::control::Control;
use super::listeners::{ListenError, Sockets};
use super::systemd::{self, State};
use super::{Host, serve, serve_admin};
use crate::config::Config;
use crate::evaluate::turns;
use crate::policy::Compiler;
use crate::problem::{Problem, Subject};
use crate::reload::watch::{StopWatching, Watcher};
use crate::reload::{self, Command, ReloadHandle, Reloader, StartError, Started, StatusReader};

/// Time limit of the load that SIGHUP requests.
const LOOK_TIME: Duration = Duration::from_secs(60);
/// Time for the reload thread to end, and the interval at which its end is checked.
const RELOAD_ENDS: Duration = Duration::from_secs(1);
const BETWEEN_CHECKS: Duration = Duration::from_millis(20);

/// The end of a host's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every pending review got its response.
    Drained,
    /// Reviews were still pending at the end of the time for them.
    CutOff,
}

/// The reason why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The first generation.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A listening socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The threads.
    #[error("no threads to run on: {0}")]
    Threads(#[source] io::Error),
    /// Another failure of the system.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Serves the installation of host.yaml at `config` until SIGTERM or Ctrl-C. Calls `ready` with the address
/// of the webhook when the host serves. `lines_lost` returns the number of lost log lines.
///
/// # Errors
/// Returns an error if the host cannot start.
pub fn run(
    config: &Path,
    given: Sockets,
    lines_lost: impl Fn() -> u64 + Send + Sync + 'static,
    ready: impl FnOnce(SocketAddr),
) -> Result<Stopped, RunError> {
    let started = reload::start(config, Compiler::this_program())?;
    let host = Host::new(&started, lines_lost);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(turns::threads())
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let stopped = runtime.block_on(async {
        let Started { reloader, config, handle, status, .. } = started;
        let listeners = Listeners::open(given, &config)?;
        look_at_sighup(signal(SignalKind::hangup())?, handle.clone());
        let stop = StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let (webhook, admin) = (listeners.webhook.local_addr()?, listeners.admin.local_addr()?);
        let reload = ReloadThread::start(reloader, handle, &host)?;
        tracing::info!("serving ImageReview at https://{webhook}, health and status at http://{admin}");
        ready(webhook);
        systemd::notify(State::Ready);
        Ok(listeners.serve(host, status, stop, reload).await)
    });
    // A task that blocks must not delay the exit.
    runtime.shutdown_background();
    stopped
}

/// The listeners of a host.
struct Listeners {
    webhook: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Takes the given sockets, and binds the others.
    fn open(given: Sockets, config: &Config) -> Result<Listeners, RunError> {
        let serving = config.require_serving().map_err(StartError::from)?;
        let (webhook, admin) = given.or_bind(serving.listen, config.admin_listen)?;
        Ok(Listeners { webhook: asynchronous(webhook)?, admin: asynchronous(admin)? })
    }

    /// Serves until a stop signal, then drains, and ends the other parts of the host.
    async fn serve(
        self,
        host: Arc<Host>,
        status: StatusReader,
        stop: StopSignals,
        reload: ReloadThread,
    ) -> Stopped {
        let admin = tokio::spawn(serve_admin(self.admin, Arc::clone(&host)));
        let drained = tokio::select! {
            drained = serve(self.webhook, Arc::clone(&host), stop.begin_drain(&host)) => drained,
            never = notify_watchdog(status) => match never {},
        };
        host.close().await;
        admin.abort();
        reload.stop().await;
        if drained { Stopped::Drained } else { Stopped::CutOff }
    }
}

fn asynchronous(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// The thread of the reload.
struct ReloadThread {
    thread: JoinHandle<()>,
    stop: StopWatching,
}

impl ReloadThread {
    /// Starts the thread, and the control socket by which commands reach it.
    fn start(mut reloader: Reloader, handle: ReloadHandle, host: &Host) -> io::Result<ReloadThread> {
        let (watcher, stop) = Watcher::new();
        if let Some(state_directory) = reloader.state_directory().map(Path::to_owned) {
            let control = Control { handle, sources: host.sources().clone() };
            if let Err(error) = control.serve(&state_directory) {
                let what = format!(
                    "there is no control socket, so `host status`, `host rollback` and `host approve` cannot \
                     ask this host: {error}"
                );
                let problem = Problem::new(Subject::state_directory(&state_directory), what);
                reloader.add_problem(problem.with_remedy("mend it, and restart"));
            }
        }
        let thread =
            std::thread::Builder::new().name("reload".to_owned()).spawn(move || reloader.run(watcher))?;
        Ok(ReloadThread { thread, stop })
    }

    /// Ends the thread, so that it removes its temporary files. A running compilation delays the end; then
    /// the files stay.
    async fn stop(self) {
        drop(self.stop);
        let ended = async {
            while !self.thread.is_finished() {
                tokio::time::sleep(BETWEEN_CHECKS).await;
            }
        };
        let _ = tokio::time::timeout(RELOAD_ENDS, ended).await;
    }
}

/// Reloads the files at SIGHUP.
fn look_at_sighup(mut hang_up: Signal, handle: ReloadHandle) {
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            systemd::notify(State::Reloading);
            let handle = handle.clone();
            let looked = tokio::task::spawn_blocking(move || handle.execute(Command::Look, LOOK_TIME)).await;
            match looked {
                Ok(Ok(_)) => tracing::info!("SIGHUP: looked at the files"),
                Ok(Err(why)) => tracing::warn!("SIGHUP: {why}"),
                Err(error) => tracing::error!("SIGHUP: {error}"),
            }
            systemd::notify(State::Ready);
        }
    });
}

/// The signals that stop the host. They are caught from the creation of this value on.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Waits for a signal, and records that the host drains.
    async fn begin_drain(mut self, host: &Host) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        };
        tracing::info!("{name}: finishing the reviews under way");
        systemd::notify(State::Stopping);
        host.sources().drain.begin();
    }
}

/// Notifies the service manager's watchdog at its interval, while the host is alive: the task that accepts
/// connections runs this, a worker of the runtime runs a task, and the reload thread exists.
async fn notify_watchdog(status: StatusReader) -> Infallible {
    let Some(time) = systemd::watchdog() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(time).await;
        if tokio::spawn(async {}).await.is_ok() && status.reload_lives() {
            systemd::notify(State::Alive);
        }
    }
}
