//! The one integration test. Each module says which tests belong in it.

mod config;
mod image;

// `cfg(test)` tells Clippy that helpers beside the tests may unwrap as the tests do.
#[cfg(test)]
mod support;

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod configured;
#[cfg(test)]
mod confine;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod control;
#[cfg(test)]
mod decision_files;
#[cfg(test)]
mod decision_log;
#[cfg(test)]
mod decision_read;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod dispatch;
#[cfg(test)]
mod door;
#[cfg(test)]
mod following;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod guide;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod load;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod manifest;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod never_weaker;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod plugins;
#[cfg(test)]
mod prepare;
#[cfg(test)]
mod private;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod rollback;
#[cfg(test)]
mod scan;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod service_manager;
#[cfg(test)]
mod settings_files;
#[cfg(test)]
mod start;
#[cfg(test)]
mod state;
#[cfg(test)]
mod suites;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod verdicts;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod worst;
