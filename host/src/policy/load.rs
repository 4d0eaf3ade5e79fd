//! From the bytes of a component to a [`Policy`], in two steps that need not run in the same process: [`prepare`]
//! does all that a hostile component could make expensive, and gives an [`Artifact`]; [`Policy::load`] takes that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::bindings::ImagePolicyPre;
use super::engine::Engine;
use super::sandbox::{Instance, SettingsError, StartError};
use super::scan::{ScanError, World, scan};
use super::store::State;
use crate::bounds;
use crate::config::PolicyLimits;
use crate::text;
use crate::verdict::{LogLine, Malfunction};

/// The interface that a policy exports.
const POLICY: &str = "image-policy:host/policy@0.1.0";
/// What every policy may import: the types hold no function, and the log carries nothing in.
const GRANTED: [&str; 2] = ["image-policy:host/types@0.1.0", "image-policy:host/log@0.1.0"];
/// Packages of WASI 0.2 that are satisfied without access to anything.
const INERT: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Why a component is no policy that can be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Longer than the limit, in bytes.
    #[error("{}", bounds::MODULE.says(.0, *.1))]
    TooLarge(u64, u64),
    /// Nothing in it.
    #[error("the file is empty: is it still being written?")]
    Empty,
    /// Another format.
    #[error("the file is no WebAssembly: it does not begin with `\\0asm`")]
    NotWebAssembly,
    /// A core module.
    #[error(
        "the file is a WebAssembly core module, not a component: make it one with \
         `host build MODULE -o POLICY.wasm`"
    )]
    CoreModule,
    /// Over a bound, or truncated: refused by its bytes alone.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Truncated, damaged, or using a feature that policies may not.
    #[error("the file is no valid component, or not all of it: {0}")]
    Invalid(String),
    /// A component of another world.
    #[error(
        "it is a component of another world: it does not export `{POLICY}`, but {0}; build it against `wit/`, world image-policy"
    )]
    World(String),
    /// An import that is not granted.
    #[error(
        "it imports `{0}`, which this host does not grant: a policy may import image-policy:host/log and WASI 0.2 \
         without HTTP"
    )]
    Import(String),
    /// Its exports or imports have the right names and other types.
    #[error("it does not fit the contract of {POLICY}: {0}; build it against this host's `wit/`")]
    Contract(String),
    /// `configure` refused the settings.
    #[error("its settings are refused: {}", settings_errors(.0))]
    Settings(Vec<SettingsError>),
    /// It failed before it could say what it thinks of the settings.
    #[error("it cannot be configured: {0}")]
    Configure(Malfunction),
}

fn settings_errors(errors: &[SettingsError]) -> String {
    let lines: Vec<_> = errors
        .iter()
        .map(|error| match error.pointer.as_str() {
            "" => error.message.clone(),
            pointer => format!("{pointer}: {}", error.message),
        })
        .collect();
    lines.join("; ")
}

/// A component that was compiled, checked against the contract and configured once with its settings.
///
/// Only [`prepare`] makes one: that is what [`Policy::load`] relies on.
pub struct Artifact {
    compiled: Vec<u8>,
    settings: String,
    limits: PolicyLimits,
    digest: String,
    log: Vec<LogLine>,
}

/// Compiles a component, checks that it is a policy and that it takes its settings.
///
/// # Errors
/// [`LoadError`]: the component or its settings are at fault, never the host.
pub fn prepare(
    engine: &Engine,
    component: &[u8],
    settings: &Value,
    limits: &PolicyLimits,
) -> Result<Artifact, LoadError> {
    let (compiled, policy) = compile(engine, component)?;
    let settings = settings.to_string();
    let mut instance = Instance::start(engine, &policy, &settings, limits, limits.deadline).map_err(
        |error| match error {
            StartError::Contract(how) => LoadError::Contract(how),
            StartError::Settings(errors) => LoadError::Settings(errors),
            StartError::Malfunction(malfunction) => LoadError::Configure(malfunction),
        },
    )?;
    Ok(Artifact {
        compiled: compiled.serialize().map_err(|error| LoadError::Invalid(in_one_line(&error)))?,
        settings,
        limits: limits.clone(),
        digest: digest(component),
        log: instance.take_log(),
    })
}

/// Checks that a component is a policy, whatever settings it takes.
///
/// # Errors
/// As [`prepare`].
pub fn check(engine: &Engine, component: &[u8]) -> Result<(), LoadError> {
    compile(engine, component).map(|_| ())
}

fn compile(engine: &Engine, component: &[u8]) -> Result<(Component, ImagePolicyPre<State>), LoadError> {
    check_header(component)?;
    check_world(&scan(component)?)?;
    // The compiler has panicked on hostile input before, which wasmtime does not count as a vulnerability.
    let compiled = catch_unwind(AssertUnwindSafe(|| Component::from_binary(&engine.engine, component)))
        .map_err(|_| LoadError::Invalid("the compiler panicked on it".to_owned()))?
        .map_err(|error| LoadError::Invalid(in_one_line(&error)))?;
    let policy = link(engine, &compiled)?;
    Ok((compiled, policy))
}

/// A loaded policy: every review starts a fresh instance of it.
pub struct Policy {
    engine: Engine,
    pre: ImagePolicyPre<State>,
    settings: String,
    limits: PolicyLimits,
    digest: String,
    log: Vec<LogLine>,
}

impl Policy {
    /// Takes what [`prepare`] made.
    ///
    /// # Errors
    /// The artifact was made by an engine with other settings.
    pub fn load(engine: &Engine, artifact: Artifact) -> Result<Policy, LoadError> {
        let component = compiled_component(engine, &artifact)?;
        let pre = link(engine, &component)?;
        let Artifact { compiled: _, settings, limits, digest, log } = artifact;
        Ok(Policy { engine: engine.clone(), pre, settings, limits, digest, log })
    }

    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its settings, as JSON.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// What it wrote to its log when it was configured.
    pub fn load_log(&self) -> &[LogLine] {
        &self.log
    }

    /// Bounds that its instances keep.
    pub fn limits(&self) -> &PolicyLimits {
        &self.limits
    }

    /// A fresh instance, configured, within `deadline`.
    pub(crate) fn start(&self, deadline: std::time::Duration) -> Result<Instance, Malfunction> {
        Instance::start(&self.engine, &self.pre, &self.settings, &self.limits, deadline).map_err(|error| {
            match error {
                StartError::Malfunction(malfunction) => malfunction,
                StartError::Contract(how) => Malfunction::Contract(how),
                StartError::Settings(errors) => Malfunction::Contract(format!(
                    "`configure` refused settings that it had taken when it was loaded: {}",
                    settings_errors(&errors)
                )),
            }
        })
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[expect(
    unsafe_code,
    reason = "wasmtime executes what it deserialises without checking it. An Artifact's fields are private to this \
              module and only `prepare` fills them, with the output of `Component::serialize` in this process: \
              https://docs.rs/wasmtime/48/wasmtime/component/struct.Component.html#method.deserialize"
)]
fn compiled_component(engine: &Engine, artifact: &Artifact) -> Result<Component, LoadError> {
    // SAFETY: see the reason above.
    unsafe { Component::deserialize(&engine.engine, &artifact.compiled) }
        .map_err(|error| LoadError::Invalid(in_one_line(&error)))
}

/// SHA-256 of `bytes`, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    // The preamble: magic, version and layer (component-model/design/mvp/Binary.md). Version 1 in layer 0 is a module.
    match bytes {
        [] => Err(LoadError::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWebAssembly),
    }
}

fn check_world(world: &World<'_>) -> Result<(), LoadError> {
    let shown = |name: &str| text::cut(&text::printable(name), 128);
    if !world.exports.contains(&POLICY) {
        let exported = match world.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => {
                names.iter().take(8).map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ")
            }
        };
        return Err(LoadError::World(exported));
    }
    let granted =
        |name: &str| GRANTED.contains(&name) || INERT.iter().any(|package| name.starts_with(package));
    match world.imports.iter().find(|name| !granted(name)) {
        Some(name) => Err(LoadError::Import(shown(name))),
        None => Ok(()),
    }
}

fn link(engine: &Engine, component: &Component) -> Result<ImagePolicyPre<State>, LoadError> {
    let contract = |error| LoadError::Contract(in_one_line(&error));
    let linked = engine.linker.instantiate_pre(component).map_err(contract)?;
    ImagePolicyPre::new(linked).map_err(contract)
}

fn in_one_line(error: &wasmtime::Error) -> String {
    text::cut(&text::printable(&format!("{error:#}")), 512)
}
