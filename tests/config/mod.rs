//! host.yaml, and the settings in separate files.

mod host_yaml;
pub(crate) mod settings_files;
