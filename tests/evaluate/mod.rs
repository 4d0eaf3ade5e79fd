//! The evaluation of a review: decisions, isolation, lanes, and the limits of an instance.

pub(crate) mod decisions;
mod instance;
mod isolation;
mod neighbours;
mod worst;
mod properties;
