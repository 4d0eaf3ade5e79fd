//! Compilation in a child process: the same program, limited by the kernel in memory and processor time, at
//! low priority, and [confined](mod@super::confine). Damage that a hostile component does to the compiler
//! stays in the child.
//!
//! A request is a line of JSON, followed by the compiled functions that are known and by the component.
//! Before the child reads these, it writes a line with its confinement. The response follows: a line of JSON,
//! the bytes that the child made, and the functions for the next request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};

use super::confine::{Confinement, Profile, confine};
use super::function_store::Functions;
use super::process::{Handle, end_with_parent};
use super::snapshot::snapshot;
use crate::config::PolicyLimits;
use crate::fs::frame;
use crate::limits;
use crate::policy::load::{CompileError, LoadError, compile, in_one_line};
use crate::policy::sandbox::engine::{Engine, Purpose};
use crate::policy::sandbox::native::NativeCode;
use crate::text;

/// Limits of a child.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::policy) struct Bounds {
    /// Data memory in bytes (RLIMIT_DATA, getrlimit(2)).
    pub(in crate::policy) memory: u64,
    /// Processor time. The limit on wall-clock time is twice this value: a starved machine is no fault of a
    /// component.
    pub(in crate::policy) time: Duration,
}

/// Product to make from a component.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::policy) enum Task {
    /// Native code.
    Compile,
    /// Snapshot, which is a component too. The process has then run code of the component, so its output is
    /// no native code for other processes.
    Snapshot { settings: String, limits: PolicyLimits },
}

/// Reason why a child made nothing.
#[derive(Clone, Debug)]
pub(in crate::policy) enum Failure {
    /// Component that cannot be loaded, or a failure of the host.
    Load(LoadError),
    /// Component without a snapshot, with the reason.
    Snapshot(String),
}

/// Failure as a child reports it. The parent derives all other failures from the way in which the child
/// ended.
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
    /// Length of the known functions in bytes, if the author's engine compiles.
    functions: Option<u64>,
}

/// Work for a child.
pub(in crate::policy) struct Work<'a> {
    pub(in crate::policy) task: Task,
    pub(in crate::policy) component: &'a [u8],
    pub(in crate::policy) bounds: Bounds,
    /// Known functions, if an author waits for the compilation.
    pub(in crate::policy) functions: Option<&'a [u8]>,
}

/// Response of a child.
#[derive(Debug)]
pub(in crate::policy) struct Made {
    /// Native code, or the snapshot.
    pub(in crate::policy) bytes: Vec<u8>,
    /// Functions for the next request; empty if there are no new functions.
    pub(in crate::policy) functions: Vec<u8>,
}

/// Lengths of the two parts of a response, in bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Lengths {
    bytes: u64,
    functions: u64,
}

impl Task {
    fn profile(&self) -> Profile {
        match self {
            Task::Compile => Profile::Compile,
            Task::Snapshot { .. } => Profile::Snapshot,
        }
    }
}

/// Length of the part of standard error that is kept, in bytes.
const STDERR_BYTES: u64 = 4096;
/// Limit on the bytes that a child makes, which the serving process reads into memory. CPython's native code
/// is a quarter of it.
const MADE_BYTES: u64 = 128 << 20;
/// Additional memory for known and new functions, in bytes. CPython's have 27 MB.
const FUNCTIONS_MEMORY: u64 = 256 << 20;
/// Maximum number of threads that compile for an author. Each takes memory of its own.
const THREADS: usize = 8;
/// Limit on a line of JSON, in bytes. The settings are part of the line.
const LINE_BYTES: u64 = 32 << 20;

/// Runs `work` in a child process of `program` (a `host`). Calls `confined` with the confinement that the
/// child reports, if any.
pub(in crate::policy) fn run(
    program: &Path,
    work: Work<'_>,
    confined: impl FnOnce(Confinement),
) -> Result<Made, Failure> {
    let Work { task, component, bounds, functions } = work;
    let not_compiled =
        |error: &dyn std::fmt::Display| Failure::Load(LoadError::NotCompiled(error.to_string()));
    let length = functions.map(|functions| functions.len() as u64);
    let request = Request { task, bounds, functions: length };
    let request = frame::line(&request).map_err(|error| not_compiled(&error))?;
    let known = functions.unwrap_or_default();
    let mut child = Command::new(program)
        .arg(VERB)
        .env_clear()
        .env("RAYON_NUM_THREADS", threads().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_compiled(&format!("{}: {error}", text::path(program))))?;
    let process = match Handle::of(&child) {
        Ok(process) => process,
        Err(error) => {
            // Without the handle the timer could not end the child.
            let _ = child.kill();
            let _ = child.wait();
            return Err(not_compiled(&error));
        }
    };
    let ended = converse(&mut child, &process, bounds.time * 2, |stdin, stdout| {
        ask(stdin, stdout, &[&request, known, component], confined)
    });
    let Some(Ended { answer, said, late, status }) = ended else {
        return Err(not_compiled(&"no pipe to the process that compiles"));
    };
    match (answer, status) {
        (Ok(Ok(made)), Ok(status)) if status.success() => Ok(made),
        (Ok(Err(refusal)), Ok(status)) if status.success() => Err(failure(refusal, bounds)),
        (_, Ok(status)) => Err(Failure::Load(crash(status, late, &said, bounds))),
        (_, Err(error)) => Err(not_compiled(&error)),
    }
}

/// Result of a child process.
struct Ended {
    answer: io::Result<Answer>,
    /// Beginning of the child's standard error.
    said: String,
    /// Whether the child was killed because its time was over.
    late: bool,
    status: io::Result<ExitStatus>,
}

/// Response of a child.
type Answer = Result<Made, Refusal>;

/// Returns the number of threads that compile for an author.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Runs `ask` on the pipes of a child and waits for the end of the child, which is killed after `time`.
/// Returns None if a pipe is missing.
fn converse(
    child: &mut Child,
    process: &Handle,
    time: Duration,
    ask: impl FnOnce(ChildStdin, ChildStdout) -> io::Result<Answer>,
) -> Option<Ended> {
    let (stdin, stdout, mut stderr) = (child.stdin.take()?, child.stdout.take()?, child.stderr.take()?);
    let ended = std::thread::scope(|scope| {
        let (ended, ending) = channel::<()>();
        let timer = scope.spawn(move || {
            let late = ending.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            if late {
                process.kill();
            }
            late
        });
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.by_ref().take(STDERR_BYTES).read_to_end(&mut said);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&said).into_owned()
        });
        let answer = ask(stdin, stdout);
        let status = child.wait();
        // An error means that the timer has already fired.
        let _ = ended.send(());
        let (said, late) = (said.join().unwrap_or_default(), timer.join().unwrap_or_default());
        Ended { answer, said, late, status }
    });
    Some(ended)
}

/// Sends the request and returns the complete response.
fn ask(
    mut stdin: impl Write,
    stdout: impl Read,
    request: &[&[u8]],
    confined: impl FnOnce(Confinement),
) -> io::Result<Answer> {
    // A child that ends early does not read everything. Its exit status says more than this write error.
    let _ = request.iter().try_for_each(|part| stdin.write_all(part));
    drop(stdin);
    let mut stdout = BufReader::new(stdout);
    confined(frame::read(&mut stdout, LINE_BYTES)?);
    let lengths: Result<Lengths, Refusal> = frame::read(&mut stdout, LINE_BYTES)?;
    let lengths = match lengths {
        Ok(lengths) => lengths,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let bytes = read_exactly(&mut stdout, lengths.bytes, MADE_BYTES)?;
    let functions = read_exactly(&mut stdout, lengths.functions, limits::FUNCTION_CACHE.default)?;
    if !stdout.fill_buf()?.is_empty() {
        return Err(io::Error::other("its answer has no end"));
    }
    Ok(Ok(Made { bytes, functions }))
}

/// Reads `length` bytes, if these are at most `most`.
fn read_exactly(from: &mut impl Read, length: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length.min(most)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part of the pipe is not whole")),
    }
}

fn failure(refusal: Refusal, bounds: Bounds) -> Failure {
    Failure::Load(match refusal {
        Refusal::Snapshot(why) => return Failure::Snapshot(why),
        Refusal::Invalid(why) => LoadError::Invalid(why),
        Refusal::Memory => LoadError::PrepareMemory(bounds.memory),
        Refusal::Host(why) => LoadError::NotCompiled(why),
    })
}

/// Returns the error for a child that ended without a response.
fn crash(status: ExitStatus, late: bool, said: &str, bounds: Bounds) -> LoadError {
    let said = text::truncate(&text::escape(said.trim()), 512);
    // The standard library aborts after a failed allocation (std::alloc::handle_alloc_error), and the hook
    // with which a program can end otherwise is not stable. A panic on ENOMEM (errno(3)) has the second text.
    if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
        return LoadError::PrepareMemory(bounds.memory);
    }
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        Some(Signal::XCPU) => LoadError::PrepareTime(bounds.time),
        Some(Signal::KILL) if late => LoadError::PrepareTime(bounds.time),
        Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP) => {
            LoadError::CompilerKilled(status.to_string())
        }
        // seccomp(2).
        Some(Signal::SYS) => LoadError::CompilerCrashed(
            "made a system call that is forbidden to it, so the kernel ended it (SIGSYS): a component that \
                takes over the compiler does that; do not use the component, and report it (the kernel's log \
                has the call: audit type=1326)"
                .to_owned(),
        ),
        _ => {
            let said =
                if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {said}") };
            LoadError::CompilerCrashed(format!("ended early ({status}; {said})"))
        }
    }
}

/// Verb of the program that runs [`serve_request`]. It is no part of the command line for people.
pub(crate) const VERB: &str = "compile";

/// Executes the request on `input` and writes the response to `output`. This is the whole work of a child,
/// which ends afterwards.
///
/// # Errors
/// Returns an error if there is no request, if the process cannot be limited or confined, or if the response
/// cannot be written.
pub(crate) fn serve_request(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let Request { task, mut bounds, functions } = frame::read(&mut input, LINE_BYTES)?;
    if functions.is_some() {
        bounds.memory = bounds.memory.saturating_add(FUNCTIONS_MEMORY);
    }
    limit(bounds)?;
    // Written before the component is read, so that a component cannot forge it.
    frame::write(&mut output, &confine(task.profile())?)?;
    output.flush()?;
    let known = functions.map(|length| read_exactly(&mut input, length, limits::FUNCTION_CACHE.default));
    let known = known.transpose()?.map(|pack| Arc::new(Functions::of(pack)));
    let mut component = Vec::new();
    input.read_to_end(&mut component)?;
    let made = make(&task, &component, known.clone()).and_then(|made| match (&task, made.len() as u64) {
        (_, ..=MADE_BYTES) => Ok(made),
        (Task::Compile, bytes) => {
            Err(Refusal::Invalid(format!("its native code has {bytes} bytes, the limit is {MADE_BYTES}")))
        }
        (Task::Snapshot { .. }, bytes) => {
            Err(Refusal::Snapshot(format!("it has {bytes} bytes, the limit is {MADE_BYTES}")))
        }
    });
    let mut functions = known.map(|known| known.next_pack()).unwrap_or_default();
    if functions.len() as u64 > limits::FUNCTION_CACHE.default {
        functions.clear();
    }
    let lengths = |made: &Vec<u8>| Lengths { bytes: made.len() as u64, functions: functions.len() as u64 };
    frame::write(&mut output, &made.as_ref().map(lengths))?;
    if let Ok(made) = &made {
        output.write_all(made)?;
        output.write_all(&functions)?;
    }
    output.flush()
}

fn limit(bounds: Bounds) -> io::Result<()> {
    let exactly = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    // Without the parent nobody reads the response.
    end_with_parent()?;
    setrlimit(Resource::Data, exactly(bounds.memory))?;
    // The kernel sends SIGXCPU at the soft limit, and SIGKILL, which says less, at the hard limit.
    let seconds = bounds.time.as_secs().max(1);
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) })?;
    setrlimit(Resource::Core, exactly(0))?;
    // If the machine still runs short of memory, the kernel ends this process first. A failure to set this is
    // harmless.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

fn make(task: &Task, component: &[u8], known: Option<Arc<Functions>>) -> Result<Vec<u8>, Refusal> {
    let engine = match (task, known) {
        (Task::Compile, None) => Engine::new(Purpose::Compile),
        (Task::Compile, Some(known)) => Engine::for_author(known),
        (Task::Snapshot { .. }, _) => Engine::new(Purpose::Snapshot),
    };
    let engine = engine.map_err(|error| Refusal::Host(error.to_string()))?;
    match task {
        Task::Compile => {
            compile(&engine, component).map(NativeCode::into_bytes).map_err(|error| match error {
                CompileError::Memory => Refusal::Memory,
                error @ (CompileError::Invalid(_) | CompileError::Panicked) => {
                    Refusal::Invalid(error.to_string())
                }
            })
        }
        Task::Snapshot { settings, limits } => {
            // Without a current runtime, wasmtime's WASI would make one, which needs descriptors.
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.map_err(|error| Refusal::Host(error.to_string()))?;
            let _entered = runtime.enter();
            snapshot(&engine, component, settings, limits)
                .map_err(|error| Refusal::Snapshot(in_one_line(&error)))
        }
    }
}
