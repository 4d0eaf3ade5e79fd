//! State of a wasmtime store for one instance: its memory use, its log, and WASI without access to anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rand::SeedableRng;
use rand::rngs::StdRng;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::image_policy::host::{log, types};
use crate::config::PolicyLimits;
use crate::limits;
use crate::review::verdict::{Level, LogLine};
use crate::text;

/// State that a store holds for its instance.
pub(in crate::policy) struct InstanceState {
    pub(in crate::policy) memory: Memory,
    pub(in crate::policy) log: Log,
    pub(in crate::policy) table: ResourceTable,
    wasi: Option<WasiCtx>,
}

impl InstanceState {
    pub(in crate::policy) fn new(limits: &PolicyLimits) -> InstanceState {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::HANDLES.size());
        InstanceState {
            memory: Memory {
                limit: usize::try_from(limits.memory).unwrap_or(usize::MAX),
                used: 0,
                elements: 0,
                refused: false,
                elements_refused: false,
            },
            log: Log::new(limits),
            table,
            wasi: None,
        }
    }
}

/// Counter and limiter of an instance's memories and tables. The bytes of all memories count together.
pub(in crate::policy) struct Memory {
    limit: usize,
    pub(in crate::policy) used: usize,
    elements: usize,
    /// Whether the instance requested more memory than the limit.
    pub(in crate::policy) refused: bool,
    /// Whether the instance requested more table elements than the limit.
    pub(in crate::policy) elements_refused: bool,
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
        if elements > limits::TABLE_ELEMENTS.size() {
            self.elements_refused = true;
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES.size()
    }

    fn tables(&self) -> usize {
        limits::TABLES.size()
    }

    fn memories(&self) -> usize {
        limits::MEMORIES.size()
    }
}

impl log::Host for InstanceState {
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

impl types::Host for InstanceState {}

/// Limit on a policy's own words in the message of a malfunction, in bytes: room for a panic's place and
/// message, or for a short trace.
const WORDS: usize = 512;

/// Log lines of one instance. Long lines are cut. Lines over the limit are dropped and counted.
#[derive(Clone)]
pub(in crate::policy) struct Log(Arc<Mutex<Lines>>);

struct Lines {
    kept: Vec<LogLine>,
    /// Beginning of the written text, for the message of a malfunction.
    words: String,
    room: u32,
    dropped: u64,
    line_bytes: usize,
    unfinished: String,
}

impl Log {
    fn new(limits: &PolicyLimits) -> Log {
        Log(Arc::new(Mutex::new(Lines {
            kept: Vec::new(),
            words: String::new(),
            room: limits.log_lines,
            dropped: 0,
            line_bytes: usize::try_from(limits.log_line_bytes).unwrap_or(usize::MAX),
            unfinished: String::new(),
        })))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock()
    }

    fn write(&self, level: Level, message: &str) {
        self.lines().push(level, message);
    }

    /// Records bytes of stdout or stderr. Each newline ends a line.
    fn write_bytes(&self, bytes: &[u8]) {
        let mut lines = self.lines();
        for (index, piece) in String::from_utf8_lossy(bytes).split('\n').enumerate() {
            if index > 0 {
                let line = std::mem::take(&mut lines.unfinished);
                lines.push(Level::Info, &line);
            }
            let room = lines.line_bytes.saturating_sub(lines.unfinished.len());
            lines.unfinished.push_str(&text::truncate(piece, room));
        }
    }

    /// Forgets the lines so far, and accepts `room` more.
    pub(in crate::policy) fn begin(&self, room: u32) {
        self.take();
        self.lines().room = room;
    }

    /// Returns the number of lines that the log still accepts.
    pub(in crate::policy) fn room(&self) -> u32 {
        self.lines().room
    }

    /// Returns the beginning of the text since the lines were last taken, in one line.
    pub(in crate::policy) fn words(&self) -> String {
        let mut lines = self.lines();
        lines.finish();
        lines.words.clone()
    }

    pub(in crate::policy) fn take(&self) -> Vec<LogLine> {
        let mut lines = self.lines();
        lines.finish();
        // A malfunction quotes only the call that failed, not an earlier one.
        lines.words.clear();
        let mut taken = std::mem::take(&mut lines.kept);
        match std::mem::take(&mut lines.dropped) {
            0 => {}
            dropped => {
                taken.push(LogLine { level: Level::Warn, message: limits::LOG_LINES.says(dropped, 0) })
            }
        }
        taken
    }
}

impl Lines {
    fn push(&mut self, level: Level, message: &str) {
        let message = text::escape_and_truncate(message.trim_end(), self.line_bytes);
        if self.words.len() < WORDS && !message.is_empty() {
            let separator = if self.words.is_empty() { "" } else { " | " };
            self.words = text::truncate(&format!("{}{separator}{}", self.words, message.trim_start()), WORDS);
        }
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

impl WasiView for InstanceState {
    /// Returns the WASI context, made on first use: most guests import WASI and never call it.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        WasiCtxView { ctx: self.wasi.get_or_insert_with(|| inert(log)), table: &mut self.table }
    }
}

/// Returns WASI without access to anything: no files, environment, arguments or network. The clocks stand
/// still, random numbers are the same in every instance, and printed text goes to the policy's log.
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
        .max_random_size(limits::RANDOM_BYTES.default)
        .wall_clock(Still)
        .monotonic_clock(Still)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    builder.build()
}

/// Clock that stands still, at the beginning of 2026.
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

    /// Returns a time other than zero, because Go's runtime takes zero for a broken clock.
    fn now(&self) -> u64 {
        1_000_000_000
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
