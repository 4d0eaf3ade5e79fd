//! The status of the reload, for `host status`, metrics and health checks.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::reload::history::{CandidateSummary, Summary};
use crate::text;

/// A deviation from the configuration, and its effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The policy, file or part of the host concerned.
    pub subject: String,
    /// The error, its place, and the policies or files in force instead, in one line.
    pub message: String,
}

impl Problem {
    /// Returns the problem as it is shown: each part on one line, escaped, and within its size limit.
    pub(super) fn bounded(&self) -> Problem {
        let part = |text: &str| one_line(text, limits::PROBLEM.size());
        Problem { subject: part(&self.subject), message: part(&self.message) }
    }
}

/// Returns `error` followed by `instead`, the effect. The error is shortened so that the effect stays
/// readable.
pub(super) fn because(error: &dyn std::fmt::Display, instead: &str) -> String {
    let room = limits::PROBLEM.size().saturating_sub(instead.len() + " ()".len());
    format!("{} ({instead})", one_line(&error.to_string(), room))
}

/// Returns the first `most` problems, each within its size limit, and a further problem with the number of
/// the others.
pub(super) fn first(problems: &[Problem], most: usize) -> Vec<Problem> {
    let mut first: Vec<_> = problems.iter().take(most).map(Problem::bounded).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(most) {
        let message = format!("{more} more problems are not listed: mend those that are, and look again");
        first.push(Problem { subject: "problems".to_owned(), message });
    }
    first
}

/// Returns the first few names, and the number of the others.
pub(super) fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn one_line(text: &str, bytes: usize) -> String {
    match text.contains('\n') {
        true => text::shown(&text.replace('\n', "; "), bytes),
        false => text::shown(text, bytes),
    }
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

/// The status of the reload: deviations from the configuration, the pending candidate, and the history.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Empty when everything is as configured.
    pub problems: Vec<Problem>,
    /// The candidate that is pending.
    pub candidate: Option<CandidateSummary>,
    /// Whether the generation in force stays, whatever files change.
    pub pinned: bool,
    /// The last generations, oldest first; the last one is in force.
    pub history: Vec<Summary>,
    /// Number of passes by result.
    pub results: Results,
}

/// Number of passes over the files by result, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Passes that put a new generation in force.
    pub published: u64,
    /// Passes that changed nothing.
    pub unchanged: u64,
    /// Passes without a problem after which a candidate is pending.
    pub waiting: u64,
    /// Passes with a problem that put nothing new in force.
    pub failed: u64,
}

/// A reader of the reload's status.
#[derive(Clone)]
pub struct StandingReader {
    pub(super) standing: Arc<ArcSwap<Standing>>,
    pub(super) looking: Weak<Looking>,
}

/// Progress of the reload, as far as other threads need it.
#[derive(Default)]
pub(super) struct Looking(Mutex<Option<Look>>);

/// A pass over the files that is running.
#[derive(Clone, Copy)]
struct Look {
    began: Instant,
    usual: Duration,
}

/// Maximum duration of a pass, without the gate's budget, unless a file system hangs.
const USUAL: Duration = Duration::from_secs(60);

impl Looking {
    /// Records that a pass begins, in which the gate may take the duration `gate`.
    pub(super) fn begin(&self, gate: Duration) {
        self.set(Some(Look { began: Instant::now(), usual: USUAL + gate }));
    }

    /// Records that the pass has ended.
    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, look: Option<Look>) {
        *self.0.lock() = look;
    }

    /// Returns the running pass if it takes longer than any pass should.
    fn stuck(&self) -> Option<Look> {
        let look = *self.0.lock();
        look.filter(|look| look.began.elapsed() > look.usual)
    }
}

impl StandingReader {
    /// Returns the current status.
    pub fn current(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Returns all current problems, including a reload that hangs or has ended.
    pub fn problems(&self) -> Vec<Problem> {
        let message = match self.looking.upgrade().map(|looking| looking.stuck()) {
            Some(None) => None,
            Some(Some(Look { began, .. })) => Some(format!(
                "a look at the files has not ended for {} s, so nothing that changes comes into force (a file system that \
                 hangs, most likely: mend it, or restart the host; what is in force stays until then)",
                began.elapsed().as_secs()
            )),
            None => Some(
                "it has ended by a defect, so files are followed no more, and nothing can be put back (restart the host; \
                 what is in force stays until then)"
                    .to_owned(),
            ),
        };
        let own = message.map(|message| Problem { subject: "reload".to_owned(), message });
        self.current().problems.iter().cloned().chain(own).collect()
    }

    /// Returns whether the reload is running, so that later generations can come.
    pub fn reload_lives(&self) -> bool {
        self.looking.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_does_not_end_is_told_and_one_that_takes_its_time_is_not() {
        let looking = Arc::<Looking>::default();
        let reader = StandingReader { standing: Arc::default(), looking: Arc::downgrade(&looking) };
        let told = |ago: Duration, gate: Duration| {
            looking.set(Some(Look { began: Instant::now() - ago, usual: USUAL + gate }));
            let problems = reader.problems();
            assert!(
                problems.iter().all(|problem| problem.message.contains("has not ended for")),
                "{problems:?}"
            );
            problems.len()
        };
        let minute = Duration::from_secs(60);
        assert_eq!([told(minute / 2, Duration::ZERO), told(2 * minute, 2 * minute)], [0, 0]);
        assert_eq!(told(2 * minute, Duration::ZERO), 1);
        looking.end();
        assert_eq!(reader.problems(), []);
        drop(looking);
        assert!(reader.problems()[0].message.contains("has ended by a defect"));
    }
}
