//! The log and the decision log.

pub(crate) mod decision_files;
pub(crate) mod decision_log;
mod decision_read;
mod log;
