//! Facts: data beyond the review, which the host fetches and verifies before the evaluation. Pure.

/// The key of a fact. No capability provides facts yet, so there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKey {}

/// The facts of a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {}
