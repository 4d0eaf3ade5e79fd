//! Tests of the author's tools.

mod sources;
