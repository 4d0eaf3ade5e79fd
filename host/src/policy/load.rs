//! Loading of a policy. A component's bytes become native code, and the native code a [`Policy`]: checked
//! against the contract, configured once with its settings, and instantiated afresh for every review.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::Value;
use wasmtime::component::Component;

use super::capabilities::check_imports;
use super::compile::scan::{ScanError, scan};
use super::sandbox::bindings::ImagePolicyPre;
use super::sandbox::engine::Engine;
use super::sandbox::instance_state::InstanceState;
use super::sandbox::native::{NativeCode, digest};
use super::sandbox::{Context, Instance, SettingsError, StartError};
use super::stats::PolicyStats;
use super::world::{POLICY, check_header, check_world, other_host};
use crate::config::{Grants, PolicyLimits};
use crate::image::Image;
use crate::isolate::{self, Panicked};
use crate::limits;
use crate::review::verdict::{Decision, LogLine, Malfunction, agree};
use crate::text;

/// Reason why a component cannot be loaded as a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Component over the size limit: its size and the limit, in bytes.
    #[error("{}", limits::MODULE.says(.0, *.1))]
    TooLarge(u64, u64),
    /// Empty file.
    #[error("the file is empty: is it still being written?")]
    Empty,
    /// File of another format.
    #[error("the file is no WebAssembly: it does not begin with `\\0asm`")]
    NotWebAssembly,
    /// Core module instead of a component.
    #[error(
        "the file is a WebAssembly core module, not a component: make it one with \
         `host build MODULE -o POLICY.wasm`"
    )]
    CoreModule,
    /// Core module that is a policy for another host, with the name of that host.
    #[error(
        "the file is a policy for {0}, not a component of this host: build its rules against `wit/`, world \
            image-policy"
    )]
    OtherHost(&'static str),
    /// Component that is rejected by its bytes alone: over a limit, truncated, or with parts that are known
    /// only at instantiation.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Component that is truncated, damaged, or uses a feature that policies may not.
    #[error("the file is no valid component, or not all of it: {0}")]
    Invalid(String),
    /// Component of another world, with the names of its exports.
    #[error(
        "it is a component of another world: it does not export `{POLICY}`, but {0}; build it against \
            `wit/`, world image-policy"
    )]
    World(String),
    /// Import that is not granted.
    #[error(
        "it imports `{0}`, which this host does not grant: a policy may import image-policy:host/log and \
            WASI 0.2 without HTTP"
    )]
    Import(String),
    /// Exports or imports with the right names and wrong types.
    #[error("it does not fit the contract of {POLICY}: {0}; build it against this host's `wit/`")]
    Contract(String),
    /// Settings that `configure` rejected.
    #[error("its settings are refused: {}", settings_errors(.0))]
    Settings(Vec<SettingsError>),
    /// Malfunction before `configure` accepted or rejected the settings.
    #[error("it cannot be configured: {0}")]
    Configure(Malfunction),
    /// Compilation that is still in progress.
    #[error("it is still being compiled")]
    Compiling,
    /// Compilation over the time limit.
    #[error("{}", limits::PREPARE_TIME.says_of(*.0))]
    PrepareTime(Duration),
    /// Compilation over the memory limit, in bytes.
    #[error("{}", limits::PREPARE_MEMORY.says("", *.0))]
    PrepareMemory(u64),
    /// Compiling process that ended without a response.
    #[error("the process that compiled it {0}")]
    CompilerCrashed(String),
    /// Compiling process that was killed from outside, through no fault of the component.
    #[error(
        "the process that compiled it was killed ({0}): the kernel does that when memory is short; it is \
            tried again"
    )]
    CompilerKilled(String),
    /// Failure of the host itself.
    #[error("the host cannot compile it: {0}")]
    NotCompiled(String),
}

impl LoadError {
    /// Returns true if the same component may load on a retry.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            // A busy machine may have missed the deadline.
            LoadError::Configure(Malfunction::Deadline(_))
                | LoadError::Compiling
                | LoadError::CompilerKilled(_)
                | LoadError::NotCompiled(_)
        )
    }
}

fn settings_errors(errors: &[SettingsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Checks that a component is a policy. Settings play no part.
///
/// # Errors
/// Returns an error that describes the component's fault.
pub fn check(engine: &Engine, component: &[u8]) -> Result<(), LoadError> {
    check_front(component)?;
    let compiled = compile(engine, component)?;
    let component = compiled.load(engine).map_err(|error| LoadError::Invalid(in_one_line(&error)))?;
    link(engine, &component, &Grants::default()).map(|_| ())
}

/// Checks everything that needs no compilation: the component belongs to the world and is within the limits.
pub(super) fn check_front(component: &[u8]) -> Result<(), LoadError> {
    check_header(component).map_err(|error| match (&error, other_host(component)) {
        (LoadError::CoreModule, Some(host)) => LoadError::OtherHost(host),
        _ => error,
    })?;
    check_world(&scan(component)?)
}

/// Reason why a component did not become native code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompileError {
    /// Memory that the system refused to the compiler.
    #[error("the system has no memory left for the compiler")]
    Memory,
    /// Component that the compiler rejected.
    #[error("{0}")]
    Invalid(String),
    /// Panic of the compiler. The compiler has panicked on hostile input before, and wasmtime does not count
    /// such a panic as a vulnerability.
    #[error("the compiler panicked on it")]
    Panicked,
}

impl From<CompileError> for LoadError {
    fn from(error: CompileError) -> LoadError {
        match error {
            CompileError::Memory => LoadError::NotCompiled(error.to_string()),
            CompileError::Invalid(_) | CompileError::Panicked => LoadError::Invalid(error.to_string()),
        }
    }
}

/// Compiles a component that passed [`check_front`], without making any of its code executable. Linking finds
/// out later whether its functions have the contract's types.
pub(super) fn compile(engine: &Engine, component: &[u8]) -> Result<NativeCode, CompileError> {
    match isolate::run(|| engine.engine.precompile_component(component)) {
        Ok(Ok(code)) => Ok(NativeCode::trusted(code)),
        Ok(Err(error)) if is_out_of_memory(&error) => Err(CompileError::Memory),
        Ok(Err(error)) => Err(CompileError::Invalid(in_one_line(&error))),
        Err(Panicked) => Err(CompileError::Panicked),
    }
}

/// Returns whether the system refused memory, as wasmtime reports it: as an error of its own, of the system
/// call, or of the standard library.
fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime::error::OutOfMemory>()
        || error.downcast_ref() == Some(&rustix::io::Errno::NOMEM)
        || error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::OutOfMemory)
}

/// Reason why the instances of a policy are configured one by one, without a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Component or toolchain with which no snapshot can be taken.
    #[error("{0}")]
    Impossible(String),
    /// Failure to take or load the snapshot.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Malfunction of an instance that started from the snapshot or was configured for the comparison.
    #[error("{0}")]
    Malfunction(Malfunction),
    /// Snapshot that decides differently from a configured instance, with the image.
    #[error("an instance of it does not say the same of {0} as one that is configured")]
    Differs(&'static str),
    /// Snapshot from which instances start no faster, with both times.
    #[error("an instance of it starts no faster: in {0:?}, and in {1:?} when it is configured")]
    Slow(Duration, Duration),
    /// Panic while the snapshot was taken.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// Loaded policy. Every review starts a fresh instance of it.
pub struct Policy {
    engine: Engine,
    form: ArcSwap<Form>,
    /// Outcome of its snapshot; unset while undecided.
    snapshot: OnceLock<Result<(), SnapshotError>>,
    origin: Origin,
    log: Vec<LogLine>,
    stats: PolicyStats,
}

/// Everything besides native code with which a policy is loaded.
pub(super) struct Origin {
    /// SHA-256 of the component, in hexadecimal.
    pub(super) digest: String,
    /// Settings as JSON.
    pub(super) settings: String,
    /// Limits of its instances.
    pub(super) limits: PolicyLimits,
    /// Capabilities that it may import.
    pub(super) grants: Grants,
}

/// Linked component from which instances start.
struct Form {
    pre: ImagePolicyPre<InstanceState>,
    /// Whether instances begin in a configured state.
    configured: bool,
}

impl Policy {
    /// Compiles and loads a component in this process, without a limit on the cost. Use it only for a
    /// component that is known to be harmless. All others go through a [`Compiler`](super::Compiler).
    ///
    /// # Errors
    /// Returns the errors of [`Compiler::load`](super::Compiler::load).
    pub fn compile(
        engine: &Engine,
        component: &[u8],
        settings: &Value,
        limits: &PolicyLimits,
    ) -> Result<Policy, LoadError> {
        check_front(component)?;
        let compiled = compile(engine, component)?;
        let (digest, settings) = (digest(component), settings.to_string());
        let origin = Origin { digest, settings, limits: limits.clone(), grants: Grants::default() };
        Policy::configured_each_time(engine, &compiled, origin)
    }

    /// Links a compiled component and configures an instance once, to check that the policy accepts its
    /// settings.
    pub(super) fn configured_each_time(
        engine: &Engine,
        compiled: &NativeCode,
        origin: Origin,
    ) -> Result<Policy, LoadError> {
        let component = compiled.load(engine).map_err(|error| LoadError::Invalid(in_one_line(&error)))?;
        let pre = link(engine, &component, &origin.grants)?;
        let Origin { settings, limits, .. } = &origin;
        let mut instance =
            Instance::start(engine, &pre, Some(settings), limits, limits.deadline).map_err(|error| {
                match error {
                    StartError::Contract(how) => LoadError::Contract(how),
                    StartError::Settings(errors) => LoadError::Settings(errors),
                    StartError::Malfunction(malfunction) => LoadError::Configure(malfunction),
                }
            })?;
        let log = instance.take_log();
        let form = ArcSwap::from_pointee(Form { pre, configured: false });
        let (engine, snapshot) = (engine.clone(), OnceLock::new());
        Ok(Policy { engine, form, snapshot, origin, log, stats: PolicyStats::default() })
    }

    /// Links the compiled snapshot of a policy. `log` holds the lines that the policy wrote when it was
    /// configured.
    pub(super) fn of_snapshot(
        engine: &Engine,
        compiled: &NativeCode,
        origin: Origin,
        log: Vec<LogLine>,
    ) -> Result<Policy, LoadError> {
        let component = compiled.load(engine).map_err(|error| LoadError::Invalid(in_one_line(&error)))?;
        let pre = link(engine, &component, &origin.grants)?;
        let form = ArcSwap::from_pointee(Form { pre, configured: true });
        let (engine, snapshot) = (engine.clone(), OnceLock::from(Ok(())));
        Ok(Policy { engine, form, snapshot, origin, log, stats: PolicyStats::default() })
    }

    /// Returns the size of its native code in bytes, with everything that is mapped along with the code.
    pub(crate) fn native_bytes(&self) -> usize {
        let mapped = self.form.load().pre.instance_pre().component().image_range();
        (mapped.end as usize).saturating_sub(mapped.start as usize)
    }

    /// Replaces configuring each instance by a compiled snapshot, if instances then start faster.
    ///
    /// # Errors
    /// Returns the reason if the policy stays as it is: the snapshot does not link or start, decides
    /// differently on a typical image, or starts no faster.
    pub(super) fn adopt(&self, compiled: &NativeCode) -> Result<(), SnapshotError> {
        let component = compiled.load(&self.engine);
        let component = component.map_err(|error| SnapshotError::Impossible(in_one_line(&error)))?;
        let pre = link(&self.engine, &component, &self.origin.grants)?;
        let snapshot = Form { pre, configured: true };
        let before = self.form.load_full();
        let (mut fastest, mut fastest_before) = (Duration::MAX, Duration::MAX);
        for _ in 0..STARTS {
            fastest = fastest.min(self.time(&snapshot)?);
            fastest_before = fastest_before.min(self.time(&before)?);
        }
        for image in TYPICAL {
            if !agree(&self.ask(&snapshot, image), &self.ask(&before, image)) {
                return Err(SnapshotError::Differs(image));
            }
        }
        if fastest >= fastest_before {
            return Err(SnapshotError::Slow(fastest, fastest_before));
        }
        self.form.store(Arc::new(snapshot));
        Ok(())
    }

    /// Records the outcome of the snapshot.
    pub(super) fn decide_snapshot(&self, decision: Result<(), SnapshotError>) {
        // A second caller has prepared the same snapshot, so the first outcome stays.
        let _ = self.snapshot.set(decision);
    }

    /// Returns whether instances begin in a configured state, or the reason why they do not. Returns None
    /// while the snapshot is undecided.
    pub fn snapshot(&self) -> Option<Result<(), &SnapshotError>> {
        self.snapshot.get().map(|decision| decision.as_ref().copied())
    }

    fn time(&self, form: &Form) -> Result<Duration, SnapshotError> {
        let started = Instant::now();
        drop(self.start_as(form, self.origin.limits.deadline).map_err(SnapshotError::Malfunction)?);
        Ok(started.elapsed())
    }

    /// Evaluates an image with a fresh instance.
    fn ask(&self, form: &Form, image: &str) -> Result<Decision, Malfunction> {
        let image = Image::parse(image).map_err(|error| Malfunction::Trap(error.to_string()))?;
        let deadline = self.origin.limits.deadline;
        let mut instance = self.start_as(form, deadline)?;
        instance.evaluate(&image, &Context::new("default", &[]), deadline)
    }

    /// Returns the SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.origin.digest
    }

    /// Returns its settings, as JSON.
    pub fn settings(&self) -> &str {
        &self.origin.settings
    }

    /// Returns the log lines that the policy wrote when it was configured.
    pub fn load_log(&self) -> &[LogLine] {
        &self.log
    }

    /// Returns the statistics of the policy since it was loaded.
    pub fn stats(&self) -> &PolicyStats {
        &self.stats
    }

    /// Returns the limits of its instances.
    pub fn limits(&self) -> &PolicyLimits {
        &self.origin.limits
    }

    /// Returns the capabilities that it is granted.
    pub fn grants(&self) -> &Grants {
        &self.origin.grants
    }

    /// Starts a fresh, configured instance within `deadline`.
    pub(crate) fn start(&self, deadline: Duration) -> Result<Instance, Malfunction> {
        self.start_as(&self.form.load(), deadline)
    }

    fn start_as(&self, form: &Form, deadline: Duration) -> Result<Instance, Malfunction> {
        let settings = (!form.configured).then_some(self.origin.settings.as_str());
        Instance::start(&self.engine, &form.pre, settings, &self.origin.limits, deadline).map_err(|error| {
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

/// Images on which the snapshot and a configured instance must agree.
const TYPICAL: [&str; 4] = [
    "nginx",
    "ghcr.io/acme/app:1.2.3",
    "registry.k8s.io/pause@sha256:7031c1b283388d2c2e09b57badb803c05ebed362dc88d84b480cc47f72a21097",
    "localhost:5000/a/b/c:latest",
];

/// Starts of each form, to measure which form is faster.
const STARTS: usize = 10;

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("digest", &self.origin.digest).finish_non_exhaustive()
    }
}

/// Links a component, whose imports must all be granted to the policy.
fn link(
    engine: &Engine,
    component: &Component,
    grants: &Grants,
) -> Result<ImagePolicyPre<InstanceState>, LoadError> {
    let world = component.component_type();
    check_imports(world.imports(&engine.engine).map(|(name, _)| name), grants)?;
    let contract = |error| LoadError::Contract(in_one_line(&error));
    let linked = engine.linker.instantiate_pre(component).map_err(contract)?;
    ImagePolicyPre::new(linked).map_err(contract)
}

pub(super) fn in_one_line(error: &wasmtime::Error) -> String {
    text::truncate(&text::escape(&format!("{error:#}")), 512)
}
