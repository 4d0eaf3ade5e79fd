//! Commands to a running host: roll back, release, reload, and approve a held candidate.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Next, PATIENCE, Reloader, UNRECORDED, restore};
use crate::policy::manifest::Cause;
use crate::reload::history::{Record, Waits};

/// A command to the reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Puts the content of an older generation in force again, and keeps it whatever files change.
    Rollback {
        /// Number of the generation. None stands for the generation before the one in force.
        to: Option<u64>,
    },
    /// Ends a rollback, so that files decide again.
    Release,
    /// Looks at the files now.
    Look,
    /// Puts the held candidate in force.
    Approve {
        /// Digest of the candidate. A candidate that came after the operator looked has another digest, and
        /// so is not approved by mistake.
        digest: String,
    },
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The generation in force after the command.
    pub generation: String,
    /// Description of the effect.
    pub message: String,
}

/// A command, with the channel for its result.
pub(super) struct Asked {
    command: Command,
    answer: Sender<Result<Done, String>>,
}

/// A sender of commands to the reload. All senders share one queue, so the commands run one after another.
#[derive(Clone)]
pub struct Asker {
    asked: Sender<Asked>,
    wake: Arc<Mutex<Box<dyn Fn() + Send>>>,
}

impl Asker {
    pub(super) fn new() -> (Asker, Receiver<Asked>) {
        let (asked, receiver) = channel();
        (Asker { asked, wake: Arc::new(Mutex::new(Box::new(|| {}))) }, receiver)
    }

    pub(super) fn wake_by(&self, wake: impl Fn() + Send + 'static) {
        *self.wake.lock() = Box::new(wake);
    }

    /// Sends a command and waits for its result.
    ///
    /// # Errors
    /// Returns an error with the reason if the command had no effect, or if no result came in time.
    pub fn ask(&self, command: Command, patience: Duration) -> Result<Done, String> {
        const STOPS: &str = "the host is stopping, or its reload has failed: see `host status`, and its log";
        let (answer, answered) = channel();
        self.asked.send(Asked { command, answer }).map_err(|_| STOPS)?;
        self.wake.lock()();
        answered.recv_timeout(patience).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Disconnected => STOPS.to_owned(),
            std::sync::mpsc::RecvTimeoutError::Timeout => format!(
                "the host is busy loading policies, for more than {} s: it does this next, see `host status`",
                patience.as_secs()
            ),
        })?
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

impl Reloader {
    pub(super) fn answer(&mut self, asked: Asked) {
        let done = self.obey(asked.command);
        // An error means that the sender no longer waits for the result.
        let _ = asked.answer.send(done);
    }

    /// Executes a command.
    ///
    /// # Errors
    /// Returns an error with the reason if the command had no effect.
    pub fn obey(&mut self, command: Command) -> Result<Done, String> {
        let message = match command {
            Command::Rollback { to } => self.roll_back(to)?,
            Command::Release => self.release()?,
            Command::Look => {
                self.reload();
                "the files were looked at".to_owned()
            }
            Command::Approve { digest } => self.approve(&digest)?,
        };
        self.report();
        let standing = self.standing.load();
        let unrecorded = standing.problems.iter().find(|problem| problem.subject == UNRECORDED);
        let message = match unrecorded {
            None => message,
            Some(problem) => format!("{message}; but {}", problem.message),
        };
        Ok(Done { generation: self.policies.current().generation(), message })
    }

    fn roll_back(&mut self, to: Option<u64>) -> Result<String, String> {
        let Some(state) = &self.state else {
            return Err("there is no way back without a state directory: set `stateDirectory` in host.yaml"
                .to_owned());
        };
        let number = match to {
            Some(number) => number,
            None => self.previous()?,
        };
        let record: Record = state.record(number)?;
        if !record.content.is_whole() {
            return Err(format!("generation {number} is no way back: one of its policies was not loaded"));
        }
        let set = restore::set(&self.preparer, state, &record, Instant::now() + PATIENCE);
        if let Some((name, error)) =
            set.policies.iter().find_map(|entry| Some((&entry.name, entry.loaded.as_ref().err()?)))
        {
            return Err(format!("generation {number} cannot be put back: policy {name}: {error}"));
        }
        self.pinned = true;
        let cause = Cause::RolledBack { to: number };
        self.publish(Next { set, cause, differences: None });
        Ok(format!("what generation {number} was made of is in force again, until `host rollback --release`"))
    }

    /// Returns the last whole generation before the one in force whose content differs from it.
    fn previous(&self) -> Result<u64, String> {
        let current = self.policies.current();
        let now = match current.publication().cause {
            Cause::RolledBack { to } => to,
            _ => current.number(),
        };
        let mut earlier = self.history.iter().rev().filter(|summary| summary.publication.number < now);
        let previous = earlier.find(|summary| summary.whole && summary.digest != current.digest());
        previous
            .map(|summary| summary.publication.number)
            .ok_or_else(|| format!("there is no earlier generation to go back to than {now}"))
    }

    fn release(&mut self) -> Result<String, String> {
        if !self.pinned {
            return Err("no rollback is in force: files decide already".to_owned());
        }
        self.pinned = false;
        if let Some(state) = &mut self.state {
            // `report` shows the error.
            let _ = state.amend(|record| record.summary.pinned = false);
        }
        if let Some(last) = self.history.back_mut() {
            last.pinned = false;
        }
        self.reload_for(Cause::Released);
        Ok(match self.waits() {
            None if !self.whole => {
                "files decide again, but the generation in force is what was put back as long as they \
                                    cannot be loaded: see `host status`"
                    .to_owned()
            }
            None => "files decide again".to_owned(),
            Some(waits) => {
                format!("files decide again, but the generation in force is what was put back: {waits}")
            }
        })
    }

    fn approve(&mut self, digest: &str) -> Result<String, String> {
        let Some(waiting) = &self.waiting else { return Err("no candidate is held".to_owned()) };
        let found = &waiting.summary.digest;
        match waiting.summary.state {
            Waits::Held => {}
            Waits::Pinned => {
                return Err(format!(
                    "candidate {found} waits for the end of a rollback: `host rollback --release` puts it in force"
                ));
            }
            Waits::Refused => {
                return Err(format!(
                    "candidate {found} is refused, which nobody can approve: {}",
                    waiting.summary.why
                ));
            }
        }
        if digest != found {
            return Err(format!("the candidate that is held is {found}, not {digest}: see `host status`"));
        }
        let Some(waiting) = self.waiting.take() else { return Err("no candidate is held".to_owned()) };
        let digest = waiting.summary.digest.clone();
        self.publish(Next {
            set: waiting.set,
            cause: Cause::Approved,
            differences: waiting.summary.differences,
        });
        Ok(format!("candidate {digest} is in force"))
    }
}
