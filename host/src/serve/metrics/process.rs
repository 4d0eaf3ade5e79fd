//! Metrics of the process from the system (proc(5)). A value that cannot be read is left out.

use std::fs;

use super::page::Page;
use super::table::{CPU, MOST_FILES, OPEN_FILES, RESIDENT};

/// Ticks per second of the times in `/proc`: 100 on every Linux (USER_HZ).
const TICKS: f64 = 100.0;

/// Adds memory, CPU time and file descriptors to the page.
pub(super) fn show(page: &mut Page) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(kib) = resident.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()) {
        page.count(&RESIDENT, &[], kib.saturating_mul(1024));
    }
    if let Some(seconds) = cpu_seconds() {
        page.number(&CPU, &[], seconds);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Without the descriptor of the read directory itself.
        page.count(&OPEN_FILES, &[], (open.count() as u64).saturating_sub(1));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) = most.and_then(|line| line.split_whitespace().next()?.parse().ok()) {
        page.count(&MOST_FILES, &[], most);
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program is in parentheses and may contain any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) as f64 / TICKS)
}
