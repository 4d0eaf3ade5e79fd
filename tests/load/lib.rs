//! The proof of the hot swap: a load whose every response is checked, and the real program, swapped, broken
//! and mended under it.

pub mod figures;
pub mod client;
pub mod ledger;
pub mod running;
pub mod volume;
pub mod host;
pub mod stage;
pub mod swaps;
pub mod volumes;
pub mod upgrades;
pub mod faults;
