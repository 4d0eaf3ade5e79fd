//! The one wasmtime engine of the process: what policies may contain, what they are linked to, and their clock.

use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::bindings::ImagePolicy;
use super::store::State;
use crate::bounds;

/// The clock that deadlines are counted in ticks like this.
const TICK: Duration = Duration::from_millis(1);

/// The engine with everything that a policy can be linked to.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Linker<State>,
}

/// The engine could not be made on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start on this machine: {0}")]
pub struct EngineError(String);

impl From<wasmtime::Error> for EngineError {
    fn from(error: wasmtime::Error) -> Self {
        EngineError(format!("{error:#}"))
    }
}

impl Engine {
    /// Starts the engine and its clock, a thread that ends with it.
    ///
    /// # Errors
    /// The machine is none that wasmtime compiles for, or refuses a thread.
    pub fn new() -> Result<Engine, EngineError> {
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(bounds::STACK.size())
            // Calls are synchronous: without this each crosses machinery for concurrent tasks.
            .concurrency_support(false)
            // The same bits on every machine, so that a decision can be replayed.
            .cranelift_nan_canonicalization(true)
            .relaxed_simd_deterministic(true)
            .wasm_memory64(false);
        let engine = wasmtime::Engine::new(&config)?;
        let linker = linker(&engine)?;
        start_clock(&engine)?;
        Ok(Engine { engine, linker })
    }
}

/// Whole ticks of the clock that are no shorter than `duration`.
pub(super) fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_millis() / TICK.as_millis();
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
}

/// An operating system thread, because a task of the runtime would stop with the runtime's threads, which are what it
/// has to interrupt.
fn start_clock(engine: &wasmtime::Engine) -> Result<(), EngineError> {
    let engine = engine.weak();
    let clock = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("policy-clock".to_owned())
        .spawn(clock)
        .map_err(|error| EngineError(format!("no thread for the policies' clock: {error}")))?;
    Ok(())
}

/// `log`, and WASI 0.2 without any access: toolchains import it whether the source needs it or not.
fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>, EngineError> {
    let mut linker = Linker::new(engine);
    ImagePolicy::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state)?;
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;

    // The clock that policies see stands still, so a wait would never end: it is over at once. (A wait inside the host
    // would also escape the deadline, which interrupts only WebAssembly.)
    linker.allow_shadowing(true);
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    for function in ["subscribe-duration", "subscribe-instant"] {
        clock.func_wrap(function, |mut store: wasmtime::StoreContextMut<'_, State>, (_,): (u64,)| {
            Ok((over_at_once(store.data_mut())?,))
        })?;
    }
    linker.allow_shadowing(false);
    Ok(linker)
}

const MONOTONIC_CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";

struct Over;

#[wasmtime_wasi::async_trait]
impl Pollable for Over {
    async fn ready(&mut self) {}
}

fn over_at_once(state: &mut State) -> wasmtime::Result<Resource<DynPollable>> {
    let over = state.table.push(Over)?;
    subscribe(&mut state.table, over)
}
