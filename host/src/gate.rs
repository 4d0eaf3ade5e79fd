//! Whether a candidate may take the place of what is in force, by what host.yaml asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::PolicySet;

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// It is put in force.
    Swap(Differences),
    /// It waits until someone approves it, for this reason.
    Hold(Differences, String),
    /// It is not put in force, for this reason.
    Refuse(String),
}

/// What the candidate would have decided otherwise than the set in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Differences {
    /// Reviews that both judged.
    pub reviews: u64,
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "none in {} reviews", self.reviews)
    }
}

/// Judges candidates.
#[derive(Default)]
pub struct Gate {}

impl Gate {
    /// Whether it may keep a candidate from being put in force.
    pub fn asks(&self) -> bool {
        false
    }

    /// Rules on a candidate that would take the place of `current`. It is asked again at every hint as long as a
    /// candidate waits.
    pub fn judge(&mut self, _candidate: &PolicySet, _current: &PolicySet) -> Ruling {
        Ruling::Swap(Differences::default())
    }
}
