//! The webhook, its connections, and the host as a process.

mod connections;
pub(crate) mod control;
pub(crate) mod metrics;
mod overload;
mod process;
mod systemd;
mod tls;
mod trust;
mod webhook;
mod bodies;
mod certificates;
mod admin;
