//! Compiling in a process of its own: the same program, bounded by the kernel in memory and processor time, at low
//! priority, and [confined](mod@super::confine). What a hostile component does to the compiler, it does there.
//!
//! A request is a line of JSON with the component after it. Before the child reads the component it writes a line with
//! its confinement; then its answer, a line of JSON with the made bytes after it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use super::confine::{Confinement, Profile, confine};
use super::snapshot::snapshot;
use crate::config::PolicyLimits;
use crate::policy::load::{LoadError, compile, in_one_line};
use crate::policy::sandbox::engine::{Engine, Purpose};
use crate::policy::sandbox::native::Compiled;
use crate::text;

/// What the child may use up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::policy) struct Bounds {
    /// Of data memory (RLIMIT_DATA, getrlimit(2)).
    pub(in crate::policy) memory: u64,
    /// Of processor time. Twice as much of wall clock: a starved machine is no fault of a component.
    pub(in crate::policy) time: Duration,
}

/// What is to be made of a component.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::policy) enum Task {
    /// Its native code.
    Compile,
    /// Its snapshot, a component again. The process has run code of the component then, so it makes no native code that
    /// others execute.
    Snapshot { settings: String, limits: PolicyLimits },
}

/// Why nothing was made.
#[derive(Clone, Debug)]
pub(in crate::policy) enum Failure {
    /// The component is no policy that can be put in force.
    Load(LoadError),
    /// It has no snapshot.
    Snapshot(String),
}

/// The same as a child tells it, which is all that it finds out.
#[derive(Serialize, Deserialize)]
enum Refusal {
    Invalid(String),
    Snapshot(String),
    Memory,
    Host(String),
}

#[derive(Serialize, Deserialize)]
struct Request {
    task: Task,
    bounds: Bounds,
}

impl Task {
    fn profile(&self) -> Profile {
        match self {
            Task::Compile => Profile::Compile,
            Task::Snapshot { .. } => Profile::Snapshot,
        }
    }
}

/// What is kept of standard error, in bytes.
const STDERR_BYTES: u64 = 4096;
/// The most bytes that are made of a policy: CPython's native code is a quarter of it. They are read into the serving
/// process.
const MADE_BYTES: u64 = 128 << 20;
/// The longest line of JSON, in bytes: settings are in it.
const LINE_BYTES: u64 = 32 << 20;

/// Has `program` (a `host`) do `task`, and calls `confined` with the confinement that the child reached, if it said.
pub(in crate::policy) fn run(
    program: &Path,
    task: Task,
    component: &[u8],
    bounds: Bounds,
    confined: impl FnOnce(Confinement),
) -> Result<Vec<u8>, Failure> {
    let unprepared = |error: &dyn std::fmt::Display| Failure::Load(LoadError::Unprepared(error.to_string()));
    let request = serde_json::to_vec(&Request { task, bounds }).map_err(|error| unprepared(&error))?;
    let mut child = Command::new(program)
        .arg(VERB)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| unprepared(&format!("{}: {error}", text::path(program))))?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(unprepared(&"no pipe to the process that compiles"));
    };
    // A descriptor, so that no other process is meant once this one is gone.
    let process = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => process,
        Err(error) => {
            // Nobody could end it when its time is over.
            let _ = child.kill();
            let _ = child.wait();
            return Err(unprepared(&error));
        }
    };
    let wall = bounds.time * 2;

    let (answer, said, late, status) = std::thread::scope(|scope| {
        let (ended, ending) = channel::<()>();
        let timer = scope.spawn(move || {
            let late = ending.recv_timeout(wall) == Err(RecvTimeoutError::Timeout);
            if late {
                // An error means that it is gone already.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            late
        });
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            let mut stderr = stderr;
            let _ = stderr.by_ref().take(STDERR_BYTES).read_to_end(&mut said);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&said).into_owned()
        });
        let answer = ask(stdin, stdout, &request, component, confined);
        let status = child.wait();
        // An error means that the timer has gone off.
        let _ = ended.send(());
        (answer, said.join().unwrap_or_default(), timer.join().unwrap_or_default(), status)
    });
    match (answer, status) {
        (Ok((Ok(_), bytes)), Ok(status)) if status.success() => Ok(bytes),
        (Ok((Err(refusal), _)), Ok(status)) if status.success() => Err(failure(refusal, bounds)),
        (_, Ok(status)) => Err(Failure::Load(crash(status, late, &said, bounds))),
        (_, Err(error)) => Err(unprepared(&error)),
    }
}

/// The child's answer, whole.
fn ask(
    mut stdin: impl Write,
    stdout: impl Read,
    request: &[u8],
    component: &[u8],
    confined: impl FnOnce(Confinement),
) -> io::Result<(Result<u64, Refusal>, Vec<u8>)> {
    // A child that ends early does not read all: how it ended says more than that.
    let _ = stdin
        .write_all(request)
        .and_then(|()| stdin.write_all(b"\n"))
        .and_then(|()| stdin.write_all(component));
    drop(stdin);
    let mut stdout = BufReader::new(stdout);
    confined(serde_json::from_slice(&line(&mut stdout)?)?);
    let answer: Result<u64, Refusal> = serde_json::from_slice(&line(&mut stdout)?)?;
    let mut made = Vec::new();
    stdout.take(MADE_BYTES + 1).read_to_end(&mut made)?;
    if answer.as_ref().is_ok_and(|bytes| *bytes != made.len() as u64) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its answer is not whole"));
    }
    Ok((answer, made))
}

fn line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(LINE_BYTES).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn failure(refusal: Refusal, bounds: Bounds) -> Failure {
    Failure::Load(match refusal {
        Refusal::Snapshot(why) => return Failure::Snapshot(why),
        Refusal::Invalid(why) => LoadError::Invalid(why),
        Refusal::Memory => LoadError::PrepareMemory(bounds.memory),
        Refusal::Host(why) => LoadError::Unprepared(why),
    })
}

/// What ended a child that has not answered.
fn crash(status: ExitStatus, late: bool, said: &str, bounds: Bounds) -> LoadError {
    let said = text::cut(&text::printable(said.trim()), 512);
    // Rust's standard library and C++'s say this of an allocation that failed (std::alloc::handle_alloc_error).
    if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
        return LoadError::PrepareMemory(bounds.memory);
    }
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        Some(Signal::XCPU) => LoadError::PrepareTime(bounds.time),
        Some(Signal::KILL) if late => LoadError::PrepareTime(bounds.time),
        Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP) => {
            LoadError::PrepareKilled(status.to_string())
        }
        // seccomp(2).
        Some(Signal::SYS) => LoadError::PrepareCrashed(
            "made a system call that is forbidden to it, so the kernel ended it (SIGSYS): a component that takes over the \
             compiler does that; do not use the component, and report it (the kernel's log has the call: audit type=1326)"
                .to_owned(),
        ),
        _ => {
            let said =
                if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {said}") };
            LoadError::PrepareCrashed(format!("ended early ({status}; {said})"))
        }
    }
}

/// The verb of the program that [`serve_request`] is behind. It is no part of the command line that people use.
pub(crate) const VERB: &str = "prepare";

/// Does what the request on `input` asks for. This is the whole work of a child, which ends afterwards.
///
/// # Errors
/// There is no request, or nobody to answer.
pub(crate) fn serve_request(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let Request { task, bounds } = serde_json::from_slice(&line(&mut input)?)?;
    limit(bounds)?;
    // Said before the component is read, which cannot forge it.
    serde_json::to_writer(&mut output, &confine(task.profile())?)?;
    output.write_all(b"\n")?;
    output.flush()?;
    let mut component = Vec::new();
    input.read_to_end(&mut component)?;
    let made = make(&task, &component).and_then(|made| match (&task, made.len() as u64) {
        (_, ..=MADE_BYTES) => Ok(made),
        (Task::Compile, bytes) => {
            Err(Refusal::Invalid(format!("its native code has {bytes} bytes, the limit is {MADE_BYTES}")))
        }
        (Task::Snapshot { .. }, bytes) => {
            Err(Refusal::Snapshot(format!("it has {bytes} bytes, the limit is {MADE_BYTES}")))
        }
    });
    serde_json::to_writer(&mut output, &made.as_ref().map(|made| made.len() as u64))?;
    output.write_all(b"\n")?;
    if let Ok(made) = &made {
        output.write_all(made)?;
    }
    output.flush()
}

fn limit(bounds: Bounds) -> io::Result<()> {
    let exactly = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    // Nobody is left to answer when the parent is gone.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(Resource::Data, exactly(bounds.memory))?;
    // At the soft limit comes SIGXCPU, at the hard one SIGKILL, which says less.
    let seconds = bounds.time.as_secs().max(1);
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) })?;
    setrlimit(Resource::Core, exactly(0))?;
    // Where memory is short all the same, this process is the one to go. It works without.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

fn make(task: &Task, component: &[u8]) -> Result<Vec<u8>, Refusal> {
    let purpose = match task {
        Task::Compile => Purpose::Prepare,
        Task::Snapshot { .. } => Purpose::Snapshot,
    };
    let engine = Engine::new(purpose).map_err(|error| Refusal::Host(error.to_string()))?;
    // The operating system's word for memory that it does not give (errno(3), ENOMEM).
    let short = |why: &str| why.contains("Cannot allocate memory");
    match task {
        Task::Compile => compile(&engine, component).map(Compiled::into_bytes).map_err(|error| match error {
            error if short(&error.to_string()) => Refusal::Memory,
            LoadError::Invalid(why) => Refusal::Invalid(why),
            error => Refusal::Host(error.to_string()),
        }),
        Task::Snapshot { settings, limits } => {
            // WASI's part of wasmtime makes a runtime with descriptors when there is none.
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.map_err(|error| Refusal::Host(error.to_string()))?;
            let _entered = runtime.enter();
            snapshot(&engine, component, settings, limits)
                .map_err(|error| Refusal::Snapshot(in_one_line(&error)))
        }
    }
}
