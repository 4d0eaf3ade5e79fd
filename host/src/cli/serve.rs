//! `host serve`

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::log::{Log, LogFormat};
use super::{Exit, Failure, exit, say};
use crate::evaluate::turns;
use crate::install::demo;
use crate::limits;
use crate::policy::Preparer;
use crate::reload::watch::Watcher;
use crate::reload::{self, Asker, Command, Problem, Started};
use crate::serve::control::Control;
use crate::serve::listeners::{ListenError, Sockets};
use crate::serve::status::Drain;
use crate::serve::systemd::{self, State};
use crate::serve::{self, Host};
use crate::text;

const CANNOT_START: Exit = Exit::Broken;
const NOT_DRAINED: Exit = Exit::No;
/// Time limit of the load that SIGHUP requests.
const LOOK_TIME: Duration = Duration::from_secs(60);

/// Serve the kube-apiserver
///
/// Without --config this is a demo: a whole small installation, with certificates made on the spot, is written into a
/// folder and served from there.
///
/// SIGTERM and Ctrl-C stop it when the reviews under way are answered. SIGHUP makes it look at its files, which it does by
/// itself when they change. It takes sockets from a service manager (LISTEN_FDS) and tells it how it is (NOTIFY_SOCKET).
///
/// Exit status: 0 after a clean drain, 1 when reviews under way were cut off, 2 when the host cannot start.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The host.yaml of an installation
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["directory", "listen"])]
    config: Option<PathBuf>,
    /// Where to write the demo's files; they stay there [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Where the demo listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1234", value_parser = address)]
    listen: SocketAddr,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: LogFormat,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:1234")
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    // Taken before any other thread exists.
    let given = Sockets::given();
    let log = Log::begin(arguments.log_format);
    let result = serve(arguments, given, &log);
    drop(log);
    exit(result)
}

fn serve(arguments: Arguments, given: Result<Sockets, ListenError>, log: &Log) -> Result<ExitCode, Failure> {
    let given = given.map_err(|error| Failure::new(CANNOT_START, error))?;
    let Some(config) = arguments.config else {
        return serve_demo(arguments.directory, arguments.listen, log);
    };
    serve_config(&config, given, log, |_| {})
}

fn serve_demo(directory: Option<PathBuf>, listen: SocketAddr, log: &Log) -> Result<ExitCode, Failure> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "\nthe demo overwrites nothing: name another folder, or serve this one with --config"
            }
            _ => "",
        };
        Failure::new(CANNOT_START, format!("the demo's files cannot be written: {error}{hint}"))
    };
    let temporary = match directory {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("image-policy-host-").tempdir().map_err(failed)?),
    };
    let folder = match (directory, &temporary) {
        (Some(directory), _) => std::path::absolute(directory).map_err(failed)?,
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err(Failure::new(CANNOT_START, "no folder for the demo's files")),
    };
    demo::write_installation(&folder, listen).map_err(failed)?;
    let stays = temporary.is_none();
    let config = folder.join("host.yaml");
    serve_config(&config, Sockets::default(), log, |listening| introduce(&folder, listening, stays))
}

/// Prints the first steps for a new user.
fn introduce(folder: &Path, listening: SocketAddr, stays: bool) {
    let file = |name: &str| text::path(&folder.join(name));
    let fate = if stays { "They stay there." } else { "They go when it stops; --directory DIR keeps them." };
    let text = format!(
        "The demo is at https://localhost:{port}, with everything it needs in {folder}.\n{fate}\n\n\
         Ask it about nginx, as a kube-apiserver would:\n\n  \
         curl --cacert {ca} --cert {certificate} --key {key} --data @{review} https://localhost:{port}\n\n\
         Then edit {config} (add docker.io/library/* to `allow`, say) and ask again.",
        port = listening.port(),
        folder = text::path(folder),
        ca = file("external-ca.pem"),
        certificate = file("apiserver-client-cert.pem"),
        key = file("apiserver-client-key.pem"),
        review = file(demo::REVIEW),
        config = file("host.yaml"),
    );
    // The demo serves whether or not this can be printed.
    let _ = say(text);
}

fn serve_config(
    path: &Path,
    given: Sockets,
    log: &Log,
    ready: impl FnOnce(SocketAddr),
) -> Result<ExitCode, Failure> {
    let cannot_start = |error: &dyn std::fmt::Display| Failure::new(CANNOT_START, error);
    let started = reload::start(path, Preparer::this_program()).map_err(|error| cannot_start(&error))?;
    let host = Host::new(&started, log.lost());
    let sources = host.sources().clone();
    let standing = sources.standing.clone();
    let Started { mut reloader, config, asker, .. } = started;
    let serving = config.require_serving().map_err(|error| cannot_start(&error))?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(turns::threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::new(CANNOT_START, format!("no threads to run on: {error}")))?;
    let drained = runtime.block_on(async {
        let (door, admin) =
            given.or_bind(serving.listen, config.admin_listen).map_err(|error| cannot_start(&error))?;
        let listener = asynchronous(door).map_err(|error| cannot_start(&error))?;
        let admin = asynchronous(admin).map_err(|error| cannot_start(&error))?;
        look_at_sighup(asker.clone()).map_err(|error| cannot_start(&error))?;
        let stop = stop_signal(sources.drain.clone()).map_err(|error| cannot_start(&error))?;
        let listening = listener.local_addr().map_err(|error| cannot_start(&error))?;
        let admin_listening = admin.local_addr().map_err(|error| cannot_start(&error))?;

        let (watcher, stop_watching) = Watcher::new().map_err(|error| cannot_start(&error))?;
        if let Some(state_directory) = reloader.state_directory().map(Path::to_owned) {
            let control = Control { asker, sources };
            if let Err(error) = control.serve(&state_directory) {
                reloader.lacks(Problem {
                    subject: text::path(&state_directory),
                    message: format!(
                        "there is no control socket, so `host status`, `host rollback` and `host approve` cannot ask \
                         this host: {error} (mend it, and restart)"
                    ),
                });
            }
        }
        let reloading = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || reloader.run(watcher))
            .map_err(|error| cannot_start(&error))?;
        tracing::info!(
            "serving ImageReview at https://{listening}, health and status at http://{admin_listening}"
        );
        ready(listening);
        systemd::tell(State::Ready);

        let admin = tokio::spawn(serve::serve_admin(admin, Arc::clone(&host)));
        let drained = tokio::select! {
            drained = serve::serve(listener, Arc::clone(&host), stop) => drained,
            never = live(|| standing.reload_lives()) => match never {},
        };
        host.close().await;
        admin.abort();
        drop(stop_watching);
        // The reload thread removes its temporary files when it ends. A running compilation delays it; then
        // they stay.
        for _ in 0..50 {
            if reloading.is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(drained)
    })?;
    runtime.shutdown_background();
    if drained {
        tracing::info!("stopped: every review under way was answered");
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::new(NOT_DRAINED, limits::STOP_TIME.says("", limits::STOP_TIME.default)))
    }
}

fn asynchronous(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Notifies the service manager's watchdog at its interval, while the host is alive: the task that accepts
/// connections runs this, a worker of the runtime runs a task, and the reload thread exists.
async fn live(reload_lives: impl Fn() -> bool) -> Infallible {
    let Some(time) = systemd::watchdog() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(time).await;
        if tokio::spawn(async {}).await.is_ok() && reload_lives() {
            systemd::tell(State::Alive);
        }
    }
}

/// Reloads the files at SIGHUP.
fn look_at_sighup(asker: Asker) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            systemd::tell(State::Reloading);
            let asker = asker.clone();
            let looked = tokio::task::spawn_blocking(move || asker.ask(Command::Look, LOOK_TIME)).await;
            match looked {
                Ok(Ok(_)) => tracing::info!("SIGHUP: looked at the files"),
                Ok(Err(why)) => tracing::warn!("SIGHUP: {why}"),
                Err(error) => tracing::error!("SIGHUP: {error}"),
            }
            systemd::tell(State::Ready);
        }
    });
    Ok(())
}

/// Returns a future that waits for SIGTERM or Ctrl-C.
fn stop_signal(drain: Drain) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        };
        tracing::info!("{name}: finishing the reviews under way");
        systemd::tell(State::Stopping);
        drain.begin();
    })
}
