//! Snapshot of a configured instance as a component, so that later instances need not be configured.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmparser::{CanonicalFunction, Parser, Payload};
use wasmtime::Store;
use wasmtime::component::{Component, Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use crate::config::PolicyLimits;
use crate::policy::sandbox::bindings::ImagePolicy;
use crate::policy::sandbox::engine::{Engine, ticks};
use crate::policy::sandbox::instance_state::InstanceState;

/// Memory of the functions that read the state, in addition to the policy's own: two pages, in bytes.
const ACCESS_BYTES: u64 = 2 * 64 * 1024;

/// Runs `configure` with `settings`, and returns the component whose instances begin in the resulting state.
///
/// # Errors
/// Returns an error if `configure` fails, or if the toolchain does something that a snapshot cannot hold.
pub(in crate::policy) fn snapshot(
    engine: &Engine,
    component: &[u8],
    settings: &str,
    limits: &PolicyLimits,
) -> wasmtime::Result<Vec<u8>> {
    refuse_own_resources(component)?;
    let wizer = Wizer::new();
    let (context, instrumented) = wizer.instrument_component(component)?;
    let compiled = Component::from_binary(&engine.engine, &instrumented)?;

    let limits = PolicyLimits { memory: limits.memory.saturating_add(ACCESS_BYTES), ..limits.clone() };
    let mut store = Store::new(&engine.engine, InstanceState::new(&limits));
    store.limiter(|state| &mut state.memory);
    store.set_epoch_deadline(ticks(limits.deadline));
    let instance = engine.linker.instantiate(&mut store, &compiled)?;
    let policy = ImagePolicy::new(&mut store, &instance)?;
    let configured = policy.image_policy_host_policy().call_configure(&mut store, settings)?;
    if configured.is_err() {
        wasmtime::bail!("`configure` refused the settings that it had taken before");
    }
    // A handle is an index into a table of the host, which a component cannot hold.
    if !store.data().table.is_empty() {
        wasmtime::bail!(
            "it holds a WASI handle after `configure`: it, or its language's runtime, has printed something \
                or looked at the environment"
        );
    }

    // Reading the state is the host's work, so the policy's deadline does not apply.
    store.set_epoch_deadline(u64::MAX / 2);
    let mut reader = Reader { store, instance, failed: None };
    let snapshot = {
        let reading = pin!(wizer.snapshot_component(&context, &mut reader));
        // The functions of `Reader` never wait.
        match reading.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(snapshot) => snapshot?,
            Poll::Pending => wasmtime::bail!("reading the state of an instance did not come to an end"),
        }
    };
    match reader.failed {
        Some(error) => Err(error),
        None => Ok(snapshot),
    }
}

/// Rejects a component that makes resources of its own. Their handles live in tables of the host too, which
/// the check for WASI handles does not cover.
fn refuse_own_resources(component: &[u8]) -> wasmtime::Result<()> {
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ComponentCanonicalSection(functions) = payload? {
            for function in functions {
                if let CanonicalFunction::ResourceNew { .. } = function? {
                    wasmtime::bail!("it makes resources of its own, whose handles a snapshot does not hold");
                }
            }
        }
    }
    Ok(())
}

/// Caller of the functions that the instrumented component exports for reading its state.
struct Reader {
    store: Store<InstanceState>,
    instance: Instance,
    failed: Option<wasmtime::Error>,
}

impl Reader {
    fn call<T: Lift + Send + Sync + 'static>(&mut self, instance: &str, function: &str) -> Option<T> {
        let call = || -> wasmtime::Result<T> {
            let missing = || wasmtime::format_err!("the instrumented component lacks {instance}#{function}");
            let (_, exported) =
                self.instance.get_export(&mut self.store, None, instance).ok_or_else(missing)?;
            let (_, exported) =
                self.instance.get_export(&mut self.store, Some(&exported), function).ok_or_else(missing)?;
            let function = self.instance.get_typed_func::<(), (T,)>(&mut self.store, exported)?;
            Ok(function.call(&mut self.store, ())?.0)
        };
        let mut call = call;
        call().map_err(|error| self.failed = Some(error)).ok()
    }
}

impl ComponentInstanceState for Reader {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        match self.call::<WasmList<u8>>(instance, func) {
            Some(list) => contents(list.as_le_slice(&self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func).unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func).unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call::<f32>(instance, func).unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call::<f64>(instance, func).unwrap_or_default().to_bits()
    }
}
