//! The verbs for authors.

pub(crate) mod cases;
mod manifests;
mod suites;
mod terminal;
