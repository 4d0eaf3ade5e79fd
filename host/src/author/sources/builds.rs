//! The folders of sources that a run tests, each built once until its files change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Sources, SourcesError, Watched, component_of};
use crate::config::{ModuleSource, PolicyConfig};

/// Builds of a run, by their folders.
#[derive(Debug, Default)]
pub struct Builds(BTreeMap<PathBuf, Build>);

#[derive(Debug)]
struct Build {
    /// Files and folders whose changes may change the component, by absolute paths.
    watched: Watched,
    /// Path of the component. None until it is built from the current files.
    component: Option<PathBuf>,
}

impl Builds {
    /// Replaces the `module` of a policy that is a folder of sources by the component that is built of it.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be built. A later call tries again.
    pub fn resolve(&mut self, policy: &mut PolicyConfig) -> Result<(), SourcesError> {
        let ModuleSource::File(folder) = &policy.module;
        if !folder.is_dir() {
            return Ok(());
        }
        let component = self.component(folder)?;
        policy.module = ModuleSource::File(component);
        Ok(())
    }

    fn component(&mut self, folder: &Path) -> Result<PathBuf, SourcesError> {
        let key = absolute(folder);
        let known = self.0.get(&key).and_then(|build| build.component.clone());
        if let Some(component) = known {
            return Ok(component);
        }
        let sources = Sources::of(folder)?;
        // Recorded before the build, so that a change during the build is a change.
        self.0.insert(key.clone(), Build { watched: watched(&sources)?, component: None });
        sources.build()?;
        let component = sources.component();
        // Only a build knows the files outside of the folder.
        let watched = watched(&sources)?;
        self.0.insert(key, Build { watched, component: Some(component.clone()) });
        Ok(component)
    }

    /// Forgets the builds that changed files belong to. Returns the components that have to be built again.
    pub fn change(&mut self, changed: &[PathBuf]) -> Vec<PathBuf> {
        let mut components = Vec::new();
        for (folder, build) in &mut self.0 {
            let Watched { files, folders } = &build.watched;
            let is_in = |path: &PathBuf| folders.iter().any(|folder| path.parent() == Some(folder));
            if changed.iter().any(|path| files.contains(path) || is_in(path)) {
                build.component = None;
                components.push(component_of(folder));
            }
        }
        components
    }

    /// Returns the components of all builds, by absolute paths.
    pub fn components(&self) -> impl Iterator<Item = PathBuf> {
        self.0.keys().map(|folder| component_of(folder))
    }

    /// Returns the files and folders of all builds, by absolute paths.
    pub fn watched(&self) -> Watched {
        let mut all = Watched::default();
        for build in self.0.values() {
            all.files.extend(build.watched.files.iter().cloned());
            all.folders.extend(build.watched.folders.iter().cloned());
        }
        all
    }
}

fn watched(sources: &Sources) -> Result<Watched, SourcesError> {
    let Watched { files, folders } = sources.watched()?;
    let absolutes = |paths: Vec<PathBuf>| paths.iter().map(|path| absolute(path)).collect();
    Ok(Watched { files: absolutes(files), folders: absolutes(folders) })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
