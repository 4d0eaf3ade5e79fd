//! A guest: built, loaded as the host loads it, and asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use host::config::{FailurePolicy, HostLimits, Mode, PolicyLimits, PolicyName, Rules, Scope};
use host::evaluate::{Instances, evaluate_with};
use host::policy::{Engine, Entry, LoadError, Policy, PolicySet, prepare};
use host::review::Review;
use host::verdict::Said;
use serde_json::Value;

/// The folder of this package.
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// What `toolchains` makes of a guest: `guests/NAME.wasm` in Cargo's target folder.
fn component(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(Path::new(PACKAGE).join("toolchains"))
        .arg(name)
        .env("CARGO_TARGET_DIR", target)
        .status()
        .unwrap();
    assert!(built.success(), "`tests/guests/toolchains {name}` failed ({built}); what it says is above");
    target.join("guests").join(name).with_extension("wasm")
}

/// The engine of all tests: its clock is a thread.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

/// A component, not yet configured.
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    component: Vec<u8>,
}

impl Guest {
    /// Built first, where it is not of these sources.
    pub(crate) fn new(name: &'static str) -> Guest {
        Guest { name, component: std::fs::read(component(name)).unwrap() }
    }

    /// Loaded with `settings`.
    pub(crate) fn load(&self, settings: &Value) -> Result<Policy, LoadError> {
        let limits =
            PolicyLimits { deadline: Duration::from_secs(1), memory: 64 << 20, ..PolicyLimits::default() };
        prepare(engine(), &self.component, settings, &limits)
            .and_then(|artifact| Policy::load(engine(), artifact))
    }

    /// Loaded with `settings`, alone in a set.
    pub(crate) fn set(&self, settings: &Value) -> PolicySet {
        let policy = self.load(settings).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let entry = Entry {
            name: PolicyName::try_from(self.name).unwrap(),
            scope: Scope::default(),
            mode: Mode::Enforce,
            failure_policy: FailurePolicy::Fail,
            loaded: Ok(Arc::new(policy)),
        };
        PolicySet::new(Rules::default(), HostLimits::default(), vec![entry])
    }
}

/// What the policy of a set says of each image.
pub(crate) fn ask(set: &PolicySet, images: &[String], instances: Instances) -> Vec<Said> {
    let review = Review { namespace: "shop".to_owned(), annotations: Vec::new(), images: images.to_vec() };
    let verdict = evaluate_with(set, &review, instances);
    verdict.images.into_iter().map(|mut image| image.judged.said.remove(0)).collect()
}
