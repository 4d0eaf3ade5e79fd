//! Suite files, run natively: the policy in this process, as `host test` runs its component.
//!
//! A native run has one policy and neither host.yaml nor manifests, so it takes the part of the format that
//! concerns one policy: `policies` with one entry, of which `settings` count; `namespace`, `annotations` and
//! `matrix`; and cases with `images`, `settings`, `refused`, `only` and `except`. Everything else, and
//! regular expressions, end the run with a message: `host test` runs such a file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value};

use super::expectation::{Outcomes, unmet, unmet_text};
use super::yaml;
use crate::export::{Judge, Read};
use crate::{Context, Image};

/// The reason why a suite cannot run.
#[derive(Debug)]
pub(super) enum SuiteError {
    /// A folder or file cannot be read.
    Io(PathBuf, io::Error),
    /// The file is no YAML that JSON can hold.
    Yaml(String),
    /// A value is not of the format.
    Format(String),
    /// A part of the format that only `host test` runs.
    Unsupported(String),
}

impl core::fmt::Display for SuiteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SuiteError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            SuiteError::Yaml(message) | SuiteError::Format(message) => f.write_str(message),
            SuiteError::Unsupported(part) => write!(f, "{part} does not run natively: use `host test`"),
        }
    }
}

/// Runs the suite files in a folder and below it.
///
/// # Panics
/// Panics with all cases that failed, if a suite cannot run, or if there is no case.
pub fn run<P>(folder: &str, read: Read<P>, judge: Judge<P>) {
    let mut failures = Vec::new();
    let mut cases = 0_usize;
    let mut files = Vec::new();
    if let Err(error) = collect(Path::new(folder), &mut files) {
        failures.push(error.to_string());
    }
    for path in files {
        let mut failed = |place: &str, message: String| {
            failures.push(format!("{}{place}: {message}", path.display()));
        };
        match Suite::read(&path) {
            Ok(None) => {}
            Ok(Some(suite)) => match suite.run(read, judge, &mut failed) {
                Ok(number) => cases = cases.saturating_add(number),
                Err(error) => failed("", error.to_string()),
            },
            Err(error) => failed("", error.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(cases > 0, "{folder}: no case ran");
}

/// Collects the YAML files below a folder, sorted. Names that begin with `.` are left out.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), SuiteError> {
    let io = |error| SuiteError::Io(folder.to_owned(), error);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(io)?;
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    Ok(())
}

type Object = Map<String, Value>;

/// A suite file.
struct Suite {
    /// The name of the policy under test.
    policy: String,
    settings: Value,
    file: Object,
}

impl Suite {
    /// Reads a file. Returns None if the file is no suite.
    fn read(path: &Path) -> Result<Option<Suite>, SuiteError> {
        let text = fs::read_to_string(path).map_err(|error| SuiteError::Io(path.to_owned(), error))?;
        let Value::Object(file) = yaml::parse(&text)? else { return Ok(None) };
        if file.get("kind").and_then(Value::as_str) != Some("Suite") {
            return Ok(None);
        }
        known(&file, &["apiVersion", "kind", "policies", "namespace", "annotations", "matrix", "cases"])?;
        let policies = file.get("policies").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let [Value::Object(entry)] = policies else {
            return Err(SuiteError::Unsupported("a suite without exactly one policy".to_owned()));
        };
        known(entry, &["name", "module", "settings"])?;
        let policy = text_of(entry, "name")?.unwrap_or_default().to_owned();
        let settings = entry.get("settings").cloned().unwrap_or(Value::Object(Object::new()));
        Ok(Some(Suite { policy, settings, file }))
    }

    /// Judges each case for each row of the matrix, and returns how often.
    fn run<P>(
        &self,
        read: Read<P>,
        judge: Judge<P>,
        failed: &mut dyn FnMut(&str, String),
    ) -> Result<usize, SuiteError> {
        let mut rows = vec![None];
        if self.file.contains_key("matrix") {
            rows = objects(&self.file, "matrix")?.into_iter().map(Some).collect();
        }
        let mut number = 0_usize;
        for row in rows {
            let row_name = row.map(|row| text_of(row, "name")).transpose()?.flatten();
            if let Some(row) = row {
                known(row, &["name", "settings"])?;
            }
            for case in objects(&self.file, "cases")? {
                let keys = ["name", "namespace", "annotations", "images", "settings"];
                known(case, &[&keys[..], &["only", "except", "expect", "refused"]].concat())?;
                if !runs_in(case, row_name) {
                    continue;
                }
                number = number.saturating_add(1);
                let name = text_of(case, "name")?.unwrap_or_default();
                let place = match row_name {
                    Some(row) => format!(" › {row} › {name}"),
                    None => format!(" › {name}"),
                };
                for problem in self.case(case, row, read, judge)? {
                    failed(&place, problem);
                }
            }
        }
        Ok(number)
    }

    /// Runs one case in one row, and returns how it fails.
    fn case<P>(
        &self,
        case: &Object,
        row: Option<&Object>,
        read: Read<P>,
        judge: Judge<P>,
    ) -> Result<Vec<String>, SuiteError> {
        let mut settings = self.settings.clone();
        for patch in [row, Some(case)].into_iter().flatten() {
            self.patch(&mut settings, patch)?;
        }
        match (case.get("refused"), read(&settings.to_string())) {
            (Some(refused), Err(mistakes)) => {
                let mut wrong = Vec::new();
                for (pointer, message) in object(refused, "refused")? {
                    let found = mistakes.iter().filter(|mistake| mistake.pointer == *pointer);
                    let messages: Vec<&str> = found.map(|mistake| mistake.message.as_str()).collect();
                    let problem = unmet_text(&messages, message)?;
                    wrong.extend(problem.map(|problem| format!("refused {pointer}: {problem}")));
                }
                Ok(wrong)
            }
            (Some(_), Ok(_)) => Ok(vec!["the settings are not refused".to_owned()]),
            (None, Err(mistakes)) => Ok(vec![format!("the settings are refused: {mistakes}")]),
            (None, Ok(policy)) => {
                let judge = |image: &Image, context: &Context| judge(&policy, image, context);
                unmet(case, &self.judge(case, &judge)?, &self.policy)
            }
        }
    }

    /// Merges the settings of a row or a case into those of the policy.
    fn patch(&self, settings: &mut Value, from: &Object) -> Result<(), SuiteError> {
        let Some(patches) = from.get("settings") else { return Ok(()) };
        for (policy, patch) in object(patches, "settings")? {
            if *policy != self.policy {
                return Err(SuiteError::Format(format!("settings: no policy `{policy}` is under test")));
            }
            merge(settings, patch);
        }
        Ok(())
    }

    /// Judges the images of a case.
    fn judge(&self, case: &Object, judge: &super::Judges<'_>) -> Result<Outcomes, SuiteError> {
        let mut context = super::in_namespace(
            text_of(case, "namespace")?.or(text_of(&self.file, "namespace")?).unwrap_or("default"),
        );
        for of in [&self.file, case] {
            let Some(annotations) = of.get("annotations") else { continue };
            for (key, value) in object(annotations, "annotations")? {
                context.annotations.retain(|(found, _)| found != key);
                context = context.with_annotation(key, value.as_str().unwrap_or_default());
            }
        }
        let images: Vec<&str> = match case.get("images") {
            Some(Value::Array(images)) => images.iter().filter_map(Value::as_str).collect(),
            Some(Value::Object(images)) => images.keys().map(String::as_str).collect(),
            _ => return Err(SuiteError::Unsupported("a case without `images`".to_owned())),
        };
        if images.is_empty() {
            return Err(SuiteError::Format("`images` is empty".to_owned()));
        }
        let judged = images.into_iter().map(|name| {
            let image = super::parse(name).map_err(|error| SuiteError::Format(format!("{name}: {error}")))?;
            Ok((name.to_owned(), judge(&image, &context)))
        });
        judged.collect()
    }
}

/// Returns whether a case runs in a row.
fn runs_in(case: &Object, row: Option<&str>) -> bool {
    let lists = |key: &str| case.get(key).and_then(Value::as_array);
    let has = |list: &Vec<Value>| list.iter().any(|name| name.as_str() == row);
    lists("only").is_none_or(has) && !lists("except").is_some_and(has)
}

/// Merges a patch into a value (RFC 7396).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Object::new());
    }
    let Value::Object(into) = value else { return };
    for (key, patch) in patch {
        if patch.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.as_str()).or_insert(Value::Null), patch);
        }
    }
}

/// Refuses keys that a native run does not know.
fn known(object: &Object, keys: &[&str]) -> Result<(), SuiteError> {
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(SuiteError::Unsupported(format!("the key `{key}`"))),
        None => Ok(()),
    }
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Object, SuiteError> {
    value.as_object().ok_or_else(|| SuiteError::Format(format!("`{name}` is no map")))
}

fn objects<'a>(of: &'a Object, name: &str) -> Result<Vec<&'a Object>, SuiteError> {
    let list = of.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|item| object(item, name)).collect()
}

fn text_of<'a>(of: &'a Object, key: &str) -> Result<Option<&'a str>, SuiteError> {
    let text =
        |value: &'a Value| value.as_str().ok_or_else(|| SuiteError::Format(format!("`{key}` is no text")));
    of.get(key).map(text).transpose()
}
