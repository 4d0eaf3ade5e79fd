//! Reports of a running host: counters, throttled log lines, the decision log.

pub mod answered;
pub mod counters;
pub mod decision_log;
pub mod log_throttle;
pub(crate) mod timestamp;
