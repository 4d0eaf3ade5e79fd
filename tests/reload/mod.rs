//! Changes of files, the gate, the state directory, starts and rollbacks.

pub(crate) mod candidate;
mod configured;
mod gate;
mod never_weaker;
mod private;
mod rollback;
mod start;
mod state;
mod thread;
pub(crate) mod watch;
mod pending;
mod records;
