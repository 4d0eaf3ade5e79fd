//! The time that files must be quiet before a reload. The least time between two reloads is a limit
//! (`limits::RELOAD_PAUSE`), and the age at which errors of a file are reported is in `file_states`. Pure.

use std::time::{Duration, Instant};

/// Quiet time that ends a burst of changes.
pub(super) const QUIET: Duration = Duration::from_millis(30);
/// Quiet time after a rename. A renamed file is complete, and only changes of its neighbours may follow.
pub(super) const QUIET_AFTER_RENAME: Duration = Duration::from_millis(10);
/// Maximum length of a burst. A wake-up follows even if the changes go on.
const LONGEST: Duration = Duration::from_millis(250);

/// Changes that have caused no wake-up yet.
pub(super) struct Burst {
    began: Instant,
    over: Instant,
}

impl Burst {
    /// Returns a burst that begins now.
    pub(super) fn new(now: Instant) -> Burst {
        Burst { began: now, over: now }
    }

    /// Records a change, after which the files must be quiet for the time `quiet`.
    pub(super) fn changed(&mut self, now: Instant, quiet: Duration) {
        self.over = self.over.max(now + quiet).min(self.began + LONGEST);
    }

    /// Returns when the burst is over if no other change comes.
    pub(super) fn over(&self) -> Instant {
        self.over
    }
}
