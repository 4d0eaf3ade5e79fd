//! The files that cases depend on, and the cases that changed files concern.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::author::sources::Watched;
use crate::author::test::Position;
use crate::config::Config;
use crate::suite::{Case, Suite};

/// Changed files, by absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed(BTreeSet<PathBuf>);

impl Changed {
    /// Adds files.
    pub fn add(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        self.0.extend(paths.into_iter().map(|path| absolute(&path)));
    }

    /// Returns the cases of a plan that the changes concern: those whose file or review has changed, and
    /// those that a changed policy, settings file or host.yaml judges.
    pub fn concerned(&self, suites: &[Suite], plan: &[Position]) -> Vec<Position> {
        let concerns = |(suite, case): &&Position| {
            let Some(suite) = suites.get(*suite) else { return false };
            suite.cases.get(*case).is_some_and(|case| self.concerns(suite, case))
        };
        plan.iter().filter(concerns).copied().collect()
    }

    fn concerns(&self, suite: &Suite, case: &Case) -> bool {
        let of_suite = case.place.path == suite.path && suite.files.iter().any(|file| self.has(file));
        let config = suite.subjects.get(case.subject).and_then(|subject| subject.config.as_ref());
        of_suite || self.has(&case.place.path) || config.is_some_and(|config| self.changes(config))
    }

    fn changes(&self, config: &Config) -> bool {
        let files = config.policies.iter().flat_map(|policy| policy.files());
        let folders: Vec<_> = folders(config).map(absolute).collect();
        let in_folders =
            |path: &PathBuf| folders.iter().any(|folder| path.parent() == Some(folder.as_path()));
        self.has(&config.path)
            || files.into_iter().any(|file| self.has(file))
            || self.0.iter().any(in_folders)
    }

    fn has(&self, path: &Path) -> bool {
        self.0.contains(&absolute(path))
    }
}

/// Returns the files and folders on which the cases of suites depend.
pub fn watched(suites: &[Suite]) -> Watched {
    let mut files = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for suite in suites {
        files.extend(suite.files.iter().map(|file| absolute(file)));
        for config in suite.subjects.iter().filter_map(|subject| subject.config.as_ref()) {
            files.insert(absolute(&config.path));
            files.extend(config.policies.iter().flat_map(|policy| policy.files()).map(absolute));
            folders.extend(self::folders(config).map(absolute));
        }
    }
    Watched { files: files.into_iter().collect(), folders: folders.into_iter().collect() }
}

/// Returns the folders of policies and of texts.
fn folders(config: &Config) -> impl Iterator<Item = &Path> {
    let of_texts = config.policies.iter().flat_map(|policy| policy.folders());
    config.policy_directory.as_deref().into_iter().chain(of_texts)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
