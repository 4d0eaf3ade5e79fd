//! The short runs, for a continuous build. Each runs the built program, as by hand.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Only one run at a time: each one puts the machine under load.
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
    // The rate is low enough to process the overdue reviews of a restart before the next one.
    passes(&["upgrades", "--upgrades", "20", "--rate", "200"]);
}

#[test]
fn every_fault() {
    passes(&["faults"]);
}

/// Runs `load` with these arguments. It reports on standard error, past the test harness' capture.
fn passes(arguments: &[&str]) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let status = Command::new(env!("CARGO_BIN_EXE_load")).args(arguments).status();
    let passed = status.as_ref().is_ok_and(|status| status.success());
    assert!(passed, "`load {}` failed ({status:?}); what it says is above", arguments.join(" "));
}
