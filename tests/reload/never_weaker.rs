//! A reload and a restart never weaken the generation in force because of an error: each way to weaken it
//! (`cases/reload/weaker`) in one change with each error (`cases/reload/broken`). Both are JSON merge patches
//! of `cases/reload/in-force.json`, whose policies without a `module` are the scripted one.

use std::collections::BTreeMap;
use std::fs;

use host::reload::Started;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::reload::candidate::Installation;
use crate::support::evaluation::evaluate;
use crate::support::{self, assert_none, cases, denying, project, version};

/// Files of a case, with their content; None removes a file.
type Files = BTreeMap<String, Option<String>>;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    host: Value,
    files: Files,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weaker {
    host: Value,
    files: Files,
    /// A namespace that is denied before, and allowed once the whole change is in force.
    namespace: String,
    image: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broken {
    host: Value,
    files: Files,
    /// The subject of the problem, with or without `policy `.
    named: String,
}

impl State {
    fn in_force() -> State {
        serde_json::from_slice(&fs::read(project("tests/cases/reload/in-force.json")).unwrap()).unwrap()
    }

    fn with(&self, host: &Value, files: &Files) -> State {
        let mut state = self.clone();
        merge(&mut state.host, host);
        state.files.extend(files.clone());
        state
    }

    /// Writes the files into the folder of an installation, and removes every other policy.
    fn write(&self, installation: &Installation) {
        for entry in fs::read_dir(installation.path("policies")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (path, content) in &self.files {
            if let Some(content) = content {
                fs::write(installation.path(path), bytes(content)).unwrap();
            }
        }
        let mut host = self.host.clone();
        let policies = host["policies"].as_object().unwrap().iter().map(|(name, policy)| {
            let mut policy = policy.clone();
            policy["name"] = json!(name);
            let scripted = fs::canonicalize(support::scripted()).unwrap();
            policy.as_object_mut().unwrap().entry("module").or_insert(json!(scripted));
            policy
        });
        host["policies"] = policies.collect();
        host["stateDirectory"] = json!("state");
        let lines = host.as_object().unwrap().iter().map(|(key, value)| format!("{key}: {value}\n"));
        installation.host_yaml(&lines.collect::<String>());
    }
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn bytes(content: &str) -> Vec<u8> {
    match content {
        "core module" => b"\0asm\x01\0\0\0".to_vec(),
        "another world" => b"\0asm\x0d\0\x01\0".to_vec(),
        text if text.starts_with("denying") => denying(text),
        text if text.starts_with("version") => version(text),
        text => text.as_bytes().to_vec(),
    }
}

fn allows(started: &Started, weaker: &Weaker) -> bool {
    let review = support::review(&weaker.namespace, &[&weaker.image]);
    evaluate(&started.policies.current(), &review).allowed()
}

#[test]
fn nothing_is_weakened_while_something_cannot_be_loaded() {
    let in_force = State::in_force();
    let installation = Installation::new("policyDirectory: policies");
    in_force.write(&installation);
    let mut started = installation.start();
    assert_eq!(installation.problems(&started), [""; 0]);
    let before = started.policies.current().content();
    let (weaker, broken) = (cases::<Weaker>("cases/reload/weaker"), cases::<Broken>("cases/reload/broken"));
    let (weaker_ones, broken_ones) = (weaker.len(), broken.len());
    assert!(weaker_ones > 0 && broken_ones > 0);

    let mut wrong = Vec::new();
    for (number, (weakened, weaker)) in weaker.iter().enumerate() {
        let whole = in_force.with(&weaker.host, &weaker.files);
        assert!(!allows(&started, weaker), "{weakened}");
        for (index, (error, broken)) in broken.iter().enumerate() {
            let mut check = |when: &str, started: &Started| {
                let (set, problems) = (started.policies.current(), installation.problems(started));
                let about = |subject: &str| problems.iter().any(|problem| problem.starts_with(subject));
                if set.content() != before || allows(started, weaker) {
                    wrong.push(format!("{weakened}, {error}, {when}: it is weaker"));
                }
                let named = [format!("policy {}: ", broken.named), format!("{}: ", broken.named)];
                let told =
                    format!("change: all stays as it was as long as {} cannot be loaded", broken.named);
                if !named.iter().any(|named| about(named)) || !about(&told) {
                    wrong.push(format!("{weakened}, {error}, {when}: not loud: {problems:#?}"));
                }
            };
            whole.with(&broken.host, &broken.files).write(&installation);
            started.reloader.reload();
            check("after a reload", &started);
            // Each of both at least once. Every host reserves address space, and there is not enough for
            // hundreds.
            if index == number % broken_ones || number == 0 && index >= weaker_ones {
                drop(started);
                started = installation.start();
                check("after a restart", &started);
                started.reloader.reload();
                check("after a restart and a reload", &started);
            }

            // The error alone weakens nothing either, and leaves no trace.
            in_force.write(&installation);
            started.reloader.reload();
            assert_eq!(started.policies.current().content(), before, "{weakened}, {error}");
            assert_eq!(installation.problems(&started), [""; 0], "{weakened}, {error}");
        }
        whole.write(&installation);
        started.reloader.reload();
        assert_eq!(installation.problems(&started), [""; 0], "{weakened}");
        if !allows(&started, weaker) {
            wrong.push(format!("{weakened}: the whole change allows the image no more than before"));
        }
        in_force.write(&installation);
        started.reloader.reload();
    }
    assert_none(&wrong);
}
