//! The contents of a new installation: certificates, and the demo.

pub mod certificates;
pub mod demo;
