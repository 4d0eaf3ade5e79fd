//! The inputs of a pass: the configuration, its files, and the parts of the host that load and judge a
//! candidate.

use std::path::Path;

use super::candidate::Rejected;
use crate::config::{Config, ConfigError, PolicyConfig, TlsConfig};
use crate::policy::Compiler;
use crate::problem::{Instead, Problem, Subject};
use crate::reload::gate::Gate;
use crate::reload::watch::{Wanted, Watcher};
use crate::tls::{Material, TlsError};

/// The inputs of a pass.
pub(super) struct Inputs {
    pub(super) compiler: Compiler,
    /// The configuration at the start of the process. Its listen addresses and its state directory stay until
    /// a restart.
    pub(super) bound: Config,
    /// The configuration of the last pass that could read it.
    pub(super) config: Config,
    pub(super) gate: Gate,
    /// State of the watched files; None until the files are watched.
    pub(super) watcher: Option<Watcher>,
    pub(super) rejected: Rejected,
}

/// The reason why a pass changes nothing.
pub(super) enum NotNow {
    /// A file or setting is wrong.
    Broken(Problem),
    /// A file may be incomplete.
    Incomplete,
}

impl NotNow {
    /// Returns the reason for an error in `files`: `Incomplete` if one of them changed a moment ago and may
    /// be incomplete, otherwise `Broken`.
    pub(super) fn because(watcher: Option<&Watcher>, files: &[&Path], problem: Problem) -> NotNow {
        match watcher.is_some_and(|watcher| files.iter().any(|file| watcher.is_fresh(file))) {
            true => NotNow::Incomplete,
            false => NotNow::Broken(problem.with_instead(Instead::Generation)),
        }
    }
}

impl Inputs {
    /// Returns the inputs of the first pass.
    pub(super) fn new(compiler: Compiler, config: Config) -> Inputs {
        let mut gate = Gate::default();
        gate.configure(&config);
        let rejected = Rejected::default();
        Inputs { compiler, bound: config.clone(), config, gate, watcher: None, rejected }
    }

    /// Reads the configuration, and its TLS section.
    pub(super) fn read_config(&self) -> Result<(Config, TlsConfig), NotNow> {
        let path = self.config.path.as_path();
        let wrong = |error: ConfigError| self.not_now(&[path], Subject::host_yaml(path), &error);
        let config = self.read_complete(&[path], || Config::read(path))?.map_err(wrong)?;
        let tls = config.require_serving().map_err(wrong)?.tls.clone();
        Ok((config, tls))
    }

    /// Reads TLS material.
    pub(super) fn read_tls(&self, config: &TlsConfig) -> Result<Material, NotNow> {
        let wrong = |error: TlsError| self.wrong_tls(config, &error);
        self.read_complete(&config.files(), || Material::read(config))?.map_err(wrong)
    }

    /// Returns the reason why nothing changes while TLS material is wrong.
    pub(super) fn wrong_tls(&self, config: &TlsConfig, error: &TlsError) -> NotNow {
        self.not_now(&config.files(), Subject::Tls, error)
    }

    fn not_now(&self, files: &[&Path], subject: Subject, error: &dyn std::fmt::Display) -> NotNow {
        NotNow::because(self.watcher.as_ref(), files, Problem::new(subject, error))
    }

    /// Reads files. Returns `Incomplete` if one of them is being written.
    fn read_complete<T>(&self, files: &[&Path], read: impl FnOnce() -> T) -> Result<T, NotNow> {
        match &self.watcher {
            Some(watcher) => watcher.read_complete(files, read).ok_or(NotNow::Incomplete),
            None => Ok(read()),
        }
    }

    /// Watches the files of which a generation is made and by which it is judged. `tls` names those of the
    /// TLS material in force.
    pub(super) fn watch(&mut self, tls: &TlsConfig) {
        let Inputs { config, gate, watcher, .. } = self;
        let Some(watcher) = watcher else { return };
        let policies = config.policies.iter().flat_map(PolicyConfig::files);
        let files = policies.chain(tls.files()).chain([config.path.as_path()]);
        let texts = config.policies.iter().flat_map(PolicyConfig::folders).map(Path::to_owned);
        let folders = config.policy_directory.clone().into_iter().chain(gate.folders()).chain(texts);
        let wanted = Wanted { files: files.map(Path::to_owned).collect(), folders: folders.collect() };
        watcher.watch(&wanted);
    }

    /// Returns a problem for each changed setting that needs a restart: the listen addresses and the state
    /// directory.
    pub(super) fn needs_restart(&self, new: &Config) -> Vec<Problem> {
        let old = &self.bound;
        let listen = |config: &Config| config.serving.as_ref().map(|serving| serving.listen);
        let changed = [
            ("listen", listen(old) != listen(new)),
            ("admin.listen", old.admin_listen != new.admin_listen),
            ("stateDirectory", old.state_directory != new.state_directory),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        let problem = |key| {
            let what = format!("`{key}` has changed, which needs a restart; the rest is in force");
            Problem::new(Subject::host_yaml(&new.path), what)
        };
        changed.map(|(key, _)| problem(key)).collect()
    }

    /// Returns the problem of the gate.
    pub(super) fn gate_problem(&self) -> Option<Problem> {
        let why = self.gate.trouble()?;
        Some(Problem::new(Subject::Gate, why).with_instead(Instead::GenerationWithoutChange))
    }

    /// Returns the problems of watching, caching and compiling.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let problems = [
            (Subject::Watching, self.watcher.as_ref().and_then(Watcher::trouble)),
            (Subject::Cache, self.compiler.cache().trouble()),
            (Subject::Compiling, self.compiler.unconfined()),
        ];
        problems.into_iter().filter_map(|(subject, what)| Some(Problem::new(subject, what?)))
    }
}
