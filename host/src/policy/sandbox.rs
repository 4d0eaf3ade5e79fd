//! Fresh instances of a policy, bounded in memory, time, answer and log, with no access to anything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, Trap};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::exports::image_policy::host::policy as wire;
use super::bindings::image_policy::host::{log, types};
use super::bindings::{ImagePolicy, ImagePolicyPre};
use super::engine::{Engine, ticks};
use super::load::SettingsError;
use crate::config::PolicyLimits;
use crate::image::Image;
use crate::text;
use crate::verdict::{Decision, Level, LogLine, Malfunction, Outcome};

/// The most entries in each of a decision's lists.
const LIST: usize = 32;
/// The longest text in a decision, in bytes.
const TEXT_BYTES: usize = 1024;
/// The longest code of a decision, in bytes: a metric's label.
const CODE_BYTES: usize = 63;
/// Tables, memories and core instances of one policy instance; the largest toolchain needs about forty.
const PARTS: usize = 64;
/// Elements of all its tables.
const TABLE_ELEMENTS: usize = 100_000;
/// Random bytes that a policy can ask for at a time.
const RANDOM_BYTES: u64 = 64 * 1024;
/// Handles to host resources that a policy can hold at a time.
const HANDLES: usize = 1_000;

/// One running instance of a policy. It is of no use after a malfunction.
pub(crate) struct Instance {
    store: Store<State>,
    bindings: ImagePolicy,
    limits: PolicyLimits,
}

/// Why an instance did not start.
pub(super) enum StartError {
    /// Its functions have the right names and other types.
    Contract(String),
    /// `configure` refused the settings.
    Settings(Vec<SettingsError>),
    /// It did not get as far.
    Malfunction(Malfunction),
}

impl Instance {
    /// Starts an instance and configures it, within `deadline`.
    pub(super) fn start(
        engine: &Engine,
        policy: &ImagePolicyPre<State>,
        settings: &str,
        limits: &PolicyLimits,
        deadline: Duration,
    ) -> Result<Instance, StartError> {
        let mut store = Store::new(&engine.engine, State::new(limits));
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(usize::try_from(limits.result).unwrap_or(usize::MAX));
        store.set_max_component_handles(HANDLES);
        store.set_epoch_deadline(ticks(deadline));

        let bindings =
            guarded(|| policy.instantiate(&mut store)).map_err(|error| match wrong_type(&error) {
                Some(how) => StartError::Contract(how),
                None => StartError::Malfunction(malfunction(error, &store, limits, deadline)),
            })?;
        let mut instance = Instance { store, bindings, limits: limits.clone() };

        let Instance { store, bindings, .. } = &mut instance;
        let answer = guarded(|| bindings.image_policy_host_policy().call_configure(store, settings));
        match answer {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(errors)) => Err(StartError::Settings(
                errors
                    .into_iter()
                    .take(LIST)
                    .map(|error| SettingsError {
                        pointer: bounded(&error.pointer),
                        message: bounded(&error.message),
                    })
                    .collect(),
            )),
            Err(error) => Err(StartError::Malfunction(malfunction(error, &instance.store, limits, deadline))),
        }
    }

    /// Asks for a decision on one image, within `deadline`.
    pub(crate) fn evaluate(
        &mut self,
        image: &Image,
        context: &Context,
        deadline: Duration,
    ) -> Result<Decision, Malfunction> {
        self.store.set_epoch_deadline(ticks(deadline));
        let image = types::Image {
            original: image.original.clone(),
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            tag: image.tag.clone(),
            digest: image.digest.clone(),
        };
        let Instance { store, bindings, limits } = self;
        let policy = bindings.image_policy_host_policy();
        match guarded(|| policy.call_evaluate(&mut *store, &image, &context.0)) {
            Ok(Ok(decision)) => checked(decision),
            Ok(Err(message)) => Err(Malfunction::Reported(bounded(&message))),
            Err(error) => Err(malfunction(error, store, limits, deadline)),
        }
    }

    /// Forgets what was logged so far, and leaves room for so many lines: `configure` was written when the policy was
    /// loaded, and the bound is that of a review, whose images may have had other instances before this one.
    pub(crate) fn begin_log(&mut self, room: u32) {
        self.store.data_mut().log.begin(room);
    }

    /// How many lines it may still log.
    pub(crate) fn log_room(&self) -> u32 {
        self.store.data().log.lines().room
    }

    /// What the instance has logged since it was last asked for it.
    pub(crate) fn take_log(&mut self) -> Vec<LogLine> {
        self.store.data_mut().log.take()
    }
}

/// What all images of a review share, in the contract's form.
pub(crate) struct Context(wire::Context);

impl Context {
    pub(crate) fn new(namespace: &str, annotations: &[(String, String)]) -> Context {
        Context(types::Context { namespace: namespace.to_owned(), annotations: annotations.to_vec() })
    }
}

/// A panic in the host's own code below a call is that call's failure and no one else's.
fn guarded<T>(call: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(wasmtime::Error::msg("the host panicked in this call")))
}

/// How `configure` or `evaluate` differs from the contract, which the bindings look at only now. Other errors have none.
fn wrong_type(error: &wasmtime::Error) -> Option<String> {
    // wasmtime 48 has no type for it (runtime/component/instance.rs).
    let mut causes = error.chain().map(ToString::to_string);
    let how = || bounded(&format!("`configure` or `evaluate` has another type: {}", error.root_cause()));
    causes.any(|cause| cause == "failed to convert function to given type").then(how)
}

/// Words for the person who reads the denial: which bound, with its figure, or what the guest did.
fn malfunction(
    error: wasmtime::Error,
    store: &Store<State>,
    limits: &PolicyLimits,
    deadline: Duration,
) -> Malfunction {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Malfunction::Deadline(deadline),
        // A guest whose allocation was refused usually traps on the next instruction.
        _ if store.data().memory.refused => return Malfunction::Memory(limits.memory),
        Some(Trap::UnreachableCodeReached) => {
            // Panics and failed assertions of all languages end here: what it last wrote says more.
            let last = store.data().log.last_line();
            let said = last.map(|line| format!(" (it last wrote: {line})")).unwrap_or_default();
            return Malfunction::Trap(bounded(&format!("it panicked or aborted{said}")));
        }
        Some(trap) => return Malfunction::Trap(trap.to_string()),
        None => {}
    }
    let cause = error.root_cause().to_string();
    // wasmtime 48 keeps this error's type private (runtime/component/func/options.rs).
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        return Malfunction::Result(limits.result);
    }
    Malfunction::Trap(bounded(&cause))
}

fn checked(decision: wire::Decision) -> Result<Decision, Malfunction> {
    let wire::Decision { outcome, code, reason, audit_annotations, warnings } = decision;
    let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if code.is_empty() || code.len() > CODE_BYTES || !code.chars().all(kebab) {
        let code = text::cut(&text::printable(&text::cut(&code, CODE_BYTES)), CODE_BYTES);
        return Err(Malfunction::Contract(format!(
            "code `{code}` is not kebab-case of 1 to {CODE_BYTES} bytes, such as `untrusted-registry`"
        )));
    }
    Ok(Decision {
        outcome: match outcome {
            types::Outcome::Allow => Outcome::Allow,
            types::Outcome::Deny => Outcome::Deny,
            types::Outcome::Abstain => Outcome::Abstain,
        },
        code,
        reason: bounded(&reason),
        audit_annotations: audit_annotations
            .into_iter()
            .take(LIST)
            .map(|(key, value)| (text::cut(&key, CODE_BYTES), bounded(&value)))
            .collect(),
        warnings: warnings.iter().take(LIST).map(|warning| bounded(warning)).collect(),
    })
}

/// A guest's text as it may be shown.
fn bounded(text: &str) -> String {
    text::cut(&text::printable(&text::cut(text, TEXT_BYTES)), TEXT_BYTES)
}

/// What a store holds for its instance.
pub(super) struct State {
    memory: Memory,
    log: Log,
    pub(super) table: ResourceTable,
    wasi: Option<WasiCtx>,
}

impl State {
    fn new(limits: &PolicyLimits) -> State {
        State {
            memory: Memory {
                limit: usize::try_from(limits.memory).unwrap_or(usize::MAX),
                used: 0,
                elements: 0,
                refused: false,
            },
            log: Log::new(limits),
            table: ResourceTable::new(),
            wasi: None,
        }
    }
}

/// Counts the bytes of all memories of an instance together.
struct Memory {
    limit: usize,
    used: usize,
    elements: usize,
    refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }
}

impl log::Host for State {
    fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log.write(level, &message);
    }
}

impl types::Host for State {}

/// The lines of one instance: what is over a bound is cut and counted.
#[derive(Clone)]
struct Log(Arc<Mutex<Lines>>);

struct Lines {
    kept: Vec<LogLine>,
    last: Option<String>,
    room: u32,
    dropped: u64,
    line_bytes: usize,
    unfinished: String,
}

impl Log {
    fn new(limits: &PolicyLimits) -> Log {
        Log(Arc::new(Mutex::new(Lines {
            kept: Vec::new(),
            last: None,
            room: limits.log_lines,
            dropped: 0,
            line_bytes: usize::try_from(limits.log_line_bytes).unwrap_or(usize::MAX),
            unfinished: String::new(),
        })))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, level: Level, message: &str) {
        self.lines().push(level, message);
    }

    /// Bytes of stdout or stderr: a line at each newline.
    fn write_bytes(&self, bytes: &[u8]) {
        let mut lines = self.lines();
        for (index, piece) in String::from_utf8_lossy(bytes).split('\n').enumerate() {
            if index > 0 {
                let line = std::mem::take(&mut lines.unfinished);
                lines.push(Level::Info, &line);
            }
            let room = lines.line_bytes.saturating_sub(lines.unfinished.len());
            lines.unfinished.push_str(&text::cut(piece, room));
        }
    }

    fn begin(&self, room: u32) {
        self.take();
        self.lines().room = room;
    }

    fn last_line(&self) -> Option<String> {
        let mut lines = self.lines();
        lines.finish();
        lines.last.clone()
    }

    fn take(&self) -> Vec<LogLine> {
        let mut lines = self.lines();
        lines.finish();
        // The last words are of the call that failed, not of one before it.
        lines.last = None;
        let mut taken = std::mem::take(&mut lines.kept);
        match std::mem::take(&mut lines.dropped) {
            0 => {}
            dropped => taken.push(LogLine {
                level: Level::Warn,
                message: format!("{dropped} more lines were dropped (limits.logLines)"),
            }),
        }
        taken
    }
}

impl Lines {
    fn push(&mut self, level: Level, message: &str) {
        let message = text::cut(message.trim_end(), self.line_bytes);
        let message = text::cut(&text::printable(&message), self.line_bytes);
        self.last = Some(message.clone());
        if self.room == 0 {
            self.dropped += 1;
            return;
        }
        self.room -= 1;
        self.kept.push(LogLine { level, message });
    }

    fn finish(&mut self) {
        if !self.unfinished.is_empty() {
            let line = std::mem::take(&mut self.unfinished);
            self.push(Level::Info, &line);
        }
    }
}

impl WasiView for State {
    /// Made when a guest first asks, since most import WASI and never do.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        WasiCtxView { ctx: self.wasi.get_or_insert_with(|| inert(log)), table: &mut self.table }
    }
}

/// WASI that gives access to nothing: no files, environment, arguments or network; the clocks stand still, random
/// numbers are the same in every instance, and what is printed goes to the policy's log.
fn inert(log: &Log) -> WasiCtx {
    const SEED: u64 = 0x001A_6E90_11C7;
    let random = || StdRng::seed_from_u64(SEED);
    let mut builder = WasiCtx::builder();
    builder
        .stdout(LogStream(log.clone()))
        .stderr(LogStream(log.clone()))
        .secure_random(random())
        .insecure_random(random())
        .insecure_random_seed(u128::from(SEED))
        .max_random_size(RANDOM_BYTES)
        .wall_clock(Still)
        .monotonic_clock(Still)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    builder.build()
}

/// A clock that stands at the beginning of 2026.
struct Still;

impl Still {
    const NOW: Duration = Duration::from_secs(1_767_225_600);
}

impl wasmtime_wasi::HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Still::NOW
    }
}

impl wasmtime_wasi::HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

struct LogStream(Log);

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LogStream(self.0.clone()))
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write_bytes(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(4096)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}
