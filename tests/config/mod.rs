//! host.yaml, edits, and the settings and texts in separate files.

mod edits;
mod host_yaml;
pub(crate) mod settings_files;
mod texts;
