//! The one wasmtime engine of the process: what policies may contain, what they are linked to, and their clock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime::{Enabled, PoolingAllocationConfig, WasmFeatures};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::bindings::ImagePolicy;
use super::store::State;
use crate::limits::{self, Bound};

/// The clock that deadlines are counted in ticks like this.
const TICK: Duration = Duration::from_millis(1);

/// Bytes of a memory that stay mapped for the next instance in its place, zeroed by the host: above what policies in
/// Rust and C use. Without it each instance costs as many page faults as it has pages.
const KEPT_MEMORY: usize = 1 << 20;
/// The same of a table.
const KEPT_TABLE: usize = 64 << 10;
/// Instances at a time, whatever their policies. As many reviews as may be evaluated at once have one each.
pub(crate) const INSTANCES: u32 = 512;
/// Memories of all instances: each takes 4 GiB of address space, so that no access has to be checked.
const MEMORIES: u32 = 4 * INSTANCES;
/// Places, at least, that keep what they have mapped for the next instance of the same policy. With more policies in use
/// than that each instance is mapped anew; each may hold [`KEPT_MEMORY`]. The place of a policy that was replaced is taken
/// again only when there are as many as this, so it bounds what swaps leave behind.
const WARM: u32 = 256;
/// Of one policy so many instances run at a time, as a rule.
const WARM_EACH: usize = 2;
/// Core instances and tables of all instances; those of the largest toolchain have about forty.
const CORE_INSTANCES: u32 = 40 * INSTANCES;

/// What an engine is for. All compile alike: what one compiles the others load, but for [`Purpose::Snapshot`] and
/// [`Purpose::Count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Policies in force, of which so many are expected: instances come out of a pool.
    Serve {
        /// With more of them reviews are slower, and as right.
        policies: usize,
    },
    /// Compiling and configuring once, in a process that ends afterwards.
    Prepare,
    /// Taking a snapshot, in a process that can open no descriptor. Others cannot load what this one compiles.
    Snapshot,
    /// Counting instructions.
    Count,
}

/// The engine with everything that a policy can be linked to.
#[derive(Clone)]
pub struct Engine {
    pub(in crate::policy) engine: wasmtime::Engine,
    pub(in crate::policy) linker: Linker<State>,
    /// Why there is no pool that instances come out of.
    no_pool: Option<String>,
    /// Stores count instructions, by fuel.
    pub(in crate::policy) counts: bool,
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
    /// Starts an engine and its clock, a thread that ends with it. Where there is too little address space for the pool
    /// (an `ulimit -v`, some sandboxes), instances are made on demand, which is slower and as safe.
    ///
    /// # Errors
    /// The machine is none that wasmtime compiles for, or refuses a thread.
    pub fn new(purpose: Purpose) -> Result<Engine, EngineError> {
        let on_demand = config(purpose);
        let (engine, no_pool) = match purpose {
            Purpose::Serve { policies } => {
                match wasmtime::Engine::new(on_demand.clone().allocation_strategy(pool(policies))) {
                    Ok(engine) => (engine, None),
                    Err(error) => (wasmtime::Engine::new(&on_demand)?, Some(format!("{error:#}"))),
                }
            }
            Purpose::Prepare | Purpose::Snapshot | Purpose::Count => {
                (wasmtime::Engine::new(&on_demand)?, None)
            }
        };
        let linker = linker(&engine)?;
        start_clock(&engine)?;
        Ok(Engine { engine, linker, no_pool, counts: purpose == Purpose::Count })
    }

    /// Returns why instances are made on demand although a pool is wanted.
    pub fn no_pool(&self) -> Option<&str> {
        self.no_pool.as_deref()
    }

    /// The same for engines that can load what each other compiles.
    pub(in crate::policy) fn compatibility(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }
}

fn config(purpose: Purpose) -> wasmtime::Config {
    let unused = WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::GC
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_ASYNC_STACKFUL
        | WasmFeatures::CM_MORE_ASYNC_BUILTINS
        | WasmFeatures::CM_THREADING
        | WasmFeatures::CM_ERROR_CONTEXT
        | WasmFeatures::CM_GC;
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(purpose == Purpose::Count)
        // An image of a memory is a descriptor.
        .memory_init_cow(purpose != Purpose::Snapshot)
        // Calls are synchronous: without this each crosses machinery for concurrent tasks.
        .concurrency_support(false)
        // Not multi-memory, whose absence makes wasmtime 48 panic on components of several modules.
        .wasm_features(unused, false)
        // The same bits on every machine, so that a decision can be replayed.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(limits::STACK.size())
        // Registering unwind information costs more the more is registered, and nothing here unwinds through policies.
        .native_unwind_info(false)
        // One thread compiles, so that the others serve.
        .parallel_compilation(false);
    config
}

/// PAGEMAP_SCAN stays off: before wasmtime 50 it does not reset pages that were swapped out
/// (<https://github.com/bytecodealliance/wasmtime/pull/14357>).
fn pool(policies: usize) -> PoolingAllocationConfig {
    let warm = u32::try_from(policies.saturating_mul(WARM_EACH)).unwrap_or(u32::MAX).clamp(WARM, MEMORIES);
    let each = |bound: Bound| u32::try_from(bound.default).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .max_component_instance_size(8 << 20)
        .max_core_instances_per_component(each(limits::CORE_INSTANCES))
        .max_memories_per_component(each(limits::MEMORIES))
        .max_tables_per_component(each(limits::TABLES))
        .total_core_instances(CORE_INSTANCES)
        .max_core_instance_size(8 << 20)
        .total_memories(MEMORIES)
        .max_memories_per_module(each(limits::MEMORIES))
        // Any that a component can declare: a policy's own limit says no, with its figure.
        .max_memory_size(1 << 32)
        .total_tables(CORE_INSTANCES)
        .max_tables_per_module(each(limits::TABLES))
        .table_elements(limits::TABLE_ELEMENTS.size())
        .total_stacks(0)
        .max_unused_warm_slots(warm)
        .linear_memory_keep_resident(KEPT_MEMORY)
        .table_keep_resident(KEPT_TABLE)
        .pagemap_scan(Enabled::No);
    pool
}

/// Whole ticks of the clock that are no shorter than `duration`.
pub(in crate::policy) fn ticks(duration: Duration) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_no_stacks_and_resets_every_page() {
        let pool = pool(1);
        assert_eq!(pool.get_total_stacks(), 0);
        assert!(matches!(pool.get_pagemap_scan(), Enabled::No));
    }
}
