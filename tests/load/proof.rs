//! The short runs, for a continuous build: the program beside them, so that each is the same as by hand.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One at a time: they are about what a machine does under load.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn five_hundred_swaps() {
    passes(&["swaps", "--swaps", "500"]);
}

#[test]
fn three_swaps_of_volumes_in_a_row() {
    passes(&["volumes", "--swaps", "3"]);
}

#[test]
fn twenty_upgrades() {
    // A rate at which the reviews of a restart are caught up with before the next one.
    passes(&["upgrades", "--upgrades", "20", "--rate", "200"]);
}

#[test]
fn every_fault() {
    passes(&["faults"]);
}

/// Runs `load` with these arguments; it tells on standard error, past the test harness' capture.
fn passes(arguments: &[&str]) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let status = Command::new(env!("CARGO_BIN_EXE_load")).args(arguments).status();
    let passed = status.as_ref().is_ok_and(|status| status.success());
    assert!(passed, "`load {}` failed ({status:?}); what it says is above", arguments.join(" "));
}
