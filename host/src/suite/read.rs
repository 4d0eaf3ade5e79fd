//! Reading of suites from the files that [`find`](super::find()) found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::file::{Reader, SCHEMA, SuiteYaml, UnderTest, beside};
use super::find::config_above;
use super::fixture::{self, FixtureError, no_fixture};
use super::{Case, Found, KIND, Subject, Suite, SuiteError};
use crate::config::yaml::{Document, Problem, YamlError};
use crate::config::{
    self, Config, ConfigError, HostLimits, PolicyConfig, PolicyName, SettingsReader, TextSource, schema_check,
};
use crate::fs;
use crate::policy::PolicySet;
use crate::review::Review;

/// Reads the suites of a group of files. `given` is the configuration that the caller brings.
///
/// # Errors
/// Returns an error for each broken file, and for each file that is no case and that no suite file names.
pub fn read(found: &Found, given: Option<&Config>) -> Result<Vec<Suite>, Vec<SuiteError>> {
    read_for(found, given, false)
}

/// Reads suites like [`read`], for an update of their files: cases may expect nothing, fixtures may have no
/// `status`, and the suites keep the bytes of the files.
///
/// # Errors
/// Returns an error for each broken file, and for each file that is no case and that no suite file names.
pub fn read_to_update(found: &Found, given: Option<&Config>) -> Result<Vec<Suite>, Vec<SuiteError>> {
    read_for(found, given, true)
}

fn read_for(found: &Found, given: Option<&Config>, is_update: bool) -> Result<Vec<Suite>, Vec<SuiteError>> {
    let mut files = Files::default();
    for path in &found.files {
        files.add(path);
    }
    let near = match (given, &found.config) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(path)) => Some(Config::read(path).map_err(|error| vec![SuiteError::from(error)])?),
        (None, None) => None,
    };
    files.named.extend(near.iter().flat_map(settings_files));
    let mut suites = Vec::new();
    for suite in std::mem::take(&mut files.suites) {
        match suite.read(near.as_ref(), given.is_some(), is_update) {
            Ok(suite) => {
                let configs = suite.subjects.iter().filter_map(|subject| subject.config.as_ref());
                files.named.extend(configs.flat_map(settings_files));
                suites.push(suite);
            }
            Err(error) => files.errors.push(error),
        }
    }
    let limits = near.as_ref().map_or_else(HostLimits::default, |config| config.limits.clone());
    let is_judged = near.is_some();
    let texts = if is_update { files.texts() } else { BTreeMap::new() };
    let (cases, mut errors) = files.fixtures(&limits, is_judged, is_update);
    if errors.is_empty() {
        let fixtures = (!cases.is_empty()).then(|| Suite::of_fixtures(found, near, cases, texts));
        return Ok(fixtures.into_iter().chain(suites).collect());
    }
    errors.sort_by_key(|error| error.path().map(Path::to_owned));
    Err(errors)
}

/// Reads the cases that a set of the caller judges: the fixtures, and the cases of suite files without
/// policies or settings of their own. Returns None if `has_time` returns false between two files.
///
/// # Errors
/// Returns the first error.
pub fn cases_for(
    files: &[PathBuf],
    set: &PolicySet,
    has_time: impl Fn() -> bool,
) -> Result<Option<Vec<Case>>, SuiteError> {
    let mut read = Files::default();
    for path in files {
        if !has_time() {
            return Ok(None);
        }
        read.add(path);
    }
    read.leave_out_settings();
    let under_test = UnderTest {
        policies: set.policies.iter().map(|entry| entry.name.clone()).collect(),
        limits: set.limits.clone(),
        mode: set.rules.mode,
        is_update: false,
    };
    let mut cases = Vec::new();
    for SuiteFile { path, bytes, document, yaml } in std::mem::take(&mut read.suites) {
        let Some(yaml) = yaml.without_own_policies() else { continue };
        match Reader::new(&path, document, &under_test, None).read(&yaml) {
            Ok((_, read)) => cases.extend(read),
            Err(problems) => read.errors.push(ConfigError::invalid(&path, &bytes, problems).into()),
        }
    }
    let (mut all, errors) = read.fixtures(&set.limits, true, false);
    all.extend(cases);
    errors.into_iter().next().map_or(Ok(Some(all)), Err)
}

/// Returns the reviews of the fixtures among files.
///
/// # Errors
/// Returns the first error.
pub fn reviews(files: &[PathBuf], limits: &HostLimits) -> Result<Vec<Review>, SuiteError> {
    let mut read = Files::default();
    for path in files {
        read.add(path);
    }
    read.leave_out_settings();
    read.suites.clear();
    let (cases, errors) = read.fixtures(limits, true, false);
    let reviews = cases.iter().filter_map(|case| case.review().cloned()).collect();
    errors.into_iter().next().map_or(Ok(reviews), Err)
}

/// The files of suites, by kind.
#[derive(Default)]
struct Files {
    suites: Vec<SuiteFile>,
    /// Fixtures, and files that should be fixtures.
    others: Vec<(PathBuf, Vec<u8>)>,
    /// Files that a suite file or a configuration names. They are no fixtures.
    named: BTreeSet<PathBuf>,
    errors: Vec<SuiteError>,
}

/// A suite file whose keys and types are right.
struct SuiteFile {
    path: PathBuf,
    bytes: Vec<u8>,
    document: Arc<Document>,
    yaml: SuiteYaml,
}

/// The kind of a file.
enum Kind {
    /// A suite file, or the reason why it is no YAML.
    Suite(Result<Document, YamlError>),
    /// A host.yaml, or a JSON Schema: no case.
    Material,
    /// A fixture, or a file that should be one.
    Other,
}

/// The keys of a JSON file that tell its kind.
#[derive(Deserialize)]
struct Header {
    kind: Option<Value>,
    #[serde(rename = "$schema")]
    schema: Option<Value>,
}

impl Files {
    fn add(&mut self, path: &Path) {
        if let Err(error) = self.try_add(path) {
            self.errors.push(error);
        }
    }

    fn try_add(&mut self, path: &Path) -> Result<(), SuiteError> {
        let bytes = fixture::bytes(path)?;
        match Kind::of(path, &bytes) {
            Kind::Suite(document) => {
                let suite = SuiteFile::parse(path, bytes, document)?;
                self.named.extend(suite.names());
                self.suites.push(suite);
            }
            Kind::Material => {}
            Kind::Other => self.others.push((path.to_owned(), bytes)),
        }
        Ok(())
    }

    /// Leaves out the settings files of policies that the caller does not judge by: those of suites with
    /// policies of their own, and of every host.yaml above. An unreadable host.yaml names none.
    fn leave_out_settings(&mut self) {
        let own =
            self.suites.iter().filter_map(|suite| Some(beside(&suite.path, suite.yaml.host.as_deref()?)));
        let folders: BTreeMap<_, _> = self.others.iter().map(|(path, _)| (path.parent(), path)).collect();
        let above = folders.into_values().filter_map(|path| config_above(path).ok().flatten());
        let configs: BTreeSet<PathBuf> = own.chain(above).collect();
        let configs = configs.iter().filter_map(|path| Config::read(path).ok());
        let named = configs.flat_map(|config| settings_files(&config).collect::<Vec<_>>());
        let named = named.chain(self.suites.iter().flat_map(SuiteFile::settings_files));
        let named: BTreeSet<PathBuf> = named.filter_map(|path| path.canonicalize().ok()).collect();
        self.others.retain(|(path, _)| !path.canonicalize().is_ok_and(|path| named.contains(&path)));
    }

    /// Returns the bytes of the fixtures.
    fn texts(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.others.iter().filter(|(path, _)| !self.named.contains(path)).cloned().collect()
    }

    /// Returns the cases of the fixtures, and all errors. Without policies a fixture is an error.
    fn fixtures(self, limits: &HostLimits, is_judged: bool, is_update: bool) -> (Vec<Case>, Vec<SuiteError>) {
        let Files { others, named, mut errors, .. } = self;
        let mut cases = Vec::new();
        for (path, bytes) in others.into_iter().filter(|(path, _)| !named.contains(path)) {
            match Case::of_fixture(&path, &bytes, limits, is_update) {
                Ok(case) if is_judged => cases.push(case),
                Ok(_) => errors.push(no_fixture(&path, FixtureError::NoConfig)),
                Err(error) => errors.push(error),
            }
        }
        (cases, errors)
    }
}

impl Kind {
    fn of(path: &Path, bytes: &[u8]) -> Kind {
        if fixture::is_json(path) {
            return match serde_json::from_slice::<Header>(bytes) {
                Ok(Header { kind: Some(kind), .. }) if kind == KIND => Kind::Suite(Document::parse(bytes)),
                Ok(Header { kind: Some(kind), .. }) if kind == config::KIND => Kind::Material,
                // The schema of suite files, for editors.
                Ok(Header { kind: None, schema: Some(_) }) => Kind::Material,
                _ => Kind::Other,
            };
        }
        // Only a file that may be a suite or a host.yaml is parsed here.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        if !text.contains(KIND) && !text.contains(config::KIND) {
            return Kind::Other;
        }
        // A file that says in a line of its own that it is a suite has its errors reported as a suite.
        let says_suite = || text.lines().any(|line| line.trim_end() == "kind: Suite");
        match Document::parse(bytes) {
            Ok(document) => match document.value.get("kind").and_then(Value::as_str) {
                Some(KIND) => Kind::Suite(Ok(document)),
                Some(config::KIND) => Kind::Material,
                _ => Kind::Other,
            },
            Err(error) if says_suite() => Kind::Suite(Err(error)),
            Err(_) => Kind::Other,
        }
    }
}

impl SuiteFile {
    fn parse(
        path: &Path,
        bytes: Vec<u8>,
        document: Result<Document, YamlError>,
    ) -> Result<SuiteFile, SuiteError> {
        let invalid = |problems| ConfigError::invalid(path, &bytes, problems);
        let document = document.map_err(|error| invalid(error.problems))?;
        let yaml = schema_check::read(&SCHEMA, &document).map_err(invalid)?;
        Ok(SuiteFile { path: path.to_owned(), bytes, document: Arc::new(document), yaml })
    }

    /// Returns the files that the suite names.
    fn names(&self) -> Vec<PathBuf> {
        let cases = self.yaml.cases.iter().flat_map(|case| [&case.review, &case.facts]);
        let files = cases.chain([&self.yaml.facts]).filter_map(|file| file.as_ref()?.as_str());
        files.chain(self.yaml.host.as_deref()).map(|file| beside(&self.path, file)).collect()
    }

    /// Returns the settings files of the policies that the suite names.
    fn settings_files(&self) -> Vec<PathBuf> {
        let entries = self.document.value.get("policies").and_then(Value::as_array);
        let paths = entries.into_iter().flatten().flat_map(|entry| {
            let texts = entry.get("settingsFiles").and_then(Value::as_object);
            let texts = texts.into_iter().flat_map(|texts| texts.values());
            entry.get("settingsFrom").into_iter().chain(texts).filter_map(Value::as_str)
        });
        paths.flat_map(|path| TextSource::of(path, beside(&self.path, path)).files()).collect()
    }

    /// Reads the cases. `near` is the configuration for a suite that names no policies.
    fn read(mut self, near: Option<&Config>, is_given: bool, is_update: bool) -> Result<Suite, SuiteError> {
        let invalid = |suite: &SuiteFile, problems| ConfigError::invalid(&suite.path, &suite.bytes, problems);
        let at = |suite: &SuiteFile, pointer: &str, message: &str| {
            let problem = Problem::new(suite.document.key_span(pointer), message);
            Err(SuiteError::from(invalid(suite, vec![problem])))
        };
        let entries = self.yaml.policies.take();
        let mut config = match (&self.yaml.host, entries) {
            (Some(_), Some(_)) => {
                return at(&self, "/host", "the suite has `host` and `policies`: remove one of the two");
            }
            (Some(_), None) | (None, Some(_)) if is_given => return Err(SuiteError::OwnPolicies(self.path)),
            (Some(host), None) => Config::read(&beside(&self.path, host))?,
            (None, Some(entries)) => Config::of_entries(&self.path, Document::clone(&self.document), entries)
                .map_err(|problems| invalid(&self, problems))?,
            (None, None) => match near {
                Some(near) => near.clone(),
                None => {
                    let message = "no policies are under test: write `policies` or `host` into the suite, or \
                        a host.yaml into its folder or above";
                    return at(&self, "", message);
                }
            },
        };
        let policies = policies(&config);
        if policies.is_empty() {
            return at(&self, "/policies", "no policy is under test, so that no case could fail");
        }
        let mut files = self.names();
        files.push(self.path.clone());
        add_settings_files(&mut config)?;
        let under_test =
            UnderTest { policies, limits: config.limits.clone(), mode: config.rules.mode, is_update };
        let reader = Reader::new(&self.path, Arc::clone(&self.document), &under_test, Some(&config));
        let (subjects, cases) = reader.read(&self.yaml).map_err(|problems| invalid(&self, problems))?;
        let texts = is_update.then(|| (self.path.clone(), self.bytes)).into_iter().collect();
        Ok(Suite { path: self.path, subjects, cases, files, texts })
    }
}

/// Returns a configuration with the settings in separate files added.
///
/// # Errors
/// Returns an error if a file cannot be read, or does not fit its policy.
pub fn with_settings_files(config: &Config) -> Result<Config, SuiteError> {
    let mut config = config.clone();
    add_settings_files(&mut config)?;
    Ok(config)
}

/// Adds the settings in separate files, so that rows and cases can be merged over them.
fn add_settings_files(config: &mut Config) -> Result<(), SuiteError> {
    let whole = config.clone();
    let read = |path: &Path, most: u64| Some(fs::read(path, most));
    let mut reader = SettingsReader::new(&whole, &read);
    config.policies.iter_mut().try_for_each(|policy| reader.add(policy)).map_err(SuiteError::from)
}

/// Returns the names of the policies of a configuration. Of `policyDirectory` these are the names of its
/// files, whether they load or not.
fn policies(config: &Config) -> Vec<PolicyName> {
    let mut names: Vec<_> = config.policies.iter().map(|policy| policy.name.clone()).collect();
    let directory = config.policy_directory.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in directory.into_iter().flatten().flatten() {
        let path = entry.path();
        let is_component = path.extension().is_some_and(|extension| extension == "wasm");
        let stem = path.file_stem().filter(|_| is_component).map(|stem| stem.to_string_lossy().into_owned());
        let name = stem.and_then(|stem| PolicyName::try_from(stem.as_str()).ok());
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// Returns the settings files of a configuration.
fn settings_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    config.policies.iter().flat_map(PolicyConfig::files_of_settings)
}

impl Suite {
    /// Returns the suite of fixtures.
    fn of_fixtures(
        found: &Found,
        config: Option<Config>,
        cases: Vec<Case>,
        texts: BTreeMap<PathBuf, Vec<u8>>,
    ) -> Suite {
        let files: Vec<_> =
            cases.iter().map(|case| case.place.path.clone()).chain(found.config.clone()).collect();
        let path = found.config.as_ref().or(files.first()).and_then(|path| path.parent());
        let path = path.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let subjects = vec![Subject { config, is_of_case: false }];
        Suite { path: path.to_owned(), subjects, cases, files, texts }
    }
}
