//! Sandbox of policies: the engine, and instances without access to anything.

pub(super) mod engine;
pub(super) mod bindings;
mod instance;
pub(super) mod instance_state;
pub(super) mod native;

pub use self::instance::SettingsError;
pub(super) use self::instance::StartError;
pub(crate) use self::instance::{Context, Instance};
