//! The control socket, for commands to a running host. The socket is a file in the state directory that only
//! the host's user can open, so nothing goes over the network. Request and response are one line of JSON
//! each.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::admin_client;
use crate::fs::frame::{self, FrameError};
use crate::fs::{FolderError, Privacy, PrivateFolder};
use crate::limits;
use crate::problem::{Problem, Subject};
use crate::reload::history::StateDirectory;
use crate::reload::{Command, Done, ReloadHandle};
use crate::serve::status::{Sources, Status};
use crate::text;

/// The name of the socket in the state directory.
const SOCKET: &str = "control.sock";
/// The temporary name of a new socket.
const BESIDE: &str = ".control.sock";
/// Timeout of a command, which waits until the current reload ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The status of the host.
    Status,
    /// [`Command::Rollback`].
    Rollback {
        /// A generation's number.
        to: Option<u64>,
    },
    /// [`Command::Release`].
    Release,
    /// [`Command::Approve`].
    Approve {
        /// A candidate's digest.
        digest: String,
    },
}

/// The response to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The status of the host.
    Status(Box<Status>),
    /// The command has been executed.
    Done(Done),
    /// The command was rejected, for this reason.
    Refused(String),
}

/// The reason why a host gave no response.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state directory cannot be opened.
    #[error("the state directory {0}: {1}; name the `stateDirectory` of host.yaml, or start the host")]
    Directory(String, io::Error),
    /// No host serves.
    #[error("no host serves with the state directory {0}: start it with `host serve --config FILE`")]
    NoHost(String),
    /// No host serves, and none could with this state directory.
    #[error("no host serves with the state directory {0}, and none can: {1}")]
    Unusable(String, FolderError),
    /// A host serves without its state directory.
    #[error(
        "the host that serves at {0} has no control socket, because it cannot use its state directory: {1}"
    )]
    WithoutDirectory(SocketAddr, String),
    /// The host serves, but its socket does not exist or does not accept connections.
    #[error(
        "the host of the state directory {0} ({1}) serves, but there is no control socket to ask it by: it \
         is starting, or someone removed the socket (wait a moment, or restart it)"
    )]
    NoSocket(String, String),
    /// The socket belongs to another user, or the connection failed.
    #[error("the host of the state directory {0}: {1}")]
    Failed(String, io::Error),
    /// The host closed the connection.
    #[error("the host of the state directory {0}: it closed the connection without an answer")]
    NoAnswer(String),
    /// The response has the format of another version.
    #[error("the host of the state directory {0} gave an answer of another version: {1}")]
    Answer(String, serde_json::Error),
}

/// The server of the control socket.
#[derive(Clone)]
pub struct Control {
    /// Sends commands to the reload.
    pub handle: ReloadHandle,
    /// The sources of the status.
    pub sources: Sources,
}

impl Control {
    /// Serves the socket in the state directory, on a thread, until the process ends. An existing socket is
    /// replaced: the directory belongs to one host.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be made or the thread cannot be started.
    pub fn serve(self, state_directory: &Path) -> io::Result<()> {
        let listener = listen(state_directory)?;
        let under_way = Arc::new(());
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else {
                    // For example, no file descriptor is free: others will be closed.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                };
                if Arc::strong_count(&under_way) > limits::CONTROL_CONNECTIONS.size() {
                    let bound = limits::CONTROL_CONNECTIONS;
                    // The send buffer of a new connection is empty, so the write does not block.
                    let _ = frame::write(&mut stream, &Answer::Refused(bound.says("", bound.default)));
                    continue;
                }
                let (control, held) = (self.clone(), Arc::clone(&under_way));
                let answering = move || {
                    // An error means that the client no longer waits for the response.
                    let _ = control.converse(stream, held);
                };
                // If no thread can be started, the connection is closed.
                let _ = std::thread::Builder::new().name("control".to_owned()).spawn(answering);
            }
        })?;
        Ok(())
    }

    /// Reads a request and writes its response. `_held` is dropped before `stream`, so a client that sees the
    /// end of the response finds the slot free.
    fn converse(&self, mut stream: UnixStream, _held: Arc<()>) -> io::Result<()> {
        let until = Instant::now() + limits::CONTROL_TIME.time();
        let bound = limits::CONTROL_REQUEST;
        let answer = match read(&stream, bound.default, until) {
            Ok(request) => self.answer(request),
            Err(FrameError::Document(error)) => {
                Answer::Refused(format!("the request is none that this version knows: {error}"))
            }
            Err(FrameError::TooLong(_)) => Answer::Refused(bound.says("", bound.default)),
            Err(error) => Answer::Refused(error.to_string()),
        };
        stream.set_write_timeout(Some(limits::CONTROL_TIME.time()))?;
        frame::write(&mut stream, &answer)
    }

    fn answer(&self, request: Request) -> Answer {
        let command = match request {
            Request::Status => return Answer::Status(Box::new(Status::at(SystemTime::now(), &self.sources))),
            Request::Rollback { to } => Command::Rollback { to },
            Request::Release => Command::Release,
            Request::Approve { digest } => Command::Approve { digest },
        };
        match self.handle.execute(command, PATIENCE) {
            Ok(done) => Answer::Done(done),
            Err(why) => Answer::Refused(why.to_string()),
        }
    }
}

/// Sends a request to the host that serves with a state directory, and returns the response.
///
/// # Errors
/// Returns an error if no host serves or the host gives no response.
pub fn ask(state_directory: &Path, request: &Request) -> Result<Answer, ControlError> {
    let stream = connect(state_directory, request)?;
    let until = Instant::now() + PATIENCE + limits::CONTROL_TIME.time();
    read(&stream, u64::MAX, until).map_err(|error| match error {
        FrameError::Document(error) => ControlError::Answer(text::path(state_directory), error),
        FrameError::Ended => ControlError::NoAnswer(text::path(state_directory)),
        error => failed(state_directory, error.into()),
    })
}

/// Sends a request to the host of a configuration that names `state_directory` and the admin listener at
/// `admin`. A host that cannot use its state directory has no control socket: its status is read from the
/// admin listener then.
///
/// # Errors
/// Returns an error if no host serves, if the host gives no response, or if it has no control socket to take
/// a command.
pub fn ask_host(
    state_directory: &Path,
    admin: SocketAddr,
    request: &Request,
) -> Result<Answer, ControlError> {
    match ask(state_directory, request) {
        Err(error @ (ControlError::NoHost(_) | ControlError::Unusable(..) | ControlError::Directory(..))) => {
            let Ok(status) = admin_client::status(admin) else { return Err(error) };
            let concerned = |problem: &&Problem| concerns(&problem.subject, state_directory);
            match status.problems.iter().find(concerned) {
                // Another host has this address.
                None => Err(error),
                Some(_) if *request == Request::Status => Ok(Answer::Status(Box::new(status))),
                Some(problem) => Err(ControlError::WithoutDirectory(admin, problem.to_string())),
            }
        }
        answer => answer,
    }
}

/// Returns whether the subject of a problem is this state directory. A host names the path as it was started
/// with it, so a relative path begins at another folder.
fn concerns(subject: &Subject, state_directory: &Path) -> bool {
    let Subject::StateDirectory(path) = subject else { return false };
    std::path::absolute(state_directory).is_ok_and(|absolute| absolute.ends_with(path))
}

/// Connects to the host, writes `request` and returns the connection.
fn connect(state_directory: &Path, request: &Request) -> Result<UnixStream, ControlError> {
    // A named pipe in this place must not block.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(state_directory, flags, Mode::empty())
        .map_err(|error| ControlError::Directory(text::path(state_directory), error.into()))?;
    let folder = File::from(folder);
    let exchange = || {
        let mut stream = UnixStream::connect(in_folder(&folder, state_directory))?;
        match frame::write(&mut stream, request) {
            // The host has already written a response without reading the request.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            written => written?,
        }
        Ok(stream)
    };
    exchange().map_err(|error| failed(state_directory, error))
}

fn failed(state_directory: &Path, error: io::Error) -> ControlError {
    let name = text::path(state_directory);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            match StateDirectory::served_by(state_directory) {
                Some(process) => ControlError::NoSocket(name, process),
                None => match unusable(state_directory) {
                    Some(error) => ControlError::Unusable(name, error),
                    None => ControlError::NoHost(name),
                },
            }
        }
        _ => ControlError::Failed(name, error),
    }
}

/// Returns why a host cannot use the state directory. Returns None if it can, or if only its user can tell.
fn unusable(state_directory: &Path) -> Option<FolderError> {
    match PrivateFolder::open(state_directory, Privacy::Readable) {
        // root asks about the hosts of other users too.
        Err(FolderError::Foreign { .. }) if rustix::process::geteuid().is_root() => None,
        opened => opened.err(),
    }
}

/// Creates the socket under a temporary name, restricts it to the host's user, and renames it.
fn listen(state_directory: &Path) -> io::Result<UnixListener> {
    let folder = PrivateFolder::open(state_directory, Privacy::Closed)?;
    // A host that was killed at this point left its socket.
    let _ = folder.remove(BESIDE);
    let listener = UnixListener::bind(folder.by_descriptor(BESIDE))?;
    fs::set_permissions(folder.by_descriptor(BESIDE), Permissions::from_mode(0o600))?;
    folder.rename(BESIDE, SOCKET)?;
    Ok(listener)
}

/// Returns the socket's path through the folder's descriptor. A socket's path is limited to 107 bytes
/// (unix(7)), and a folder's path may be longer. Only Linux has such paths.
fn in_folder(folder: &File, path: &Path) -> PathBuf {
    if !cfg!(target_os = "linux") {
        return path.join(SOCKET);
    }
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

/// A connection whose reads end at a time.
struct Until<'s> {
    stream: &'s UnixStream,
    until: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        self.stream.set_read_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
        self.stream.read(buffer).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
            // After a signal the caller reads again: the system does not restart a read with a timeout by
            // itself (signal(7)).
            _ => error,
        })
    }
}

/// Reads a document from a line of at most `most` bytes that arrives before `until`.
fn read<T: DeserializeOwned>(stream: &UnixStream, most: u64, until: Instant) -> Result<T, FrameError> {
    frame::read(&mut BufReader::new(Until { stream, until }), most)
}
