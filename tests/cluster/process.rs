//! Programs that run for a while or to their end, always with a time limit and a log file, and killed with
//! their owner.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const STEP: Duration = Duration::from_millis(20);

/// Writes a line to standard error, past the test harness' capture, so that the log of a continuous build
/// shows it at once.
pub(crate) fn say(line: impl AsRef<str>) {
    // A closed standard error is no reason to fail.
    drop(writeln!(std::io::stderr().lock(), "{}", line.as_ref()));
}

/// A running program. Dropping it kills it, by its id, and waits for its end.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. Its whole output is appended to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write the log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} does not start: {}", command.get_program().display()))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns an error with the last log lines if the program has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its last words:\n{}", self.name, tail(&self.log, 5)),
        }
    }

    /// Waits until a program accepts connections on `port` of loopback.
    pub(crate) fn wait_for_port(&mut self, port: u16, patience: Duration) -> Result<()> {
        wait_until(patience, || {
            self.check_running()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })?
        .with_context(|| {
            format!(
                "{} does not listen on 127.0.0.1:{port} after {patience:?}; see {}",
                self.name,
                self.log.display()
            )
        })
    }

    /// Sends SIGTERM and waits for the end of the program.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        wait_until(patience, || Ok(self.child.try_wait()?))?.with_context(|| {
            format!("{} still runs {patience:?} after SIGTERM; see {}", self.name, self.log.display())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail only if the program has already ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `command` to its end with `input`. Its output must fit into a pipe (64 KiB), as kubectl's does.
pub(crate) fn output(command: &mut Command, input: &str, patience: Duration) -> Result<Output> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} does not start"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading reports the reason itself.
        drop(stdin.write_all(input.as_bytes()));
    }
    if wait_until(patience, || Ok(child.try_wait()?))?.is_none() {
        child.kill()?;
        child.wait()?;
        bail!("{program} did not end within {patience:?} and was killed");
    }
    Ok(child.wait_with_output()?)
}

/// Repeats `attempt` until it returns a value. Returns None after `patience`.
pub(crate) fn wait_until<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        if let Some(answer) = attempt()? {
            return Ok(Some(answer));
        }
        if start.elapsed() > patience {
            return Ok(None);
        }
        std::thread::sleep(STEP);
    }
}

/// Returns the last `lines` lines of a file, or the reason why there are none.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({}: {error})", file.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Reads a file from `offset` on.
pub(crate) fn read_from(file: &Path, offset: u64) -> Result<String> {
    let mut file = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns `N` unused ports of loopback, below the range in which the kernel picks ports for clients: a
/// connection of the control plane cannot take one before its server does.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos();
    let mut offset = std::process::id().wrapping_mul(31).wrapping_add(clock / 1000);
    let mut held = Vec::new();
    for _ in 0..COUNT {
        offset = offset.wrapping_add(1);
        let port = u16::try_from(FIRST + offset % COUNT)?;
        held.extend(TcpListener::bind(("127.0.0.1", port)));
        if held.len() == N {
            let mut ports = [0; N];
            for (port, listener) in ports.iter_mut().zip(&held) {
                *port = listener.local_addr()?.port();
            }
            return Ok(ports);
        }
    }
    bail!("no {N} free ports on 127.0.0.1 from {FIRST} to {}", FIRST + COUNT)
}
