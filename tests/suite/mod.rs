//! Suites and their cases.

mod expect;
