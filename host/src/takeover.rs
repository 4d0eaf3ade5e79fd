//! One host takes the place of another: over the control socket it gets the sockets that connections come in by, and the
//! lock of the state directory. Until it says that it serves, the other one goes on as if nobody had asked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    sockets: Arc<Mutex<Option<Sockets>>>,
    asker: Asker,
    leave: Arc<dyn Fn() + Send + Sync>,
}

impl Estate {
    /// `leave` is what there is to do once another host serves.
    pub fn new(sockets: Sockets, asker: Asker, leave: impl Fn() + Send + Sync + 'static) -> Estate {
        Estate { sockets: Arc::new(Mutex::new(Some(sockets))), asker, leave: Arc::new(leave) }
    }

    fn sockets(&self) -> MutexGuard<'_, Option<Sockets>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the sockets: there is nothing to give any more.
    pub fn close(&self) {
        self.sockets().take();
    }

    /// Gives all to whoever asked over `stream`, and goes on as before unless that one serves in the end.
    ///
    /// # Errors
    /// The other one is gone; this host goes on.
    pub fn give(&self, stream: &mut UnixStream) -> io::Result<()> {
        // One at a time: another one is told that there is nothing to be had.
        let taken = self.sockets().take();
        let Some(sockets) = taken else {
            let why = "it stops, or another process is just taking over".to_owned();
            return write(stream, &Line::Refused(why));
        };
        let given = self.give_sockets(&sockets, stream);
        if given.as_ref().is_ok_and(|serves| *serves) {
            tracing::info!(
                "another process has taken over: ending when the connections that are left here are closed"
            );
            (self.leave)();
            return Ok(());
        }
        *self.sockets() = Some(sockets);
        if given.is_err() {
            tracing::warn!("a process that was to take over is gone before it served: this one goes on");
        }
        given.map(|_| ())
    }

    /// Whether the other one serves.
    fn give_sockets(&self, sockets: &Sockets, stream: &mut UnixStream) -> io::Result<bool> {
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
        stream.set_read_timeout(Some(bounds::TAKE_OVER_TIME.time()))?;
        match read(&mut BufReader::new(&*stream))? {
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
    /// Says that this host serves.
    ///
    /// # Errors
    /// The other one does not say that it ends: then it goes on, and this one may not serve.
    pub fn serving(mut self) -> io::Result<()> {
        write(&mut self.stream, &Line::Serving)?;
        match read(&mut BufReader::new(&self.stream))? {
            Line::Ending => Ok(()),
            other => Err(io::Error::other(format!("it said {other:?}"))),
        }
    }
}

fn write(stream: &mut UnixStream, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    stream.write_all(&text)
}

fn read(stream: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    // What it says is short.
    io::Read::take(stream, 4096).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "it is gone"));
    }
    Ok(serde_json::from_slice(&line)?)
}
