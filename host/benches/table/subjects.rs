//! Inputs of the measurements: policies with their settings, sets of them, and reviews.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::config::{HostLimits, PolicyLimits, PolicyName, Rules};
use host::policy::{Cache, Compiler, Component, Engine, Entry, Policy, PolicySet, Purpose};
use host::review::Review;
use serde_json::{Value, json};

use crate::Error;

pub(crate) const HOST: &str = env!("CARGO_BIN_EXE_host");
const PATIENCE: Duration = Duration::from_secs(600);

/// Returns the path of a file of this project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns a compiler with an empty cache.
pub(crate) fn compiler() -> Result<Compiler, Error> {
    let cache = Cache::temporary(1 << 30)?;
    Ok(Compiler::new(Engine::new(Purpose::Serve { policies: 1000 })?, cache, HOST.into(), false)?)
}

/// A component with its settings.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) component: Component,
    pub(crate) settings: Value,
}

impl Subject {
    fn new(name: &str, component: Vec<u8>, settings: Value) -> Subject {
        Subject { name: name.to_owned(), component: Component::new(component), settings }
    }

    /// Returns `trusted-registries` with 200 patterns, of which the last allows the images of the reviews.
    pub(crate) fn trusted_registries() -> Result<Subject, Error> {
        let component = std::fs::read(project("plugins/dist/trusted-registries.wasm"))?;
        Ok(Subject::new("trusted-registries, 200 patterns", component, json!({ "allow": patterns() })))
    }

    pub(crate) fn pinned_images() -> Result<Subject, Error> {
        let component = std::fs::read(project("plugins/dist/pinned-images.wasm"))?;
        Ok(Subject::new("pinned-images", component, json!({ "requireDigest": false })))
    }

    /// Returns `trusted-registries` with denials only.
    fn denied_registries() -> Result<Subject, Error> {
        let component = std::fs::read(project("plugins/dist/trusted-registries.wasm"))?;
        Ok(Subject::new(
            "denied-registries",
            component,
            json!({ "deny": ["docker.io/**", "*.untrusted.example/**"] }),
        ))
    }

    /// Returns the policies of other toolchains, or a message for each that is not built.
    pub(crate) fn guests() -> Vec<Result<Subject, String>> {
        let guest =
            |name: &str| match std::fs::read(project("target/guests").join(name).with_extension("wasm")) {
                Ok(component) => Ok(Subject::new(name, component, json!({ "allow": ["registry.k8s.io"] }))),
                Err(_) => {
                    Err(format!("{name}: not built: `cargo test -p guests` builds it into target/guests/"))
                }
            };
        ["c", "javascript", "go", "python"].map(guest).into()
    }

    pub(crate) fn load(&self, compiler: &Compiler) -> Result<Arc<Policy>, Error> {
        Ok(compiler.load(
            &self.component,
            &self.settings,
            &PolicyLimits::default(),
            Instant::now() + PATIENCE,
        )?)
    }

    /// Loads the policy with its snapshot. The inner error is the reason for which the policy has no
    /// snapshot.
    pub(crate) fn load_snapshot(&self, compiler: &Compiler) -> Result<Result<Arc<Policy>, String>, Error> {
        let policy = self.load(compiler)?;
        compiler.snapshot(&policy, &self.component.bytes);
        match policy.snapshot() {
            Some(Err(why)) => Ok(Err(why.to_string())),
            Some(Ok(())) => Ok(Ok(policy)),
            None => Err("the snapshot was not taken".into()),
        }
    }
}

pub(crate) fn patterns() -> Vec<String> {
    let others = (0..199).map(|n| format!("registry-{n}.example/team/**"));
    others.chain(["registry.k8s.io/**".to_owned()]).collect()
}

/// Returns a set of loaded policies that are all enforced everywhere.
pub(crate) fn set(policies: Vec<Arc<Policy>>) -> Result<PolicySet, Error> {
    let entry = |(number, policy)| {
        Ok(Entry {
            name: PolicyName::try_from(format!("policy-{number}").as_str())?,
            placement: Default::default(),
            message: None,
            loaded: Ok(policy),
        })
    };
    let entries = policies.into_iter().enumerate().map(entry).collect::<Result<_, Error>>()?;
    Ok(PolicySet::new(Rules::default(), HostLimits::default(), entries))
}

/// Loads the three policies of "2 images x 3 policies", from their snapshots.
pub(crate) fn three(compiler: &Compiler) -> Result<Vec<Arc<Policy>>, Error> {
    let subjects = [Subject::trusted_registries()?, Subject::pinned_images()?, Subject::denied_registries()?];
    subjects.iter().map(|subject| Ok(subject.load_snapshot(compiler)??)).collect()
}

/// Returns a review of `images` images, all of them trusted.
pub(crate) fn review(images: usize) -> Review {
    let image = |n| format!("registry.k8s.io/team/application-{n}:v1.2.{n}");
    Review {
        namespace: "default".to_owned(),
        annotations: Vec::new(),
        images: (0..images).map(image).collect(),
    }
}
