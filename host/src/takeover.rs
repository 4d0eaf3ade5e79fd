//! One host takes the place of another: over the control socket it gets the sockets that connections come in by, and the
//! lock of the state directory. Until it says that it serves, the other one goes on as if nobody had asked.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::{self, MaybeUninit};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::listen::Sockets;
use crate::reload::{Asker, Paused};

/// What the one says to the other, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    /// What the file descriptors are that come with this line, in order.
    Given(Vec<String>),
    /// It serves, and the other may end.
    Serving,
    /// It ends.
    Ending,
    /// It cannot be taken over, for this reason.
    Refused(String),
}

const DOOR: &str = "door";
const ADMIN: &str = "admin";
const LOCK: &str = "lock";
/// A door, an admin listener and a lock.
const DESCRIPTORS: usize = 3;

/// What this host can give to another.
#[derive(Clone)]
pub struct Estate {
    shared: Arc<Shared>,
    asker: Asker,
    leave: Arc<dyn Fn() + Send + Sync>,
}

struct Shared {
    sockets: Mutex<Held>,
    /// Nobody is given anything any more.
    over: Condvar,
}

/// What has become of the sockets.
enum Held {
    Have(Sockets),
    /// Another process has them too, and does not serve yet.
    Giving {
        /// This one ends all the same.
        stops: bool,
    },
    Closed,
}

impl Estate {
    /// `leave` is what there is to do once another host serves.
    pub fn new(sockets: Sockets, asker: Asker, leave: impl Fn() + Send + Sync + 'static) -> Estate {
        let shared = Shared { sockets: Mutex::new(Held::Have(sockets)), over: Condvar::new() };
        Estate { shared: Arc::new(shared), asker, leave: Arc::new(leave) }
    }

    fn sockets(&self) -> MutexGuard<'_, Held> {
        self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the sockets: there is nothing to give any more. Whoever is being given them gets them: it waits for a moment
    /// until that one serves, or does not come to it. Connections wait in the sockets as long.
    pub fn close(&self) {
        let mut sockets = self.sockets();
        match &mut *sockets {
            Held::Giving { stops } => {
                tracing::info!("another process is just taking over: this one goes on until that serves");
                *stops = true;
            }
            held => *held = Held::Closed,
        }
        let giving = |held: &mut Held| matches!(held, Held::Giving { .. });
        let moment = bounds::CONTROL_TIME.time();
        let waited = self.shared.over.wait_timeout_while(sockets, moment, giving);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            // Whoever asked this one to stop does not wait for ever (TimeoutStopSec=, terminationGracePeriodSeconds).
            tracing::error!(
                "the process that is taking over does not serve after {moment:?}: this one ends all the same, and unless \
                 that one serves before, nobody does"
            );
        }
    }

    /// Gives all to whoever asked over `stream`, and goes on as before unless that one serves in the end.
    ///
    /// # Errors
    /// The other one is gone, or takes too long; this host goes on.
    pub fn give(&self, stream: &mut UnixStream) -> io::Result<()> {
        // One at a time: another one is told that there is nothing to be had.
        let mut held = self.sockets();
        let sockets = match mem::replace(&mut *held, Held::Giving { stops: false }) {
            Held::Have(sockets) => sockets,
            other => {
                let why = match &other {
                    Held::Closed => "it is stopping: start this one when it has ended",
                    _ => "another process is just taking over: see which one serves then",
                };
                *held = other;
                drop(held);
                return write(stream, &Line::Refused(why.to_owned()));
            }
        };
        drop(held);
        let given = self.give_sockets(&sockets, stream);
        let mut held = self.sockets();
        let stops = matches!(*held, Held::Giving { stops: true });
        match &given {
            Ok(true) => {
                tracing::info!(
                    "another process has taken over: ending when the connections that are left here are closed"
                );
                (self.leave)();
            }
            Ok(false) => {}
            Err(error) if stops => tracing::error!(
                "a process that was to take over did not come to serve: {error}; this one ends all the same, as it was \
                 asked to: nobody serves any more"
            ),
            Err(error) => tracing::warn!(
                "a process that was to take over did not come to serve: {error}; this one goes on"
            ),
        }
        let gone = stops || given.as_ref().is_ok_and(|serves| *serves);
        *held = if gone { Held::Closed } else { Held::Have(sockets) };
        self.shared.over.notify_all();
        drop(held);
        given.map(|_| ())
    }

    /// Whether the other one serves.
    fn give_sockets(&self, sockets: &Sockets, stream: &mut UnixStream) -> io::Result<bool> {
        let until = Instant::now() + bounds::TAKE_OVER_TIME.time();
        let (lock, paused): (File, Paused) = match self.asker.pause(bounds::TAKE_OVER_TIME.time()) {
            Ok(paused) => paused,
            Err(why) => return write(stream, &Line::Refused(why)).map(|()| false),
        };
        let (mut names, mut descriptors) = (vec![LOCK.to_owned()], vec![lock.as_fd()]);
        for (name, socket) in [(DOOR, &sockets.door), (ADMIN, &sockets.admin)] {
            if let Some(socket) = socket {
                names.push(name.to_owned());
                descriptors.push(socket.as_fd());
            }
        }
        let mut line = serde_json::to_vec(&Line::Given(names))?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many file descriptors"));
        }
        // A line is far shorter than the buffer of a new socket, so it goes as a whole.
        sendmsg(&*stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
        match read(stream, until)? {
            Line::Serving => {}
            other => return Err(io::Error::other(format!("it said {other:?}"))),
        }
        // Whoever cannot read this any more does not serve.
        write(stream, &Line::Ending)?;
        paused.succeeded();
        Ok(true)
    }
}

/// What another host gave.
pub struct Taken {
    /// The sockets that it listens on.
    pub sockets: Sockets,
    /// Its lock of the state directory.
    pub lock: Option<File>,
    stream: UnixStream,
}

/// Takes what the host at the other end of `stream` has to give, after it was asked for it.
///
/// # Errors
/// It gives nothing.
pub fn take(stream: UnixStream) -> io::Result<Taken> {
    stream.set_read_timeout(Some(bounds::TAKE_OVER_TIME.time() + bounds::CONTROL_TIME.time()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received =
        recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let line = bytes.get(..received.bytes).unwrap_or_default();
    let names = match serde_json::from_slice(line) {
        Ok(Line::Given(names)) => names,
        Ok(Line::Refused(why)) => return Err(io::Error::other(why)),
        _ => {
            let said = crate::text::shown(&String::from_utf8_lossy(line), 256);
            return Err(io::Error::other(format!("it knows no way to be taken over: it said {said}")));
        }
    };
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut taken = Taken { sockets: Sockets::default(), lock: None, stream };
    for (name, descriptor) in names.iter().zip(descriptors.flatten()) {
        let socket = |descriptor: OwnedFd| Some(TcpListener::from(descriptor));
        match name.as_str() {
            DOOR => taken.sockets.door = socket(descriptor),
            ADMIN => taken.sockets.admin = socket(descriptor),
            LOCK => taken.lock = Some(File::from(descriptor)),
            _ => {}
        }
    }
    Ok(taken)
}

impl Taken {
    /// Says that this host serves, unless it was asked to stop before.
    ///
    /// # Errors
    /// It was, or the other one does not say that it ends: then that one goes on, and this one may not serve.
    pub fn serving(mut self, asked_to_stop: bool) -> io::Result<()> {
        if asked_to_stop {
            return Err(io::Error::other("it was asked to stop before it served"));
        }
        write(&mut self.stream, &Line::Serving)?;
        match read(&mut self.stream, Instant::now() + bounds::CONTROL_TIME.time())? {
            Line::Ending => Ok(()),
            other => Err(io::Error::other(format!("it said {other:?}"))),
        }
    }
}

/// Writes a document as a line.
pub(crate) fn write(stream: &mut UnixStream, document: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read(stream: &mut UnixStream, until: Instant) -> io::Result<Line> {
    Ok(serde_json::from_slice(&read_line(stream, bounds::CONTROL_REQUEST.size(), until)?)?)
}

/// Reads a line of at most `most` bytes, without its end.
///
/// # Errors
/// There is none until then, or it is longer.
pub(crate) fn read_line(stream: &mut UnixStream, most: usize, until: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
        let read = match stream.read(&mut chunk) {
            Ok(read) => read,
            // A signal, which is no reason to give up (signal(7): with a timeout it is not waited on by itself).
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        };
        let Some(new) = chunk.get(..read).filter(|new| !new.is_empty()) else {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "it closed the connection without an answer",
            ));
        };
        let end = new.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(new.get(..end.unwrap_or(read)).unwrap_or_default());
        if line.len() > most {
            return Err(io::Error::other(bounds::CONTROL_REQUEST.says(line.len(), most as u64)));
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_to_stop_does_not_say_that_it_serves() {
        let said = |asked_to_stop: bool| {
            let (stream, mut other) = UnixStream::pair().unwrap();
            write(&mut other, &Line::Ending).unwrap();
            let taken = Taken { sockets: Sockets::default(), lock: None, stream };
            let serving = taken.serving(asked_to_stop);
            let mut said = String::new();
            // What nobody read makes the end of it an error.
            let _ = other.read_to_string(&mut said);
            (serving.is_ok(), said)
        };
        assert_eq!(said(false), (true, "\"serving\"\n".to_owned()));
        assert_eq!(said(true), (false, String::new()));
    }
}
