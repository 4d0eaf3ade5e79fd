//! The plan of a watch: the directories to watch for changes of some files, which are those in which the
//! components of the paths are looked up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::{Wanted, absolute};
use crate::limits;

/// Remaining limits for the resolution of one path.
#[derive(Clone, Copy)]
struct Left {
    /// Symbolic links.
    links: usize,
    /// Path components, including those of link targets.
    names: usize,
}

/// Linux follows at most 40 symbolic links (path_resolution(7)). No path of 4096 bytes that people write has
/// 1024 components.
const LEFT: Left = Left { links: 40, names: 1024 };

/// The names in a directory whose changes matter.
#[derive(Clone, Debug, Default)]
pub(super) struct NameFilter {
    /// Whether all names matter that do not begin with `.`.
    all: bool,
    these: BTreeSet<OsString>,
}

impl NameFilter {
    /// Returns the set of all names that do not begin with `.`.
    #[cfg(test)]
    pub(super) fn all() -> NameFilter {
        NameFilter { all: true, these: BTreeSet::new() }
    }

    pub(super) fn matters(&self, name: &OsStr) -> bool {
        self.these.contains(name) || self.all && !is_hidden(name)
    }

    /// Returns whether no name matters. Then only changes of the directory itself count.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.these.is_empty()
    }

    pub(super) fn extend(&mut self, other: &NameFilter) {
        self.all |= other.all;
        self.these.extend(other.these.iter().cloned());
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// The directories to watch, and the files in them.
#[derive(Default)]
pub(super) struct WatchPlan {
    /// The directories, by paths without symbolic links.
    pub(super) directories: BTreeMap<PathBuf, NameFilter>,
    /// The wanted files and folders and the files in those folders, by the paths of [`Wanted`].
    pub(super) files: BTreeSet<PathBuf>,
    /// The real path of each path; None if the path does not resolve.
    resolved: HashMap<PathBuf, Option<PathBuf>>,
}

impl WatchPlan {
    pub(super) fn of(wanted: &Wanted) -> WatchPlan {
        let mut plan = WatchPlan::default();
        for folder in &wanted.folders {
            plan.folder(&absolute(folder));
        }
        for file in &wanted.files {
            plan.file(&absolute(file));
        }
        plan
    }

    fn folder(&mut self, folder: &Path) {
        self.files.insert(folder.to_owned());
        let Some(real) = self.resolve(folder, &mut LEFT.clone()) else { return };
        self.names(&real).all = true;
        // The reader of the folder reports one with more entries.
        for entry in fs::read_dir(&real).into_iter().flatten().flatten().take(limits::DIRECTORY.size()) {
            let (name, kind) = (entry.file_name(), entry.file_type());
            if is_hidden(&name) {
                continue;
            }
            match kind {
                Ok(kind) if kind.is_symlink() => self.file(&folder.join(name)),
                // A folder too: it may have the name of a component, and its age decides when that is
                // reported.
                _ => {
                    self.files.insert(folder.join(name));
                }
            }
        }
    }

    fn file(&mut self, file: &Path) {
        self.files.insert(file.to_owned());
        if let Some(real) = self.resolve(file, &mut LEFT.clone())
            && let (Some(directory), Some(name)) = (real.parent(), real.file_name())
        {
            self.names(directory).these.insert(name.to_owned());
        }
    }

    fn names(&mut self, directory: &Path) -> &mut NameFilter {
        self.directories.entry(directory.to_owned()).or_default()
    }

    /// Resolves a path as the system does, and records the directory in which each component is looked up.
    fn resolve(&mut self, path: &Path, left: &mut Left) -> Option<PathBuf> {
        if let Some(known) = self.resolved.get(path) {
            return known.clone();
        }
        left.names = left.names.checked_sub(1)?;
        let real = match (path.parent(), path.file_name()) {
            (None, _) => Some(path.to_owned()),
            (Some(directory), name) => self.resolve(directory, left).and_then(|directory| match name {
                Some(name) => self.step(directory, name, left),
                // `..` is the parent of the directory to which a link led.
                None => Some(directory.parent().unwrap_or(&directory).to_owned()),
            }),
        };
        self.resolved.insert(path.to_owned(), real.clone());
        real
    }

    fn step(&mut self, directory: PathBuf, name: &OsStr, left: &mut Left) -> Option<PathBuf> {
        let place = directory.join(name);
        let names = self.names(&directory);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => {
                names.these.insert(name.to_owned());
                left.links = left.links.checked_sub(1)?;
                let target = fs::read_link(&place).ok()?;
                self.resolve(&directory.join(target), left)
            }
            Ok(_) => Some(place),
            // The name may appear later.
            Err(_) => {
                names.these.insert(name.to_owned());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each link leads to a path of a thousand names, the first of which is the next link.
    #[test]
    fn links_whose_targets_have_many_names_come_to_an_end() {
        let folder = tempfile::tempdir().unwrap();
        for link in 0..LEFT.links {
            let target = format!("l{}/{}", link + 1, "x/".repeat(1000));
            std::os::unix::fs::symlink(target, folder.path().join(format!("l{link}"))).unwrap();
        }
        let file = folder.path().join("l0");
        let plan = WatchPlan::of(&Wanted { files: BTreeSet::from([file.clone()]), folders: BTreeSet::new() });
        assert!(plan.files.contains(&file) && plan.directories.contains_key(folder.path()));
    }
}
