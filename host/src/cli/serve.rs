//! `host serve`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::log::{Log, LogFormat};
use super::{Exit, Failure, broken_config, exit, say};
use crate::install::demo;
use crate::limits;
use crate::reload::StartError;
use crate::serve::listeners::{ListenError, Sockets};
use crate::serve::run::{self, RunError, Stopped};
use crate::text;

/// Serve the kube-apiserver
///
/// Without --config this is a demo: a whole small installation, with certificates made on the spot, is
/// written into a folder and served from there.
///
/// SIGTERM and Ctrl-C stop it when the reviews under way are answered. SIGHUP makes it look at its files,
/// which it does by itself when they change. It takes sockets from a service manager (LISTEN_FDS) and tells
/// it how it is (NOTIFY_SOCKET).
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

fn serve(arguments: Arguments, given: Result<Sockets, ListenError>, log: &Log) -> Result<Exit, Failure> {
    let given = given.map_err(Failure::broken)?;
    let Some(config) = arguments.config else {
        return serve_demo(arguments.directory, arguments.listen, log);
    };
    serve_config(&config, given, log, |_| {})
}

fn serve_demo(directory: Option<PathBuf>, listen: SocketAddr, log: &Log) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "\nthe demo overwrites nothing: name another folder, or serve this one with --config"
            }
            _ => "",
        };
        Failure::broken(format!("the demo's files cannot be written: {error}{hint}"))
    };
    let temporary = match directory {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("image-policy-host-").tempdir().map_err(failed)?),
    };
    let folder = match (directory, &temporary) {
        (Some(directory), _) => std::path::absolute(directory).map_err(failed)?,
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err(Failure::broken("no folder for the demo's files")),
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

/// Serves an installation, and reports the way in which it stopped.
fn serve_config(
    config: &Path,
    given: Sockets,
    log: &Log,
    ready: impl FnOnce(SocketAddr),
) -> Result<Exit, Failure> {
    match run::run(config, given, log.lost(), ready) {
        Ok(Stopped::Drained) => {
            tracing::info!("stopped: every review under way was answered");
            Ok(Exit::Yes)
        }
        Ok(Stopped::CutOff) => {
            Err(Failure::new(Exit::No, limits::STOP_TIME.says("", limits::STOP_TIME.default)))
        }
        Err(RunError::Start(StartError::Config(error))) => Err(broken_config(error)),
        Err(error) => Err(Failure::broken(error)),
    }
}
