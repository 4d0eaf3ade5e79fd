//! Settings in separate files, which `settingsFrom` names.

use super::before::Before;
use crate::config::{Config, PolicyConfig};
use crate::fs::{self, FileError};
use crate::limits;
use crate::text;

/// Adds the settings in its file to each policy. Returns an error for each policy whose file cannot be used.
pub(super) fn read(
    config: &Config,
    policies: &mut [PolicyConfig],
    before: Before<'_>,
) -> Vec<Result<(), String>> {
    let mut left = limits::SETTINGS_FILES.default;
    policies.iter_mut().map(|policy| add(config, policy, before, &mut left)).collect()
}

fn add(config: &Config, policy: &mut PolicyConfig, before: Before<'_>, left: &mut u64) -> Result<(), String> {
    let Some(path) = policy.settings_from.clone() else { return Ok(()) };
    let is_written = || match before.is_written(&path) {
        true => Err("its settings are being written".to_owned()),
        false => Ok(()),
    };
    let unreadable = |error: String| {
        let named = config.locate(&format!("{}/settingsFrom", policy.pointer));
        format!("{}: {error} (`settingsFrom` at {named} names it)", text::path(&path))
    };
    is_written()?;
    let bytes = fs::read(&path, limits::SETTINGS_FILE.default).map_err(|error| match error {
        FileError::TooLarge(size, limit) => unreadable(limits::SETTINGS_FILE.says(size, limit)),
        other => unreadable(other.to_string()),
    })?;
    // A write that began during the read may have been read in part.
    is_written()?;
    *left = left
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| unreadable(limits::SETTINGS_FILES.says("", limits::SETTINGS_FILES.default)))?;
    policy.add_settings(&path, &bytes, config).map_err(|error| error.to_string().replace('\n', "; "))
}
