//! host.yaml, edits, and the settings in separate files.

mod edits;
mod host_yaml;
pub(crate) mod settings_files;
