//! The last good version of each policy, kept across restarts in `stateDirectory`.
//!
//! ```text
//! last-good/NAME.json       digest of the component, and the settings that it took
//! components/DIGEST.wasm    the component
//! cache/                    compiled code, see `policy::Cache`
//! ```
//!
//! A component is written before the record that names it, and both by renaming, so a record always names a whole
//! component, whenever the process ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::PolicyName;
use crate::policy::digest;

/// A folder that only this user can look into.
pub struct StateDirectory {
    path: PathBuf,
}

/// What was in force of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct LastGood {
    /// The component.
    pub component: Vec<u8>,
    /// The settings that it took.
    pub settings: Value,
}

#[derive(Serialize, Deserialize)]
struct Record {
    component: String,
    settings: Value,
}

impl StateDirectory {
    /// Opens the folder, making it (mode 0700) where it does not exist.
    ///
    /// # Errors
    /// It cannot be made or written, or belongs to someone else, or others can write it: what is kept there decides
    /// what runs.
    pub fn open(path: &Path) -> io::Result<StateDirectory> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let metadata = fs::metadata(path)?;
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(io::Error::other("others can write it: set its mode to 0700 (`chmod 0700`)"));
        }
        for folder in ["last-good", "components"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join(folder))?;
        }
        // Whoever owns a file that we make is who we are.
        let probe = tempfile::NamedTempFile::new_in(path)?;
        if probe.as_file().metadata()?.uid() != metadata.uid() {
            return Err(io::Error::other("it belongs to another user"));
        }
        Ok(StateDirectory { path: path.to_owned() })
    }

    /// The folder for compiled code.
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The last good version of a policy; none where there is no record, or it is damaged.
    pub fn last_good(&self, name: &PolicyName) -> Option<LastGood> {
        let record: Record = serde_json::from_slice(&fs::read(self.record(name)).ok()?).ok()?;
        let component = fs::read(self.component(&record.component)).ok()?;
        (digest(&component) == record.component).then_some(LastGood { component, settings: record.settings })
    }

    /// The policies that there is a record of.
    pub fn names(&self) -> io::Result<BTreeSet<PolicyName>> {
        let entries = fs::read_dir(self.path.join("last-good"))?;
        Ok(entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                PolicyName::try_from(name.strip_suffix(".json")?).ok()
            })
            .collect())
    }

    /// Records what is in force now of a policy.
    ///
    /// # Errors
    /// The folder cannot be written; what was recorded before stays.
    pub fn keep(&self, name: &PolicyName, component: &[u8], settings: &Value) -> io::Result<()> {
        let digest = digest(component);
        let path = self.component(&digest);
        // One that was damaged would be no good version.
        if !fs::read(&path).is_ok_and(|kept| kept == component) {
            self.write(&path, component)?;
        }
        let record = Record { component: digest, settings: settings.clone() };
        self.write(&self.record(name), &serde_json::to_vec(&record)?)
    }

    /// Forgets policies that are in force no more, and components that no record names.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn retain(&self, names: &BTreeSet<PolicyName>) -> io::Result<()> {
        for name in self.names()?.difference(names) {
            fs::remove_file(self.record(name))?;
        }
        let mut used = BTreeSet::new();
        for name in names {
            let Ok(bytes) = fs::read(self.record(name)) else { continue };
            if let Ok(record) = serde_json::from_slice::<Record>(&bytes) {
                used.insert(self.component(&record.component));
            }
        }
        for entry in fs::read_dir(self.path.join("components"))? {
            let path = entry?.path();
            if !used.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn record(&self, name: &PolicyName) -> PathBuf {
        self.path.join("last-good").join(format!("{name}.json"))
    }

    fn component(&self, digest: &str) -> PathBuf {
        // The digest was read from a file: it may not lead out of the folder.
        let digest: String = digest.chars().filter(char::is_ascii_alphanumeric).collect();
        self.path.join("components").join(format!("{digest}.wasm"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_good_is_found_again_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let name = PolicyName::try_from("a").unwrap();
        let settings = serde_json::json!({ "allow": ["x"] });

        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(state.last_good(&name), None);
        state.keep(&name, b"old", &settings).unwrap();
        state.keep(&name, b"component", &settings).unwrap();
        state.retain(&BTreeSet::from([name.clone()])).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(state.last_good(&name).unwrap().component, b"component");
        assert_eq!(fs::read_dir(path.join("components")).unwrap().count(), 1);

        let component = fs::read_dir(path.join("components")).unwrap().next().unwrap().unwrap().path();
        fs::write(component, "other").unwrap();
        assert_eq!(state.last_good(&name), None);

        state.retain(&BTreeSet::new()).unwrap();
        assert!(state.names().unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            StateDirectory::open(folder.path()).is_err_and(|error| error.to_string().contains("chmod 0700"))
        );
    }
}
