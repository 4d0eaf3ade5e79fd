//! `host serve`

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::log::{Log, LogFormat};
use super::{Failure, exit, say};
use crate::config::Config;
use crate::control::{self, Control};
use crate::listen::{ListenError, Sockets};
use crate::policy::Preparer;
use crate::reload::{self, Asker, Command, Problem, Reloader, Started};
use crate::server::{self, Host, Stop};
use crate::status::Drain;
use crate::supervisor::{self, State};
use crate::takeover::{Estate, Taken};
use crate::text;
use crate::watch::Watcher;
use crate::{bounds, demo, turns};

const CANNOT_START: u8 = 2;
const NOT_DRAINED: u8 = 1;
/// How long whoever sends SIGHUP waits for what is being loaded.
const LOOK_TIME: Duration = Duration::from_secs(60);

/// Serve the kube-apiserver
///
/// Without --config this is a demo: a whole small installation, with certificates made on the spot, is written into a
/// folder and served from there.
///
/// SIGTERM and Ctrl-C stop it when the reviews under way are answered. SIGHUP makes it look at its files, which it does by
/// itself when they change. It takes sockets from a service manager (LISTEN_FDS) and tells it how it is (NOTIFY_SOCKET).
///
/// Exit status: 0 after a clean drain, or when another host has taken over, 1 when reviews under way were cut off, 2 when the host cannot
/// start.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The host.yaml of an installation
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["directory", "listen"])]
    config: Option<PathBuf>,
    /// Take the place of the host that serves from the same state directory, if there is one: no request is lost
    #[arg(long, requires = "config")]
    take_over: bool,
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
    // Before there is any other thread.
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
    serve_config(Place { config: &config, given, take_over: arguments.take_over }, log, |_| {})
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
    let place = Place { config: &config, given: Sockets::default(), take_over: false };
    serve_config(place, log, |listening| introduce(&folder, listening, stays))
}

/// What someone who sees the host for the first time needs to know.
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
    // The demo serves, whether anyone reads this or not.
    let _ = say(text);
}

/// Where a host serves from, and whose place it takes.
struct Place<'a> {
    config: &'a Path,
    given: Sockets,
    take_over: bool,
}

fn serve_config(place: Place<'_>, log: &Log, ready: impl FnOnce(SocketAddr)) -> Result<ExitCode, Failure> {
    let cannot_start = |error: &dyn std::fmt::Display| Failure::new(CANNOT_START, error);
    let mut taken = if place.take_over { take_over(place.config)? } else { None };
    let lock = taken.as_mut().and_then(|taken| taken.lock.take());
    let started = reload::start_with(place.config, Preparer::this_program(), lock)
        .map_err(|error| cannot_start(&error))?;
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
        let from_another = taken.as_mut().map(|taken| std::mem::take(&mut taken.sockets)).unwrap_or_default();
        let (door, admin) = place
            .given
            .or_bind(from_another, serving.listen, config.admin_listen)
            .map_err(|error| cannot_start(&error))?;
        let (stop, stopping) = watch::channel(Stop::NotYet);
        // Who looks at a host that drains sees that, unless another one is there to be looked at.
        let (stop_admin, admin_stopping) = watch::channel(Stop::NotYet);
        let (leave, leave_admin, drain) = (stop.clone(), stop_admin.clone(), sources.drain.clone());
        let copies = Sockets { door: door.try_clone().ok(), admin: admin.try_clone().ok() };
        let estate = Estate::new(copies, asker.clone(), move || {
            drain.begin();
            leave_admin.send_replace(Stop::TakenOver);
            // A stop that was asked for before stays one.
            leave.send_if_modified(|stop| {
                let goes_on = *stop == Stop::NotYet;
                if goes_on {
                    *stop = Stop::TakenOver;
                }
                goes_on
            });
        });
        let listener = asynchronous(door).map_err(|error| cannot_start(&error))?;
        let admin = asynchronous(admin).map_err(|error| cannot_start(&error))?;
        let signalled = Signalled { stop, drain: sources.drain.clone(), estate: estate.clone(), asker: asker.clone() };
        signalled.follow().map_err(|error| cannot_start(&error))?;
        let listening = listener.local_addr().map_err(|error| cannot_start(&error))?;
        let admin_listening = admin.local_addr().map_err(|error| cannot_start(&error))?;

        // All that may fail comes before the other host is let go.
        let (watcher, stop_watching) = Watcher::new().map_err(|error| cannot_start(&error))?;
        let (go, wait) = std::sync::mpsc::channel::<Reloader>();
        let reloading = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || wait.recv().map_or((), |reloader| reloader.run(watcher)))
            .map_err(|error| cannot_start(&error))?;

        let instead = taken.is_some();
        if let Some(taken) = taken {
            let asked_to_stop = *stopping.borrow() != Stop::NotYet;
            taken.serving(asked_to_stop).map_err(|error| {
                cannot_start(&format!("this one does not serve, and the one before goes on: {error}"))
            })?;
        }
        reloader.serves();
        if let Some(state_directory) = reloader.state_directory().map(Path::to_owned) {
            let control = Control { asker, sources, estate };
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
        // It waits.
        let _ = go.send(reloader);
        tracing::info!(
            "serving ImageReview at https://{listening}, health and status at http://{admin_listening}"
        );
        ready(listening);
        supervisor::tell(if instead { State::ReadyInstead } else { State::Ready });

        let admin = tokio::spawn(server::serve_admin(admin, Arc::clone(&host), admin_stopping));
        let drained = tokio::select! {
            drained = server::serve(listener, Arc::clone(&host), stopping) => drained,
            never = live(|| standing.reload_lives()) => match never {},
        };
        host.close().await;
        admin.abort();
        drop(stop_admin);
        drop(stop_watching);
        // It takes what is temporary with it. A component that is being compiled holds it up; then that stays.
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
        Err(Failure::new(NOT_DRAINED, bounds::STOP_TIME.says("", bounds::STOP_TIME.default)))
    }
}

/// What the host has to give whose place this one takes; none where there is no such host.
fn take_over(config: &Path) -> Result<Option<Taken>, Failure> {
    let cannot_start = |error: &dyn std::fmt::Display| Failure::new(CANNOT_START, error);
    let config = Config::read(config).map_err(|error| cannot_start(&error))?;
    let Some(state_directory) = &config.state_directory else {
        let message = "--take-over needs a `stateDirectory` in host.yaml, where one host finds the other";
        return Err(Failure::new(CANNOT_START, message));
    };
    control::take_over(state_directory).map_err(|error| cannot_start(&format!("cannot take over: {error}")))
}

fn asynchronous(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Tells the service manager that the host lives, as often as it wants that, and as long as it is so: what accepts
/// connections runs this, what serves them answers, and the reload is there.
async fn live(reload_lives: impl Fn() -> bool) -> Infallible {
    let Some(time) = supervisor::watchdog() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(time).await;
        if tokio::spawn(async {}).await.is_ok() && reload_lives() {
            supervisor::tell(State::Alive);
        }
    }
}

/// What signals are for.
struct Signalled {
    stop: watch::Sender<Stop>,
    drain: Drain,
    estate: Estate,
    asker: Asker,
}

impl Signalled {
    /// Stops at SIGTERM or Ctrl-C, and looks at the files at SIGHUP.
    fn follow(self) -> std::io::Result<()> {
        let Signalled { stop, drain, estate, asker } = self;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                supervisor::tell(State::Reloading);
                let asker = asker.clone();
                let looked = tokio::task::spawn_blocking(move || asker.ask(Command::Look, LOOK_TIME)).await;
                match looked {
                    Ok(Ok(_)) => tracing::info!("SIGHUP: looked at the files"),
                    Ok(Err(why)) => tracing::warn!("SIGHUP: {why}"),
                    Err(error) => tracing::error!("SIGHUP: {error}"),
                }
                supervisor::tell(State::Ready);
            }
        });
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "Ctrl-C",
            };
            // It only fails where the process ends anyway.
            let _ = tokio::task::spawn_blocking(move || estate.close()).await;
            tracing::info!("{name}: finishing the reviews under way");
            supervisor::tell(State::Stopping);
            drain.begin();
            // An error means that the server is gone already.
            let _ = stop.send(Stop::Now);
        });
        Ok(())
    }
}
