//! What an installation begins with: certificates, and the demo.

pub mod certificates;
pub mod demo;
