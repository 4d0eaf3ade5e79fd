//! Commands to the reload of a running host, their results and their errors.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventSender};
use super::in_force::{InForce, Next};
use super::pending::Pending;
use super::{Reloader, rollback};
use crate::policy::manifest::Cause;
use crate::problem::{Problem, Subject};
use crate::reload::history::{PendingReason, RecordError};

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

/// Reason why a command had no effect, or none yet.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A reload that has ended.
    #[error("the host is stopping, or its reload has failed: see `host status`, and its log")]
    Stops,
    /// No result within this time.
    #[error(
        "the host is busy loading policies, for more than {} s: it does this next, see `host status`",
        .0.as_secs()
    )]
    Busy(Duration),
    /// A rollback without a state directory.
    #[error("there is no way back without a state directory: set `stateDirectory` in host.yaml")]
    NoStateDirectory,
    /// A rollback to the generation before the first one that differs from this one.
    #[error("there is no earlier generation to go back to than {0}")]
    NoEarlier(u64),
    /// A rollback to a generation that cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A rollback to a generation with a policy that was not loaded.
    #[error("generation {0} is no way back: one of its policies was not loaded")]
    NotWhole(u64),
    /// A rollback to a generation of which a policy cannot be loaded.
    #[error("generation {to} cannot be put back: policy {policy}: {why}")]
    NotRestored {
        /// Number of the generation.
        to: u64,
        /// Name of the policy.
        policy: String,
        /// The error.
        why: String,
    },
    /// A release without a rollback.
    #[error("no rollback is in force: files decide already")]
    NoRollback,
    /// An approval without a candidate.
    #[error("no candidate is held")]
    NoCandidate,
    /// An approval of a candidate that waits for the end of a rollback.
    #[error("candidate {0} waits for the end of a rollback: `host rollback --release` puts it in force")]
    WaitsForRelease(String),
    /// An approval of a candidate that the gate rejects, with the reason.
    #[error("candidate {0} is refused, which nobody can approve: {1}")]
    Rejected(String, String),
    /// An approval of another candidate than the one that is held.
    #[error("the candidate that is held is {held}, not {digest}: see `host status`")]
    OtherCandidate {
        /// Digest of the candidate that is held.
        held: String,
        /// Digest in the command.
        digest: String,
    },
}

/// A command, with the channel for its result.
pub(super) struct Request {
    command: Command,
    answer: Sender<Result<Done, CommandError>>,
}

/// A sender of commands to the reload. All senders share one queue, so the commands run one after another.
#[derive(Clone)]
pub struct ReloadHandle(pub(super) EventSender);

impl ReloadHandle {
    /// Sends a command and waits for its result.
    ///
    /// # Errors
    /// Returns an error with the reason if the command had no effect, or if no result came in time.
    pub fn execute(&self, command: Command, patience: Duration) -> Result<Done, CommandError> {
        let (answer, answered) = channel();
        if !self.0.send(Event::Command(Request { command, answer })) {
            return Err(CommandError::Stops);
        }
        answered.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Disconnected => CommandError::Stops,
            RecvTimeoutError::Timeout => CommandError::Busy(patience),
        })?
    }
}

impl fmt::Debug for ReloadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadHandle").finish_non_exhaustive()
    }
}

impl Reloader {
    /// Executes a command, and sends its result.
    pub(super) fn respond(&mut self, request: Request) {
        let done = self.execute(request.command);
        // An error means that the sender no longer waits for the result.
        let _ = request.answer.send(done);
    }

    /// Executes a command.
    ///
    /// # Errors
    /// Returns an error with the reason if the command had no effect.
    pub fn execute(&mut self, command: Command) -> Result<Done, CommandError> {
        let Reloader { inputs, in_force, pending, report, .. } = self;
        let message = match command {
            Command::Rollback { to } => {
                rollback::begin(to, &inputs.compiler, in_force, pending, &report.found)?
            }
            Command::Release => {
                rollback::end(in_force)?;
                self.reload_for(Cause::Released);
                rollback::released(&self.in_force, &self.pending)
            }
            Command::Look => {
                self.reload();
                "the files were looked at".to_owned()
            }
            Command::Approve { digest } => approve(&digest, in_force, pending, &report.found)?,
        };
        self.report();
        let message = match self.report.shown(&Subject::Records) {
            None => message,
            Some(problem) => format!("{message}; but {}", problem.message()),
        };
        Ok(Done { generation: self.in_force.current().generation(), message })
    }
}

/// Puts the held candidate in force, and returns a description. `found` holds the problems of the last pass.
fn approve(
    digest: &str,
    in_force: &mut InForce,
    pending: &mut Pending,
    found: &[Problem],
) -> Result<String, CommandError> {
    let summary = pending.summary().ok_or(CommandError::NoCandidate)?;
    let held = summary.digest.clone();
    match summary.state {
        PendingReason::Held => {}
        PendingReason::Pinned => return Err(CommandError::WaitsForRelease(held)),
        PendingReason::Rejected => return Err(CommandError::Rejected(held, summary.why.clone())),
    }
    if digest != held {
        return Err(CommandError::OtherCandidate { held, digest: digest.to_owned() });
    }
    let candidate = pending.candidate.take().ok_or(CommandError::NoCandidate)?;
    let next =
        Next { set: candidate.set, cause: Cause::Approved, differences: candidate.summary.differences };
    in_force.publish(next, pending, found);
    Ok(format!("candidate {held} is in force"))
}
