//! The history of generations: the last generations in memory, and their records in the state directory.

mod directory;
mod lock;
mod record;

pub(crate) use self::directory::is_number;
pub use self::directory::{Damaged, StateDirectory, StateError};
pub use self::record::{CandidateSummary, Damage, PendingReason, Record, RecordError, Summary};
use crate::limits;
use crate::policy::Component;
use crate::problem::{Problem, Subject};
use crate::text;

/// The last generations, oldest first. The last one is in force.
pub(super) struct History {
    summaries: Vec<Summary>,
    directory: Option<StateDirectory>,
}

impl History {
    /// Returns the history that a state directory has recorded, or an empty one.
    pub(super) fn new(mut directory: Option<StateDirectory>) -> History {
        let summaries = directory.as_mut().map(StateDirectory::take_summaries).unwrap_or_default();
        History { summaries, directory }
    }

    /// Returns the state directory, or None if none is in use.
    pub(super) fn directory(&self) -> Option<&StateDirectory> {
        self.directory.as_ref()
    }

    /// Returns the newest generation that is recorded.
    pub(super) fn recorded(&self) -> Option<&Record> {
        self.directory.as_ref()?.newest()
    }

    /// Returns the summary of each generation, oldest first.
    pub(super) fn summaries(&self) -> &[Summary] {
        &self.summaries
    }

    /// Returns the number of the generation after the one with the number `current`. The number of a damaged
    /// record is not used again.
    pub(super) fn number_after(&self, current: u64) -> u64 {
        self.directory.as_ref().map_or(0, StateDirectory::next_number).max(current + 1)
    }

    /// Appends a generation. A record that could not be written is retried by [`History::problems`], which
    /// also reports the error.
    pub(super) fn append(&mut self, record: Record, components: Vec<Component>) {
        self.summaries.retain(|summary| summary.publication.number != record.summary.publication.number);
        self.summaries.push(record.summary.clone());
        self.summaries.drain(..self.summaries.len().saturating_sub(limits::GENERATIONS.size()));
        if let Some(directory) = &mut self.directory {
            let _ = directory.append(record, components);
        }
    }

    /// Records the candidate that is held.
    pub(super) fn hold(&mut self, held: Option<CandidateSummary>) {
        self.amend(|record| record.held = held);
    }

    /// Records that a rollback has ended.
    pub(super) fn release(&mut self) {
        self.amend(|record| record.summary.pinned = false);
        if let Some(last) = self.summaries.last_mut() {
            last.pinned = false;
        }
    }

    fn amend(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(directory) = &mut self.directory {
            // [`History::problems`] reports the error.
            let _ = directory.update_latest(change);
        }
    }

    /// Waits until the records are on the disk, and returns the problems of the state directory.
    pub(super) fn problems(&mut self) -> Vec<Problem> {
        let Some(directory) = &mut self.directory else { return Vec::new() };
        let unrecorded = directory.sync().err().map(|error| {
            let what = format!(
                "the generation in force cannot be recorded in {}, so the next start may not know it: {}",
                text::path(directory.path()),
                text::without_path(&error.to_string())
            );
            let problem = Problem::new(Subject::Records, what);
            problem.with_remedy("it is tried again; make room, or let the host write there")
        });
        let trouble = directory.trouble().map(|what| {
            let problem = Problem::new(Subject::Records, what);
            problem.with_remedy("restart the host, which creates all of it again")
        });
        let left_out = directory.left_out().map(|what| Problem::new(Subject::Records, what));
        unrecorded.into_iter().chain(trouble).chain(left_out).collect()
    }
}
