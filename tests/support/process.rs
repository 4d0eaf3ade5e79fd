//! The program `host`, run as an administrator runs it.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const HOST: &str = env!("CARGO_BIN_EXE_host");

/// For what must happen but may take its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and what it says. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: String,
    /// What it keeps until it stops; it may be killed, and then cannot take that away.
    _temporary: tempfile::TempDir,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        Process::start_with(command, Stdio::null())
    }

    pub(crate) fn start_with(command: &mut Command, input: Stdio) -> Process {
        let temporary = tempfile::tempdir().unwrap();
        command.env_remove("RUST_LOG").env("TMPDIR", temporary.path());
        let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        pass_on(child.stdout.take().unwrap(), sender.clone());
        pass_on(child.stderr.take().unwrap(), sender);
        Process { child, lines, said: String::new(), _temporary: temporary }
    }

    /// Waits for a line that has `part` in it.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("the program never said {part:?}, but:\n{}", self.said)
            };
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Waits until it serves: the addresses of the door and of health and status.
    pub(crate) fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        addresses(&self.wait_for("serving ImageReview at ")).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in bytes (proc_pid_status(5)).
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that its resident memory has been, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended: its status and all that it said.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        // Both ends of the channel's senders are gone once the program is.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the program still runs; it said:\n{}", self.said)
                }
            }
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.said))
    }
}

/// The addresses in the line that says that it serves.
pub(crate) fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let address = |scheme| {
        let (_, rest) = line.split_once(scheme)?;
        rest.split([',', '"', ' ']).next()?.trim().parse().ok()
    };
    Some((address(" https://")?, address(" http://")?))
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a program that has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody listens to a program that is being killed.
            let _ = lines.send(line);
        }
    });
}
