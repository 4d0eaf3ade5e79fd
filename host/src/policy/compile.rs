//! Compilation of components to native code: in a confined child process, from the cache, or from a snapshot.

pub(super) mod compiler;
mod jobs;
pub(super) mod worker;
pub(super) mod confine;
mod process;
pub(super) mod cache;
mod function_store;
mod keys;
pub(super) mod snapshot;
pub(super) mod scan;
