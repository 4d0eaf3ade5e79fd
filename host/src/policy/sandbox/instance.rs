//! Instances of a policy: starting, configuring and evaluating, and messages for malfunctions.

use std::time::Duration;

use wasmtime::{Store, Trap};

use super::bindings::exports::image_policy::host::policy as wire;
use super::bindings::image_policy::host::types;
use super::bindings::{ImagePolicy, ImagePolicyPre};
use super::engine::{Engine, ticks};
use super::instance_state::InstanceState;
use crate::config::PolicyLimits;
use crate::config::yaml::Location;
use crate::image::Image;
use crate::isolate::{self, Panicked};
use crate::limits;
use crate::review::verdict::{Decision, LogLine, Malfunction, Outcome};
use crate::text;

const LIST: usize = limits::LIST.size();
const TEXT_BYTES: usize = limits::TEXT.size();
const CODE_BYTES: usize = limits::CODE.size();

/// Running instance of a policy. An instance is of no use after a malfunction.
pub(crate) struct Instance {
    store: Store<InstanceState>,
    bindings: ImagePolicy,
    limits: PolicyLimits,
}

/// Error in a policy's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// RFC 6901 JSON Pointer into the settings.
    pub pointer: String,
    /// Description of the error and of the expected value.
    pub message: String,
    /// Place in the string at `pointer`; None if the whole value is meant.
    pub position: Option<Location>,
}

impl SettingsError {
    /// Takes an error over from the guest. A guest that counts from 0 means the beginning.
    fn of(error: types::SettingsError) -> SettingsError {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).max(1);
        let position = error.position.map(|types::TextPosition { line, column }| Location {
            line: count(line),
            column: count(column),
        });
        SettingsError { pointer: bounded(&error.pointer), message: bounded(&error.message), position }
    }
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.position, self.pointer.as_str()) {
            (None, "") => {}
            (None, pointer) => write!(f, "{pointer}: ")?,
            (Some(at), "") => write!(f, "{}: ", at.in_words())?,
            (Some(at), pointer) => write!(f, "{} of the text at {pointer}: ", at.in_words())?,
        }
        f.write_str(&self.message)
    }
}

/// Reason why an instance did not start.
pub(in crate::policy) enum StartError {
    /// Functions with the right names and wrong types.
    Contract(String),
    /// Settings that `configure` rejected.
    Settings(Vec<SettingsError>),
    /// Malfunction before `configure` accepted or rejected the settings.
    Malfunction(Malfunction),
}

impl Instance {
    /// Starts an instance within `deadline`, and configures it with `settings` if there are any.
    pub(in crate::policy) fn start(
        engine: &Engine,
        policy: &ImagePolicyPre<InstanceState>,
        settings: Option<&str>,
        limits: &PolicyLimits,
        deadline: Duration,
    ) -> Result<Instance, StartError> {
        let mut store = Store::new(&engine.engine, InstanceState::new(limits));
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(usize::try_from(limits.result).unwrap_or(usize::MAX));
        store.set_max_component_handles(limits::HANDLES.size());
        store.set_epoch_deadline(ticks(deadline));
        if engine.counts {
            let fuelled = store.set_fuel(u64::MAX).map_err(|error| Malfunction::Trap(error.to_string()));
            fuelled.map_err(StartError::Malfunction)?;
        }

        let bindings =
            guarded(|| policy.instantiate(&mut store)).map_err(|error| match wrong_type(&error) {
                Some(how) => StartError::Contract(how),
                None => StartError::Malfunction(malfunction(error, &store, limits, deadline)),
            })?;
        let mut instance = Instance { store, bindings, limits: limits.clone() };
        let Some(settings) = settings else { return Ok(instance) };

        let Instance { store, bindings, .. } = &mut instance;
        let answer = guarded(|| bindings.image_policy_host_policy().call_configure(store, settings));
        match answer {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(errors)) => {
                Err(StartError::Settings(errors.into_iter().take(LIST).map(SettingsError::of).collect()))
            }
            Err(error) => Err(StartError::Malfunction(malfunction(error, &instance.store, limits, deadline))),
        }
    }

    /// Evaluates one image within `deadline`.
    pub(crate) fn evaluate(
        &mut self,
        image: &Image,
        context: &Context<'_>,
        deadline: Duration,
    ) -> Result<Decision, Malfunction> {
        self.store.set_epoch_deadline(ticks(deadline));
        let memory = &mut self.store.data_mut().memory;
        (memory.refused, memory.elements_refused) = (false, false);
        let image = types::Image {
            original: &image.original,
            registry: &image.registry,
            repository: &image.repository,
            tag: image.tag.as_deref(),
            digest: image.digest.as_deref(),
        };
        let Instance { store, bindings, limits } = self;
        let policy = bindings.image_policy_host_policy();
        match guarded(|| policy.call_evaluate(&mut *store, image, context.wire())) {
            Ok(Ok(decision)) => checked(decision),
            // A language's runtime that makes an exception of the refused memory does not say which limit it
            // hit.
            Ok(Err(_)) if store.data().memory.refused => Err(Malfunction::Memory(limits.memory)),
            Ok(Err(message)) => Err(Malfunction::Reported(bounded(&message))),
            Err(error) => Err(malfunction(error, store, limits, deadline)),
        }
    }

    /// Forgets the log so far and accepts `room` more lines. The lines of `configure` were recorded when the
    /// policy was loaded. The limit belongs to a review, whose earlier images may have used other instances.
    pub(crate) fn begin_log(&mut self, room: u32) {
        self.store.data_mut().log.begin(room);
    }

    /// Returns the number of lines that the instance may still log.
    pub(crate) fn log_room(&self) -> u32 {
        self.store.data().log.room()
    }

    /// Returns the number of instructions since the instance started. Returns None if its engine does not
    /// count.
    pub(crate) fn instructions(&self) -> Option<u64> {
        self.store.get_fuel().ok().map(|left| u64::MAX - left)
    }

    /// Returns the size of all its memories, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().memory.used
    }

    /// Returns the lines that the instance has logged since the last call.
    pub(crate) fn take_log(&mut self) -> Vec<LogLine> {
        self.store.data_mut().log.take()
    }
}

/// Context that all images of a review share, in the contract's form.
pub(crate) struct Context<'a> {
    namespace: &'a str,
    annotations: Vec<(&'a str, &'a str)>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(namespace: &'a str, annotations: &'a [(String, String)]) -> Context<'a> {
        let annotations = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Context { namespace, annotations }
    }

    fn wire(&self) -> types::Context<'_> {
        types::Context { namespace: self.namespace, annotations: &self.annotations }
    }
}

/// Runs a call. A panic in the host's own code below the call fails this call alone.
fn guarded<T>(call: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<T> {
    isolate::run(call).unwrap_or_else(|Panicked| Err(wasmtime::Error::msg("the host panicked in this call")))
}

/// Describes how `configure` or `evaluate` differs from the contract, which the bindings check only at
/// instantiation. Returns None for other errors.
fn wrong_type(error: &wasmtime::Error) -> Option<String> {
    // wasmtime 48 has no type for this error (runtime/component/instance.rs).
    let mut causes = error.chain().map(ToString::to_string);
    let how = || bounded(&format!("`configure` or `evaluate` has another type: {}", error.root_cause()));
    causes.any(|cause| cause == "failed to convert function to given type").then(how)
}

/// Describes a failed call for the reader of the denial: the exceeded limit with its figure, or the guest's
/// action.
fn malfunction(
    error: wasmtime::Error,
    store: &Store<InstanceState>,
    limits: &PolicyLimits,
    deadline: Duration,
) -> Malfunction {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Malfunction::Deadline(deadline),
        // A guest whose allocation was refused usually traps on the next instruction.
        _ if store.data().memory.refused => return Malfunction::Memory(limits.memory),
        _ if store.data().memory.elements_refused => {
            return Malfunction::Trap(format!(
                "its tables need more elements than the limit of {}",
                limits::TABLE_ELEMENTS.default
            ));
        }
        _ => {}
    }
    // Panics, exceptions and failed assertions write their cause to standard error.
    let words = store.data().log.words();
    let with_words = |what: &str| match words.as_str() {
        "" => Malfunction::Trap(bounded(what)),
        words => Malfunction::Trap(bounded(&format!("{what} (it wrote: {words})"))),
    };
    match error.downcast_ref::<Trap>() {
        // Programs in every language end with this trap when they give up.
        Some(Trap::UnreachableCodeReached) => return with_words("it panicked or aborted"),
        Some(trap) => return with_words(&trap.to_string()),
        None => {}
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Malfunction::Trap(format!("the host has no place left for an instance of it: {error}"));
    }
    let cause = error.root_cause().to_string();
    // wasmtime 48 keeps this error's type private (runtime/component/func/options.rs).
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        return Malfunction::Result(limits.result);
    }
    // The first text is for the host's resources, the second for the component's own.
    if ["resource table has no free keys", "store handle limit exceeded"]
        .iter()
        .any(|full| cause.contains(full))
    {
        return Malfunction::Trap(format!(
            "it holds more handles to resources than the limit of {}",
            limits::HANDLES.default
        ));
    }
    with_words(&cause)
}

fn checked(decision: wire::Decision) -> Result<Decision, Malfunction> {
    let wire::Decision { outcome, code, reason, audit_annotations, warnings } = decision;
    if !Decision::is_code(&code) {
        let code = text::escape_and_truncate(&code, CODE_BYTES);
        return Err(Malfunction::Contract(limits::CODE.says(code, limits::CODE.default)));
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
            .map(|(key, value)| (text::truncate(&key, CODE_BYTES), bounded(&value)))
            .collect(),
        warnings: warnings.iter().take(LIST).map(|warning| bounded(warning)).collect(),
    })
}

/// Returns a guest's text, escaped and cut for display.
fn bounded(text: &str) -> String {
    text::escape_and_truncate(text, TEXT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_error_names_its_place() {
        let at = Some(Location { line: 2, column: 7 });
        for (pointer, position, expected) in [
            ("", None, "wrong"),
            ("/rules", None, "/rules: wrong"),
            ("/rules", at, "line 2, column 7 of the text at /rules: wrong"),
            ("", at, "line 2, column 7: wrong"),
        ] {
            let error = SettingsError { pointer: pointer.to_owned(), message: "wrong".to_owned(), position };
            assert_eq!(error.to_string(), expected);
        }
    }
}
