//! The one integration test. A folder has the tests of the folder of `host/src` with its name, and `project`
//! those of the project itself.

// `cfg(test)` tells Clippy that helpers beside the tests may unwrap as the tests do.
#[cfg(test)]
mod author;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod evaluate;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod project;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod review;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod support;
#[cfg(test)]
mod telemetry;
