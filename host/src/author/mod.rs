//! The policy author's tools: build a component, measure it, test it.

pub mod bench;
pub mod build;
pub mod replay;
pub mod coverage;
pub mod reporters;
pub mod sources;
pub mod test;
pub mod update;
pub mod watch;
