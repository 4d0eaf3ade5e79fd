//! Table of every limit of the host. The code reads its limits from the table, and the reference page is
//! generated from it. Pure.
//!
//! A row is the constant that the code enforces. The constants are visible only inside this crate, and
//! [`ALL`] consists of the same rows without naming the constants. The compiler therefore rejects a row that
//! no code reads as dead code.

mod page;
mod table;

use std::fmt::Display;
use std::time::Duration;

pub use self::page::{columns, markdown};
pub use self::table::ALL;
pub(crate) use self::table::*;

const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
const GI: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

/// A limit: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name in kebab-case, distinct.
    pub name: &'static str,
    /// The limited quantity.
    pub quantity: &'static str,
    /// The unit of the value.
    pub unit: Unit,
    /// The limit unless host.yaml sets another. 0 stands for one more than the number of processors.
    pub default: u64,
    /// Whether host.yaml can change the limit.
    pub set: Set,
    /// The visible result of exceeding the limit.
    pub on_exceed: OnExceed,
}

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of items.
    Count,
    /// Bytes.
    Bytes,
    /// Wall-clock time in milliseconds.
    Time,
}

/// Whether an operator can change a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Yes, by this key of host.yaml.
    Key {
        /// Path of the key from the top of the file, or from the policy's entry.
        key: &'static str,
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// No, for this reason.
    Fixed(&'static str),
}

/// The visible result of exceeding a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExceed {
    /// A message, which may contain `{found}`, `{limit}` and `{key}`.
    Message(&'static str),
    /// Another effect, without a message of the host's own.
    Effect(&'static str),
}

/// The limits of one part of the host, with the effect of exceeding them.
#[derive(Clone, Copy, Debug)]
pub struct LimitGroup {
    /// A heading.
    pub title: &'static str,
    /// The effect of exceeding one of the group's limits.
    pub on_exceed: &'static str,
    /// Its rows.
    pub limits: &'static [Limit],
}

/// A row without its last two columns.
struct Row(&'static str, &'static str, Unit, u64);

/// A row without its last column.
struct SetRow(Row, Set);

const fn bytes(name: &'static str, quantity: &'static str, default: u64) -> Row {
    Row(name, quantity, Unit::Bytes, default)
}

const fn count(name: &'static str, quantity: &'static str, default: u64) -> Row {
    Row(name, quantity, Unit::Count, default)
}

const fn time(name: &'static str, quantity: &'static str, default: u64) -> Row {
    Row(name, quantity, Unit::Time, default)
}

impl Row {
    const fn key(self, key: &'static str, min: u64, max: u64) -> SetRow {
        SetRow(self, Set::Key { key, min, max })
    }

    const fn fixed(self, why: &'static str) -> SetRow {
        SetRow(self, Set::Fixed(why))
    }
}

impl SetRow {
    const fn message(self, message: &'static str) -> Limit {
        self.on_exceed(OnExceed::Message(message))
    }

    const fn effect(self, effect: &'static str) -> Limit {
        self.on_exceed(OnExceed::Effect(effect))
    }

    const fn on_exceed(self, on_exceed: OnExceed) -> Limit {
        let SetRow(Row(name, quantity, unit, default), set) = self;
        Limit { name, quantity, unit, default, set, on_exceed }
    }
}

impl Limit {
    /// Returns the default as a size in memory.
    pub(crate) const fn size(&self) -> usize {
        // The host is built for 64-bit machines. On others the cast would truncate `default`, which only
        // makes the limit smaller.
        self.default as usize
    }

    /// Returns the default as a duration.
    pub(crate) const fn time(&self) -> Duration {
        Duration::from_millis(self.default)
    }

    /// Returns the message for a quantity `found` over `limit`.
    pub(crate) fn says(&self, found: impl Display, limit: u64) -> String {
        self.message(&found.to_string(), &limit.to_string())
    }

    /// Returns the message for an operation that took longer than `limit`.
    pub(crate) fn says_of(&self, limit: Duration) -> String {
        self.message("", &humantime::format_duration(limit).to_string())
    }

    fn message(&self, found: &str, limit: &str) -> String {
        let (OnExceed::Message(text) | OnExceed::Effect(text)) = self.on_exceed;
        let text = text.replace("{limit}", limit).replace("{key}", self.key().unwrap_or_default());
        // `{found}` is replaced last, since its text may come from a guest.
        text.replace("{found}", found)
    }

    /// Returns the maximum, whatever value host.yaml sets.
    pub(crate) const fn max(&self) -> u64 {
        match self.set {
            Set::Key { max, .. } => max,
            Set::Fixed(_) => self.default,
        }
    }

    /// Returns the key of host.yaml that changes the limit. Returns None if the limit is fixed.
    pub fn key(&self) -> Option<&'static str> {
        match self.set {
            Set::Key { key, .. } => Some(key),
            Set::Fixed(_) => None,
        }
    }

    /// Returns `number` in the limit's unit, as host.yaml writes it.
    pub fn show(&self, number: u64) -> String {
        match self.unit {
            Unit::Count => number.to_string(),
            Unit::Bytes => show_bytes(number),
            Unit::Time if number.is_multiple_of(MINUTE) => format!("{}m", number / MINUTE),
            Unit::Time => format!("{:?}", Duration::from_millis(number)),
        }
    }

    fn show_default(&self) -> String {
        match self.default {
            0 => "processors + 1".to_owned(),
            default => self.show(default),
        }
    }
}

/// Returns the shortest notation of a number of bytes with a binary suffix.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let suffixes = [("Gi", GI), ("Mi", MI), ("Ki", KI)];
    let binary = suffixes.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    binary.map_or_else(|| bytes.to_string(), |(suffix, scale)| format!("{}{suffix}", bytes / scale))
}
