//! The verbs for authors.

pub(crate) mod cases;
mod manifests;
mod reports;
mod suites;
mod terminal;
