//! A problem in the status: a deviation from the configuration, with its subject, effect and remedy. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::limits;
use crate::text;

/// A deviation from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The policy, file or part of the host concerned.
    #[serde(rename = "about")]
    pub subject: Subject,
    /// The error and its place.
    pub what: String,
    /// The policies or files in force while the problem lasts.
    pub in_force_instead: Option<Instead>,
    /// The next step of the operator.
    pub remedy: Option<String>,
}

/// The policy, file or part of the host that a problem concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "camelCase")]
pub enum Subject {
    /// The policy with this name.
    Policy(String),
    /// host.yaml, at this path.
    HostYaml(String),
    /// Another file or folder, at this path.
    File(String),
    /// The folder of `policyDirectory`, at this path.
    PolicyDirectory(String),
    /// The pending candidate with this digest.
    Candidate(String),
    /// The first policy set of a process.
    FirstPolicySet,
    /// A change that waits until all of it can be loaded.
    Change,
    /// The TLS material.
    Tls,
    /// The state directory, at this path.
    StateDirectory(String),
    /// The records in the state directory.
    Records,
    /// The gate.
    Gate,
    /// A rollback in force.
    Rollback,
    /// The thread that reloads.
    Reload,
    /// The watching of the files.
    Watching,
    /// The cache of compiled policies.
    Cache,
    /// The processes that compile policies.
    Compiling,
    /// The pool of instances.
    Instances,
    /// The requests of clients.
    Requests,
    /// The list of problems.
    Problems,
}

/// The policies or files in force while a problem lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Instead {
    /// The generation in force.
    Generation,
    /// The generation in force, because no change can come into force.
    GenerationWithoutChange,
    /// The last generation of the previous process.
    PreviousGeneration,
    /// The last good version of the policy.
    LastGood,
    /// The last good version of the policy, from the state directory.
    RecordedLastGood,
    /// The policy's `failurePolicy`, because no version of the policy was ever loaded.
    FailurePolicy,
    /// Nothing.
    Nothing,
}

impl Subject {
    /// Returns the subject for a policy.
    pub fn policy(name: impl fmt::Display) -> Subject {
        Subject::Policy(name.to_string())
    }

    /// Returns the subject for a file or folder other than host.yaml.
    pub fn file(path: &std::path::Path) -> Subject {
        Subject::File(text::path(path))
    }

    /// Returns the subject for the state directory.
    pub fn state_directory(path: &std::path::Path) -> Subject {
        Subject::StateDirectory(text::path(path))
    }

    /// Returns the subject for host.yaml.
    pub fn host_yaml(path: &std::path::Path) -> Subject {
        Subject::HostYaml(text::path(path))
    }

    /// Returns whether the subject is the policy with this name.
    pub fn is_policy(&self, name: &str) -> bool {
        matches!(self, Subject::Policy(policy) if policy == name)
    }

    /// Returns the name of a policy, or the text of another subject.
    pub fn name(&self) -> String {
        match self {
            Subject::Policy(name) => name.clone(),
            other => other.to_string(),
        }
    }

    /// Returns the subject with a name within its size limit.
    fn bounded(self) -> Subject {
        let bound = |name: String| one_line(&name, limits::PROBLEM.size());
        match self {
            Subject::Policy(name) => Subject::Policy(bound(name)),
            Subject::HostYaml(path) => Subject::HostYaml(bound(path)),
            Subject::File(path) => Subject::File(bound(path)),
            Subject::StateDirectory(path) => Subject::StateDirectory(bound(path)),
            Subject::PolicyDirectory(path) => Subject::PolicyDirectory(bound(path)),
            Subject::Candidate(digest) => Subject::Candidate(bound(digest)),
            part => part,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Policy(name) => write!(f, "policy {name}"),
            Subject::HostYaml(path) | Subject::File(path) | Subject::StateDirectory(path) => {
                f.write_str(path)
            }
            Subject::PolicyDirectory(path) => write!(f, "policyDirectory {path}"),
            Subject::Candidate(digest) => write!(f, "candidate {digest}"),
            Subject::FirstPolicySet => f.write_str("the first policy set"),
            Subject::Change => f.write_str("change"),
            Subject::Tls => f.write_str("tls"),
            Subject::Records => f.write_str("state directory"),
            Subject::Gate => f.write_str("gate"),
            Subject::Rollback => f.write_str("rollback"),
            Subject::Reload => f.write_str("reload"),
            Subject::Watching => f.write_str("watching"),
            Subject::Cache => f.write_str("cache"),
            Subject::Compiling => f.write_str("compiling"),
            Subject::Instances => f.write_str("instances"),
            Subject::Requests => f.write_str("requests"),
            Subject::Problems => f.write_str("problems"),
        }
    }
}

impl Instead {
    /// Returns the text that a problem states.
    pub fn text(self) -> &'static str {
        match self {
            Instead::Generation => "the generation in force stays",
            Instead::GenerationWithoutChange => {
                "until then no change comes into force, and the generation in force stays"
            }
            Instead::PreviousGeneration => "the generation that was in force before is so again",
            Instead::LastGood => "its last good version stays in force, as it was configured",
            Instead::RecordedLastGood => {
                "its last good version, from the state directory, is in force as it was configured"
            }
            Instead::FailurePolicy => "no good version is known, so it malfunctions by its failurePolicy",
            Instead::Nothing => "it is not in force",
        }
    }
}

impl Problem {
    /// Returns a problem without effect and remedy.
    pub fn new(subject: Subject, what: impl fmt::Display) -> Problem {
        Problem { subject, what: what.to_string(), in_force_instead: None, remedy: None }
    }

    /// Adds the effect.
    #[must_use]
    pub fn with_instead(self, instead: impl Into<Option<Instead>>) -> Problem {
        Problem { in_force_instead: instead.into(), ..self }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Problem {
        Problem { remedy: Some(remedy.into()), ..self }
    }

    /// Returns the error, the effect and the remedy as one line.
    pub fn message(&self) -> String {
        match self.note() {
            Some(note) => format!("{} ({note})", self.what),
            None => self.what.clone(),
        }
    }

    fn note(&self) -> Option<Cow<'_, str>> {
        match (self.in_force_instead.map(Instead::text), self.remedy.as_deref()) {
            (None, None) => None,
            (Some(part), None) | (None, Some(part)) => Some(Cow::Borrowed(part)),
            (Some(instead), Some(remedy)) => Some(Cow::Owned(format!("{instead}; {remedy}"))),
        }
    }

    /// Returns the problem as it is shown: on one line, escaped, and within its size limit. The error is
    /// shortened first, so that the effect and the remedy stay readable.
    pub fn bounded(&self) -> Problem {
        let most = limits::PROBLEM.size();
        let remedy = self.remedy.as_deref().map(|remedy| one_line(remedy, most / 2));
        let bounded = Problem { subject: self.subject.clone().bounded(), remedy, ..self.clone() };
        let note = bounded.note().map_or(0, |note| note.len() + " ()".len());
        Problem { what: one_line(&self.what, most.saturating_sub(note)), ..bounded }
    }

    /// Returns the first `most` problems, each within its size limit, and a further problem with the number
    /// of the others.
    pub fn first(problems: &[Problem], most: usize) -> Vec<Problem> {
        let mut first: Vec<_> = problems.iter().take(most).map(Problem::bounded).collect();
        if let Some(more @ 1..) = problems.len().checked_sub(most) {
            let what = format!("{more} more problems are not listed: mend those that are, and look again");
            first.push(Problem::new(Subject::Problems, what));
        }
        first
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, message) = (self.subject.to_string(), self.message());
        // An error with a place in a file begins with the file.
        match message.starts_with(&subject) {
            true => f.write_str(&message),
            false => write!(f, "{subject}: {message}"),
        }
    }
}

/// Writes the subject and the message also as the texts that people see.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            subject: String,
            message: String,
            about: &'a Subject,
            what: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            in_force_instead: Option<Instead>,
            #[serde(skip_serializing_if = "Option::is_none")]
            remedy: Option<&'a str>,
        }
        let document = Document {
            subject: self.subject.to_string(),
            message: self.message(),
            about: &self.subject,
            what: &self.what,
            in_force_instead: self.in_force_instead,
            remedy: self.remedy.as_deref(),
        };
        document.serialize(serializer)
    }
}

/// Returns the first few names, and the number of the others.
pub fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn one_line(text: &str, bytes: usize) -> String {
    match text.contains('\n') {
        true => text::escape_and_truncate(&text.replace('\n', "; "), bytes),
        false => text::escape_and_truncate(text, bytes),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_read_back_and_names_its_parts() {
        let problem = Problem::new(Subject::policy("a"), "a.wasm: no file").with_instead(Instead::LastGood);
        let document = serde_json::to_value(&problem).unwrap();
        let expected = json!({
            "subject": "policy a",
            "message": "a.wasm: no file (its last good version stays in force, as it was configured)",
            "about": { "kind": "policy", "name": "a" },
            "what": "a.wasm: no file",
            "inForceInstead": "lastGood",
        });
        assert_eq!(document, expected);
        assert_eq!(serde_json::from_value::<Problem>(document).unwrap(), problem);
        let problem = Problem::new(Subject::Gate, "x").with_remedy("mend it");
        let document = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            (&document["about"], &document["remedy"]),
            (&json!({ "kind": "gate" }), &json!("mend it"))
        );
        assert_eq!(serde_json::from_value::<Problem>(document).unwrap(), problem);
    }

    #[test]
    fn a_line_names_each_part_once() {
        let problem = Problem::new(Subject::HostYaml("h.yaml".into()), "h.yaml:1:2: wrong");
        let problem = problem.with_instead(Instead::Generation).with_remedy("mend it");
        assert_eq!(problem.to_string(), "h.yaml:1:2: wrong (the generation in force stays; mend it)");
        assert_eq!(Problem::new(Subject::Tls, "expired").to_string(), "tls: expired");
    }

    /// limit: problem within
    #[test]
    fn a_long_error_leaves_room_for_the_effect() {
        let most = limits::PROBLEM.size();
        let long = "\n\u{202e}x".repeat(most);
        let problem = Problem::new(Subject::File(long.clone()), &long).with_instead(Instead::Generation);
        let bounded = problem.with_remedy(&long).bounded();
        let message = bounded.message();
        assert!(message.len() <= most && bounded.subject.to_string().len() <= most, "{message}");
        assert!(
            message.contains("… (the generation in force stays; ") && message.ends_with("…)"),
            "{message}"
        );
        assert!(!message.contains(char::is_control), "{message}");
    }
}
