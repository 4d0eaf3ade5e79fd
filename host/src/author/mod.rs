//! The policy author's tools: build a component, measure it, read manifests, update suites.

pub mod bench;
pub mod build;
pub mod manifests;
pub mod reporters;
pub mod update;
