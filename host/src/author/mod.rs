//! The policy author's tools: build a component, measure it, read manifests.

pub mod bench;
pub mod build;
pub mod manifests;
