//! The one wasmtime engine of the process: the features that policies may use, the functions that they link
//! to, and their clock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime::{CacheStore, Enabled, PoolingAllocationConfig, WasmFeatures};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::bindings::ImagePolicy;
use super::instance_state::InstanceState;
use crate::limits::{self, Limit};

/// Tick of the clock in which deadlines are counted.
const TICK: Duration = Duration::from_millis(1);

/// Bytes of a memory that stay mapped for the next instance in the same pool slot; the host zeroes them. The
/// value is above the use of policies in Rust and C. Without it each instance costs as many page faults as it
/// has pages.
const KEPT_MEMORY: usize = 1 << 20;
/// Bytes of a table that stay mapped likewise.
const KEPT_TABLE: usize = 64 << 10;
/// Limit on concurrent instances of all policies. Every review that may be evaluated concurrently can have
/// one.
pub(crate) const INSTANCES: u32 = 512;
/// Memories of all instances. Each takes 4 GiB of address space, so that no access needs a check.
const MEMORIES: u32 = 4 * INSTANCES;
/// Minimum number of pool slots kept warm: their memory stays mapped for the next instance of the same
/// policy. If more policies are in use, each instance is mapped afresh. Each slot may hold [`KEPT_MEMORY`].
/// Slots of replaced policies are reused only once this many exist, so this number also limits the memory
/// that swaps leave behind.
const WARM: u32 = 256;
/// Usual number of concurrent instances of one policy.
const WARM_EACH: usize = 2;
/// Core instances, and tables, of all instances. An instance from the largest toolchain has about forty.
const CORE_INSTANCES: u32 = 40 * INSTANCES;

/// Purpose of an engine. All engines compile alike and load each other's code, except those for
/// [`Purpose::Snapshot`] and [`Purpose::Count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Policies in force: instances come from a pool.
    Serve {
        /// Expected number of policies. With more of them reviews are slower but still correct.
        policies: usize,
    },
    /// Compiling and configuring once, in a process that ends afterwards.
    Compile,
    /// Compiling for an author, who waits: on all processors, in a process that ends afterwards. The code is
    /// the same.
    Author,
    /// Taking a snapshot, in a process that can open no descriptor. Other engines cannot load its code.
    Snapshot,
    /// Counting instructions.
    Count,
}

/// Engine with everything that a policy can be linked to.
#[derive(Clone)]
pub struct Engine {
    pub(in crate::policy) engine: wasmtime::Engine,
    pub(in crate::policy) linker: Linker<InstanceState>,
    /// Reason why instances do not come from a pool, if a pool was wanted.
    no_pool: Option<String>,
    /// Whether stores count instructions, by fuel.
    pub(in crate::policy) counts: bool,
}

/// Failure to make the engine on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start on this machine: {0}")]
pub struct EngineError(String);

impl From<wasmtime::Error> for EngineError {
    fn from(error: wasmtime::Error) -> Self {
        EngineError(format!("{error:#}"))
    }
}

impl Engine {
    /// Starts an engine and its clock, a thread that ends with the engine. If the address space is too small
    /// for the pool (an `ulimit -v`, some sandboxes), instances are made on demand, which is slower but
    /// equally safe.
    ///
    /// # Errors
    /// Returns an error if wasmtime does not compile for this machine, or if the machine refuses a thread.
    pub fn new(purpose: Purpose) -> Result<Engine, EngineError> {
        Engine::of(purpose, config(purpose))
    }

    /// Starts an engine for [`Purpose::Author`] that takes functions from `known`, and adds those that it
    /// compiles.
    pub(in crate::policy) fn for_author(known: Arc<dyn CacheStore>) -> Result<Engine, EngineError> {
        let mut config = config(Purpose::Author);
        config.enable_incremental_compilation(known)?;
        Engine::of(Purpose::Author, config)
    }

    fn of(purpose: Purpose, on_demand: wasmtime::Config) -> Result<Engine, EngineError> {
        let (engine, no_pool) = match purpose {
            Purpose::Serve { policies } => {
                match wasmtime::Engine::new(on_demand.clone().allocation_strategy(pool(policies))) {
                    Ok(engine) => (engine, None),
                    Err(error) => (wasmtime::Engine::new(&on_demand)?, Some(format!("{error:#}"))),
                }
            }
            Purpose::Compile | Purpose::Author | Purpose::Snapshot | Purpose::Count => {
                (wasmtime::Engine::new(&on_demand)?, None)
            }
        };
        let linker = linker(&engine)?;
        start_clock(&engine)?;
        Ok(Engine { engine, linker, no_pool, counts: purpose == Purpose::Count })
    }

    /// Returns the reason why instances are made on demand although a pool is wanted.
    pub fn no_pool(&self) -> Option<&str> {
        self.no_pool.as_deref()
    }

    /// Returns a hash that is equal for engines that can load each other's code.
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
        // An image of a memory needs a descriptor.
        .memory_init_cow(purpose != Purpose::Snapshot)
        // Calls are synchronous. Concurrency support would send each through machinery for concurrent tasks.
        .concurrency_support(false)
        // Multi-memory stays on: without it wasmtime 48 panics on components of several modules.
        .wasm_features(unused, false)
        // Results have the same bits on every machine, so that a decision can be replayed.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(limits::STACK.size())
        // The cost of registering unwind information grows with its amount, and nothing here unwinds through
        // policies.
        .native_unwind_info(false)
        // Compilation takes one thread and leaves the others to reviews.
        .parallel_compilation(purpose == Purpose::Author);
    config
}

/// Returns the configuration of the pool. PAGEMAP_SCAN stays off: before wasmtime 50 it does not reset pages
/// that were swapped out (<https://github.com/bytecodealliance/wasmtime/pull/14357>).
fn pool(policies: usize) -> PoolingAllocationConfig {
    let warm = u32::try_from(policies.saturating_mul(WARM_EACH)).unwrap_or(u32::MAX).clamp(WARM, MEMORIES);
    let each = |bound: Limit| u32::try_from(bound.default).unwrap_or(u32::MAX);
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
        // Every memory that a component can declare fits the pool. The policy's own limit rejects it, with a
        // figure.
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

/// Returns `duration` in clock ticks: its whole milliseconds, and one more because the first tick may be
/// partly over.
pub(in crate::policy) fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_millis() / TICK.as_millis();
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
}

/// Starts the clock on an operating system thread. A task of the runtime would stop with the runtime's
/// threads, which the clock has to interrupt.
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

/// Returns a linker with `log` and with WASI 0.2 without any access. Toolchains import WASI whether the
/// source needs it or not.
fn linker(engine: &wasmtime::Engine) -> Result<Linker<InstanceState>, EngineError> {
    let mut linker = Linker::new(engine);
    ImagePolicy::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut InstanceState| state)?;
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;

    // The clock that policies see stands still, so a wait would never end. Every wait is therefore over at
    // once. (A wait inside the host would also escape the deadline, which interrupts only WebAssembly.)
    linker.allow_shadowing(true);
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    for function in ["subscribe-duration", "subscribe-instant"] {
        clock.func_wrap(
            function,
            |mut store: wasmtime::StoreContextMut<'_, InstanceState>, (_,): (u64,)| {
                Ok((over_at_once(store.data_mut())?,))
            },
        )?;
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

fn over_at_once(state: &mut InstanceState) -> wasmtime::Result<Resource<DynPollable>> {
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
