//! A guest: built, loaded as the host loads it, and asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::config::{HostLimits, Placement, PolicyLimits, PolicyName, Rules};
use host::evaluate::{Facts, Instances, Options, evaluate};
use host::policy::{Cache, Compiler, Component, Engine, Entry, LoadError, Policy, PolicySet, Purpose};
use host::review::Review;
use host::review::verdict::Said;
use serde_json::Value;

/// The folder of this package.
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Cargo's target folder, wherever it was put.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// The program that compiles policies: that of HOST_BIN, or built first.
fn host() -> PathBuf {
    if let Some(path) = std::env::var_os("HOST_BIN") {
        return path.into();
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "host", "--bin", "host", "--target-dir"])
        .arg(target())
        .current_dir(PACKAGE)
        .status()
        .unwrap();
    assert!(built.success(), "`cargo build -p host` failed ({built}); what it says is above");
    target().join("debug/host")
}

/// Returns the component that `toolchains` makes of a guest: `guests/NAME.wasm` in Cargo's target folder.
fn component(name: &str) -> PathBuf {
    let built = Command::new(Path::new(PACKAGE).join("toolchains"))
        .arg(name)
        .env("CARGO_TARGET_DIR", target())
        .env("HOST_BIN", host())
        .status()
        .unwrap();
    assert!(built.success(), "`tests/guests/toolchains {name}` failed ({built}); what it says is above");
    target().join("guests").join(name).with_extension("wasm")
}

/// A component that was built, and what makes policies of it.
pub(crate) struct Guest {
    name: &'static str,
    component: Component,
    compiler: Compiler,
}

impl Guest {
    /// Built first, where it is not of these sources. Nothing is known of it yet, and snapshots are taken
    /// when asked for.
    pub(crate) fn new(name: &'static str) -> Guest {
        let engine = Engine::new(Purpose::Serve { policies: 1 }).unwrap();
        let cache = Cache::temporary(1 << 30).unwrap();
        let compiler = Compiler::new(engine, cache, host(), false).unwrap();
        Guest { name, component: Component::new(std::fs::read(component(name)).unwrap()), compiler }
    }

    /// Loaded with `settings`.
    pub(crate) fn load(&self, settings: &Value) -> Result<Arc<Policy>, LoadError> {
        let limits =
            PolicyLimits { deadline: Duration::from_secs(1), memory: 64 << 20, ..PolicyLimits::default() };
        self.compiler.load(&self.component, settings, &limits, Instant::now() + Duration::from_secs(600))
    }

    /// Takes the snapshot of a policy: why it has none.
    pub(crate) fn snapshot(&self, policy: &Policy) -> Option<String> {
        self.compiler.snapshot(policy, &self.component.bytes);
        policy.snapshot().unwrap().err().map(ToString::to_string)
    }

    /// A policy, alone in a set.
    pub(crate) fn set(&self, policy: Arc<Policy>) -> PolicySet {
        let entry = Entry {
            name: PolicyName::try_from(self.name).unwrap(),
            placement: Placement::default(),
            message: None,
            loaded: Ok(policy),
        };
        PolicySet::new(Rules::default(), HostLimits::default(), vec![entry])
    }
}

/// Returns the decisions of the policy of a set on each image.
pub(crate) fn ask(set: &PolicySet, images: &[String], instances: Instances) -> Vec<Said> {
    let review = Review { namespace: "shop".to_owned(), annotations: Vec::new(), images: images.to_vec() };
    let options = Options { instances, ..Options::of(set) };
    evaluate(set, &review, &Facts::default(), &options)
        .verdict
        .images
        .into_iter()
        .map(|mut image| image.judged.said.remove(0))
        .collect()
}
