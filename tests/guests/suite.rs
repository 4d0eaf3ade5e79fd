//! The suite, and a test for each guest that runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use host::config::yaml::Document;
use host::evaluate::Instances;
use host::policy::{LoadError, PolicySet};
use host::review::verdict::{Said, agree};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::guest::{Guest, ask};

/// `conformance.yaml`, which says what the fields mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    settings: Vec<Settings>,
    reviews: Vec<Review>,
    no_snapshot: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    settings: Value,
    refused: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Review {
    name: String,
    images: BTreeMap<String, Expected>,
    #[serde(default)]
    unlike: BTreeMap<String, Unlike>,
    #[serde(default)]
    disagrees: bool,
}

/// Where a language differs, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlike {
    because: String,
    images: BTreeMap<String, Expected>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    outcome: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    malfunction: Option<String>,
    says: Option<String>,
}

impl Expected {
    fn met(&self, said: &Said) -> bool {
        let log = said.log.iter().map(|line| line.message.clone());
        let words: Vec<String> = log.chain(said.judgement.as_ref().err().map(ToString::to_string)).collect();
        let judged = match (&said.judgement, &self.malfunction) {
            (Ok(decision), None) => {
                self.outcome.as_ref().is_some_and(|outcome| *outcome == decision.outcome.to_string())
                    && self.code.as_ref() == Some(&decision.code)
                    && self.reason.as_ref().is_none_or(|part| decision.reason.contains(part))
            }
            (Err(malfunction), Some(part)) => malfunction.to_string().contains(part),
            _ => false,
        };
        judged && self.says.as_ref().is_none_or(|part| words.iter().any(|line| line.contains(part)))
    }
}

/// Runs the suite; every difference is told.
fn conform(name: &'static str) {
    let document = Document::parse(include_bytes!("conformance.yaml")).unwrap();
    let suite: Suite = serde_json::from_value(document.value).unwrap();
    assert!(suite.settings.len() >= 5 && suite.reviews.len() >= 10, "rows are missing");
    let guest = Guest::new(name);
    let mut differences: Vec<String> =
        suite.settings.iter().filter_map(|row| configured(&guest, row)).collect();
    let policy = guest.load(&json!({ "allow": ["ghcr.io", "localhost:5000"] })).unwrap();
    let set = guest.set(Arc::clone(&policy));
    differences.extend(suite.reviews.iter().flat_map(|row| reviewed(&set, name, row)));

    let (why_not, expected) = (guest.snapshot(&policy), suite.no_snapshot.get(name));
    match (&why_not, expected) {
        (None, None) => {
            let again = suite.reviews.iter().flat_map(|row| reviewed(&set, name, row));
            differences.extend(again.map(|difference| format!("from its snapshot: {difference}")));
        }
        (Some(why_not), Some(parts)) if parts.iter().any(|part| why_not.contains(part)) => {}
        _ => differences.push(format!("why it has no snapshot: expected {expected:?}, got {why_not:?}")),
    }
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
}

fn configured(guest: &Guest, row: &Settings) -> Option<String> {
    let refused = match guest.load(&row.settings) {
        Ok(_) => BTreeMap::new(),
        Err(LoadError::Settings(errors)) => {
            errors.into_iter().map(|error| (error.pointer, error.message)).collect()
        }
        Err(other) => return Some(format!("settings {}: {other}", row.settings)),
    };
    (refused != row.refused)
        .then(|| format!("settings {}: expected {:?}, got {refused:?}", row.settings, row.refused))
}

fn reviewed(set: &PolicySet, name: &str, row: &Review) -> Vec<String> {
    let mut expected = row.images.clone();
    if let Some(unlike) = row.unlike.get(name) {
        assert!(!unlike.because.is_empty(), "{}: it says why {name} differs", row.name);
        expected.extend(unlike.images.clone());
    }
    let images: Vec<String> = expected.keys().cloned().collect();
    let said = ask(set, &images, Instances::Shared);
    let mut differences: Vec<String> = expected
        .iter()
        .zip(&said)
        .filter(|((_, expected), said)| !expected.met(said))
        .map(|((image, expected), said)| {
            format!(
                "{}: {image}: expected {expected:?}, got {:?}, log {:?}",
                row.name, said.judgement, said.log
            )
        })
        .collect();
    for (instances, may_differ) in
        [(Instances::Shared, false), (Instances::Reversed, true), (Instances::Isolated, true)]
    {
        let again = ask(set, &images, instances);
        let same = again.iter().zip(&said).all(|(again, said)| agree(&again.judgement, &said.judgement));
        if same == (may_differ && row.disagrees) {
            differences.push(format!("{}: asked again, {instances:?}: {again:?}", row.name));
        }
    }
    differences
}

#[test]
fn c() {
    conform("c");
}

#[test]
fn go() {
    conform("go");
}

#[test]
fn javascript() {
    conform("javascript");
}

#[test]
fn python() {
    conform("python");
}
