//! Suites and their cases.

mod expect;
mod last_run;
