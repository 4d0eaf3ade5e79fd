//! `host status`

use std::fmt::{self, Display, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use super::{Exit, Failure, Output, RunningHost, another_answer, exit, say, say_json};
use crate::config::Mode;
use crate::reload::history::{CandidateSummary, PendingReason, Summary};
use crate::serve::control::{Answer, Request};
use crate::serve::status::{PolicyStatus, Status};

/// Show a running host, and everything that is not as configured
///
/// Shows the generation in force and those before it, and the pending candidate too.
///
/// Exit status: 0 all is as configured, 1 it is not, 2 usage, or no host responds.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    host: RunningHost,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(status(&arguments))
}

fn status(arguments: &Arguments) -> Result<Exit, Failure> {
    let status = match arguments.host.ask(&Request::Status)? {
        Answer::Status(status) => status,
        Answer::Refused(why) => return Err(Failure::broken(why)),
        other @ Answer::Done(_) => return Err(another_answer(&other)),
    };
    match arguments.output.is_json() {
        true => say_json(&status)?,
        false => say(Text(&status))?,
    }
    Ok(if status.degraded { Exit::No } else { Exit::Yes })
}

struct Text<'a>(&'a Status);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        let generation = &status.generation;
        let publication = &generation.publication;
        writeln!(
            f,
            "generation {}-{} in force since {} ({})",
            publication.number,
            generation.digest,
            time(publication.published),
            publication.cause
        )?;
        if status.draining {
            writeln!(
                f,
                "  draining: the host accepts no new connections, and exits after the pending responses"
            )?;
        }
        if generation.pinned {
            writeln!(f, "  pinned until `host rollback --release`")?;
        }
        if status.mode == Mode::Audit {
            writeln!(f, "  mode audit: the host denies nothing")?;
        }
        for policy in &status.policies {
            writeln!(f, "  {}", line(policy))?;
        }
        if let Some(candidate) = &status.candidate {
            write!(f, "\n{}", waiting(candidate)?)?;
        }
        if !status.problems.is_empty() {
            writeln!(f, "\nnot as configured")?;
            for problem in &status.problems {
                writeln!(f, "  {problem}")?;
            }
        }
        if !status.warnings.is_empty() {
            writeln!(f, "\nworth knowing")?;
            for warning in &status.warnings {
                writeln!(f, "  {warning}")?;
            }
        }
        let notices: Vec<_> = notices(status).collect();
        if !notices.is_empty() {
            writeln!(f, "\nneeds attention")?;
            for notice in notices {
                writeln!(f, "  {notice}")?;
            }
        }
        write!(f, "\ngenerations")?;
        for summary in status.history.iter().rev() {
            write!(f, "\n{}", past(summary)?)?;
        }
        Ok(())
    }
}

/// Returns the notices about expiring certificates and a decision log that cannot be written.
fn notices(status: &Status) -> impl Iterator<Item = String> {
    let certificates = status.certificates.iter().filter_map(|certificate| certificate.notice.clone());
    let trouble = status.decision_log.iter().filter_map(|log| log.trouble.as_ref());
    certificates.chain(trouble.map(|trouble| format!("decision log: {trouble}")))
}

fn line(policy: &PolicyStatus) -> String {
    let audit = if policy.mode == Mode::Audit { " (audit)" } else { "" };
    match policy.error.as_ref().or(policy.failing.as_ref()) {
        None => format!("{}{audit}: ok", policy.name),
        Some(why) => format!("{}{audit}: {why}", policy.name),
    }
}

fn waiting(candidate: &CandidateSummary) -> Result<String, fmt::Error> {
    let CandidateSummary { digest, since, state, why, changes, differences } = candidate;
    let state = match state {
        PendingReason::Pinned => "waits for `host rollback --release`".to_owned(),
        PendingReason::Held => format!("is held until `host approve {digest}`"),
        PendingReason::Rejected => "is refused".to_owned(),
    };
    let mut text = format!("candidate {digest} {state} since {}: {why}\n", time(*since));
    if !changes.is_empty() {
        writeln!(text, "  changes: {}", listed(changes))?;
    }
    if let Some(differences) = differences {
        writeln!(text, "  differences: {differences}")?;
    }
    Ok(text)
}

fn past(summary: &Summary) -> Result<String, fmt::Error> {
    let publication = &summary.publication;
    let mut text = format!(
        "  {:>5}-{}  {}  {}",
        publication.number,
        summary.digest,
        time(publication.published),
        publication.cause
    );
    if !summary.changes.is_empty() {
        write!(text, ": {}", listed(&summary.changes))?;
    }
    if let Some(differences) = &summary.differences {
        write!(text, "\n         differences: {differences}")?;
    }
    for problem in &summary.problems {
        write!(text, "\n         {problem}")?;
    }
    Ok(text)
}

/// Returns the first few changes, and the number of the others.
fn listed<T: Display>(changes: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<_> = changes.iter().take(SHOWN).map(T::to_string).collect();
    if changes.len() > SHOWN {
        shown.push(format!("and {} more", changes.len() - SHOWN));
    }
    shown.join(", ")
}

fn time(time: SystemTime) -> impl Display {
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH))
}
