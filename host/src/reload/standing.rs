//! Where the reload stands, for whoever shows it.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::state::{CandidateSummary, Summary};

/// Something that is not as configured, and what that means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The policy or file that it is about.
    pub subject: String,
    /// What is wrong, where, and what is in force instead. One line.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A message about a place in a file begins with the file.
        match self.message.starts_with(&self.subject) {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.subject, self.message),
        }
    }
}

/// Where the reload stands: what is not as configured, what waits, and how it came to that.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Empty when everything is as configured.
    pub problems: Vec<Problem>,
    /// A candidate that is not put in force.
    pub candidate: Option<CandidateSummary>,
    /// Whether the generation in force stays, whatever files change.
    pub pinned: bool,
    /// The generations that there were, oldest first; the last one is in force.
    pub history: Vec<Summary>,
    /// How the looks at the files came out.
    pub results: Results,
}

/// How many looks at the files came out how, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// A new generation is in force.
    pub published: u64,
    /// All is as it was.
    pub unchanged: u64,
    /// A candidate waits.
    pub waiting: u64,
    /// Something is not as configured, and nothing new is in force.
    pub failed: u64,
}

/// Where the reload stands, for whoever shows it.
#[derive(Clone)]
pub struct StandingReader {
    pub(super) standing: Arc<ArcSwap<Standing>>,
    pub(super) alive: Weak<()>,
}

impl StandingReader {
    /// Where it stands now.
    pub fn current(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Whether there is a reload that brings the next generation.
    pub fn reload_lives(&self) -> bool {
        self.alive.strong_count() > 0
    }
}
