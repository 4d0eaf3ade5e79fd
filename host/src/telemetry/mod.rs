//! What the host tells of itself while it runs: counters, throttled log lines, the decision log.

pub mod answered;
pub mod counters;
pub mod decision_log;
pub mod log_throttle;
pub(crate) mod timestamp;
