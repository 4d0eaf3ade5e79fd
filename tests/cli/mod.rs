//! The verbs for authors.

pub(crate) mod cases;
mod complaints;
mod fixtures;
mod manifests;
mod problems;
mod replay;
mod reports;
mod suites;
mod terminal;
mod updates;
