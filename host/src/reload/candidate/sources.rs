//! The sources of policies: the entries of `policies`, and the files in `policyDirectory`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Fallback;
use crate::config::{Config, ModuleSource, PolicyConfig, PolicyName};
use crate::fs::{self, FileError};
use crate::limits;
use crate::policy::{Component, LoadError};
use crate::problem::{Instead, Problem, Subject, listed};
use crate::text;

/// The component of a source.
#[derive(Clone)]
pub(super) enum Fetched {
    /// The component is complete.
    Ready(Component),
    /// The source may have the component later: its file is being written.
    NotYet,
    /// The source has no component that can be used.
    Broken(SourceError),
}

/// Reason why a component cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// A file over the size limit: its size and the limit, in bytes.
    #[error("{0}: {error}", error = LoadError::TooLarge(*.1, *.2))]
    TooLarge(String, u64, u64),
    /// A file that cannot be read.
    #[error("{file}: {error}{step}", file = .0, error = .1, step = .1.next_step())]
    Unreadable(String, Arc<FileError>),
}

/// Returns the policies of `policies`, then the other components in `policyDirectory`, each named after its
/// file. Returns a problem for each file that is not in force.
///
/// # Errors
/// Returns an error if `policyDirectory` cannot be read, if no policy would be left, or if there are more
/// policies than the limit.
pub(super) fn configured(
    config: &Config,
    fallback: Fallback<'_>,
) -> Result<(Vec<PolicyConfig>, Vec<Problem>), Problem> {
    let mut policies = config.policies.clone();
    let mut problems = Vec::new();
    if let Some(directory) = &config.policy_directory {
        let subject = || Subject::PolicyDirectory(text::path(directory));
        let files = components_in(directory)
            .map_err(|error| Problem::new(subject(), format!("it cannot be read: {error}")))?;
        let lost = match files.is_empty() && !config.allow_empty {
            true => fallback.unmentioned(config),
            false => Vec::new(),
        };
        if !lost.is_empty() && !policies.is_empty() {
            let what = format!(
                "it has no policy, as if its file system were not mounted, and {} stays in force",
                listed(&lost)
            );
            problems.push(Problem::new(subject(), what).with_remedy(
                "mount it, or put the files there; to have none, remove `policyDirectory` or set \
                 `allowEmpty: true`",
            ));
        }
        policies.extend(bare(config, files, &mut problems));
    }
    let refuse = |what: String| Err(Problem::new(Subject::host_yaml(&config.path), what));
    if policies.is_empty() && !config.allow_empty {
        let what = "no policy is left, and an empty set is put in force only with `allowEmpty: true`";
        return refuse(what.to_owned());
    }
    if policies.len() > config.limits.policies {
        return refuse(limits::POLICIES.says(policies.len(), config.limits.policies as u64));
    }
    Ok((policies, problems))
}

fn components_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (number, entry) in std::fs::read_dir(directory)?.enumerate() {
        if number >= limits::DIRECTORY.size() {
            return Err(std::io::Error::other(limits::DIRECTORY.says("", limits::DIRECTORY.default)));
        }
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wasm")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn bare(config: &Config, files: Vec<PathBuf>, problems: &mut Vec<Problem>) -> Vec<PolicyConfig> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let claimed: Vec<_> =
        config.policies.iter().map(|policy| (real(policy.module.file()), &policy.name)).collect();
    let mut policies = Vec::new();
    for file in files {
        let (path, stem) =
            (real(&file), file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default());
        if claimed.iter().any(|(claimed, _)| *claimed == path) {
            continue;
        }
        let unused = |what: String| Problem::new(Subject::file(&file), what).with_instead(Instead::Nothing);
        if file.extension().is_none_or(|extension| extension != "wasm") {
            let what = "the name of a policy's file ends in `.wasm`, in lower case".to_owned();
            problems.push(unused(what).with_remedy("rename it"));
            continue;
        }
        match PolicyName::try_from(stem.as_ref()) {
            Ok(name) if claimed.iter().any(|(_, claimed)| **claimed == name) => {
                let what = format!("an entry of `policies` has its name, `{name}`, and another `module`");
                problems.push(unused(what).with_remedy("rename one of them"));
            }
            Ok(name) => policies.push(PolicyConfig::bare(name, file)),
            Err(_) => {
                let what = format!("`{}` is no policy name", text::truncate(&text::escape(&stem), 64));
                problems.push(unused(what).with_remedy(format!(
                    "rename it with lower-case letters, digits and `-`, such as `{}.wasm`",
                    suggestion(&stem)
                )));
            }
        }
    }
    policies
}

fn suggestion(stem: &str) -> String {
    PolicyName::nearest(stem).map_or_else(|| "my-policy".to_owned(), |name| name.to_string())
}

/// The components that were read, each source once.
#[derive(Default)]
pub(super) struct Sources(HashMap<ModuleSource, Fetched>);

impl Sources {
    /// Reads the component of a policy.
    pub(super) fn fetch(
        &mut self,
        config: &Config,
        policy: &PolicyConfig,
        fallback: Fallback<'_>,
    ) -> Fetched {
        let ModuleSource::File(file) = &policy.module;
        let read = || match fallback.read_complete(file, || fs::read(file, config.limits.module)) {
            None => Fetched::NotYet,
            Some(Ok(bytes)) => Fetched::Ready(Component::new(bytes)),
            Some(Err(FileError::TooLarge(size, limit))) => {
                Fetched::Broken(SourceError::TooLarge(text::path(file), size, limit))
            }
            Some(Err(error)) => Fetched::Broken(SourceError::Unreadable(text::path(file), Arc::new(error))),
        };
        self.0.entry(policy.module.clone()).or_insert_with(read).clone()
    }

    /// Returns the digests of the components that were read.
    pub(super) fn digests(&self) -> HashSet<String> {
        let ready = self.0.values().filter_map(|fetched| match fetched {
            Fetched::Ready(component) => Some(component.digest.clone()),
            Fetched::NotYet | Fetched::Broken(_) => None,
        });
        ready.collect()
    }
}
