//! The program `host`, started as an administrator does.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const HOST: &str = env!("CARGO_BIN_EXE_host");

/// Time limit of events that must happen but may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and its output. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: String,
    /// The program's TMPDIR. The program may be killed, and cannot remove its temporary files then.
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

    /// Waits for a line that contains `part`.
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

    /// Waits until the program serves. Returns the addresses of the webhook and of the admin listener.
    pub(crate) fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        addresses(&self.wait_for("serving ImageReview at ")).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory in bytes (proc_pid_status(5)).
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the peak of the resident memory, in bytes.
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

    /// Waits for the end of the program. Returns its exit status and its whole output.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        // The channel closes when both output threads end, after the program.
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

/// Returns the addresses in the line that the host logs when it serves.
pub(crate) fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let address = |scheme| {
        let (_, rest) = line.split_once(scheme)?;
        rest.split([',', '"', ' ']).next()?.trim().parse().ok()
    };
    Some((address(" https://")?, address(" http://")?))
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail only if the program has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The receiver may be gone while the program is killed.
            let _ = lines.send(line);
        }
    });
}
