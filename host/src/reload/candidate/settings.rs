//! Settings in separate files, which `settingsFrom` names.

use super::Fallback;
use crate::config::{Config, ConfigError, PolicyConfig};
use crate::fs::{self, FileError};
use crate::limits;
use crate::text;

/// Reason why the settings in a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsFileError {
    /// A file that is being written.
    #[error("its settings are being written")]
    BeingWritten,
    /// A file that cannot be read, with the place in host.yaml that names it.
    #[error("{file}: {error}{step} (`settingsFrom` at {named} names it)", step = error.next_step())]
    Unreadable { file: String, error: FileError, named: String },
    /// A file over a limit, with the place in host.yaml that names it.
    #[error("{file}: {limit} (`settingsFrom` at {named} names it)")]
    TooLarge { file: String, limit: String, named: String },
    /// Settings that do not fit the entry of the policy.
    #[error("{}", .0.to_string().replace('\n', "; "))]
    Invalid(ConfigError),
}

/// Adds the settings in its file to each policy. Returns an error for each policy whose file cannot be used.
pub(super) fn read(
    config: &Config,
    policies: &mut [PolicyConfig],
    fallback: Fallback<'_>,
) -> Vec<Result<(), SettingsFileError>> {
    let mut left = limits::SETTINGS_FILES.default;
    policies.iter_mut().map(|policy| add(config, policy, fallback, &mut left)).collect()
}

fn add(
    config: &Config,
    policy: &mut PolicyConfig,
    fallback: Fallback<'_>,
    left: &mut u64,
) -> Result<(), SettingsFileError> {
    let Some(path) = policy.settings_from.clone() else { return Ok(()) };
    let place = || (text::path(&path), config.locate(&format!("{}/settingsFrom", policy.pointer)));
    let too_large = |limit: String| {
        let (file, named) = place();
        SettingsFileError::TooLarge { file, limit, named }
    };
    let read = fallback.read_complete(&path, || fs::read(&path, limits::SETTINGS_FILE.default));
    let bytes = read.ok_or(SettingsFileError::BeingWritten)?.map_err(|error| match error {
        FileError::TooLarge(size, limit) => too_large(limits::SETTINGS_FILE.says(size, limit)),
        error => {
            let (file, named) = place();
            SettingsFileError::Unreadable { file, error, named }
        }
    })?;
    *left = left
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| too_large(limits::SETTINGS_FILES.says("", limits::SETTINGS_FILES.default)))?;
    policy.add_settings(&path, &bytes, config).map_err(SettingsFileError::Invalid)
}
