//! A folder as the kubelet fills it from a ConfigMap or Secret: its files are links through `..data`, itself
//! a link that a rename swaps.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder.
pub struct Volume {
    folder: PathBuf,
    versions: Cell<u32>,
}

impl Volume {
    /// Makes a volume that replaces the content of `folder`, and the folder if it is missing.
    ///
    /// # Errors
    /// Returns an error if the volume cannot be made.
    pub fn new(folder: PathBuf) -> Result<Volume> {
        fs::create_dir_all(&folder)?;
        Ok(Volume { folder, versions: Cell::new(0) })
    }

    /// Swaps the whole content for the files that `fill` writes into a new folder.
    ///
    /// # Errors
    /// Returns the error of `fill`, or an error if the folder cannot be written.
    pub fn publish(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let version = format!("..{}", self.versions.replace(self.versions.get() + 1));
        let new = self.folder.join(&version);
        fill(&new)?;
        let (data, beside) = (self.folder.join("..data"), self.folder.join("..data_tmp"));
        let old = fs::read_link(&data).ok();
        symlink(&version, &beside)?;
        fs::rename(&beside, &data)?;
        for entry in fs::read_dir(&new)? {
            let name = entry?.file_name();
            let (link, target) = (self.folder.join(&name), Path::new("..data").join(&name));
            if fs::read_link(&link).ok().as_ref() != Some(&target) {
                symlink(target, &beside)?;
                fs::rename(&beside, link).context("a folder of the same name is in the way")?;
            }
        }
        old.map_or(Ok(()), |old| Ok(fs::remove_dir_all(self.folder.join(old))?))
    }
}
