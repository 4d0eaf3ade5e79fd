//! The project itself: its sources, guide, deployment files, table of limits and fuzzing corpus.

mod deploy;
mod fuzz;
pub(crate) mod guide;
mod limits;
mod tidy;
