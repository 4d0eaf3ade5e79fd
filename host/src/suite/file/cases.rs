//! The checks that turn a suite file into cases. A problem does not end the checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::{CaseYaml, Row, SuiteYaml, facts, names};
use crate::config::yaml::{Document, Problem, Span, quote};
use crate::config::{Config, HostLimits, Mode, Overlay, PolicyName, list, pointer, suggestion};
use crate::evaluate::Facts;
use crate::review::manifests::Manifest;
use crate::review::{Refusal, Review};
use crate::suite::case::{Case, CaseId, Check, Place};
use crate::suite::expect::{Expect, Known};
use crate::suite::refused::ExpectRefused;
use crate::suite::{Subject, fixture};
use crate::text;

/// The policies under test and the limits of reviews.
#[derive(Clone, Debug, Default)]
pub(in crate::suite) struct UnderTest {
    pub(in crate::suite) policies: Vec<PolicyName>,
    pub(in crate::suite) limits: HostLimits,
    pub(in crate::suite) mode: Mode,
    /// Whether a case may expect nothing.
    pub(in crate::suite) is_update: bool,
}

/// Reader of one suite file.
pub(in crate::suite) struct Reader<'a> {
    path: &'a Path,
    document: Arc<Document>,
    under_test: &'a UnderTest,
    /// The configuration, to which settings of rows and cases are added. None: the caller brings a set.
    config: Option<&'a Config>,
    /// The facts of cases that have none.
    facts: Facts,
    subjects: Vec<Subject>,
    cases: Vec<Case>,
    problems: Vec<Problem>,
}

/// The settings of a row or a case.
struct Settings<'a> {
    /// JSON Pointer to them.
    at: String,
    policies: &'a BTreeMap<String, Value>,
}

impl<'a> Reader<'a> {
    pub(in crate::suite) fn new(
        path: &'a Path,
        document: Arc<Document>,
        under_test: &'a UnderTest,
        config: Option<&'a Config>,
    ) -> Reader<'a> {
        Reader {
            path,
            document,
            under_test,
            config,
            facts: Facts::default(),
            subjects: Vec::new(),
            cases: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Returns the cases, row by row, and the configurations that judge them.
    ///
    /// # Errors
    /// Returns every problem of the file.
    pub(in crate::suite) fn read(
        mut self,
        suite: &SuiteYaml,
    ) -> Result<(Vec<Subject>, Vec<Case>), Vec<Problem>> {
        self.problems = names::check(&self.document, suite);
        if let Some(facts) = &suite.facts {
            self.facts = self.facts(facts, "/facts").unwrap_or_default();
        }
        match suite.matrix.as_slice() {
            [] => self.row(suite, None),
            rows => {
                for (index, row) in rows.iter().enumerate() {
                    self.row(suite, Some((index, row)));
                }
            }
        }
        // A problem of a case is found again in every row.
        let mut seen: Vec<Problem> = Vec::new();
        for problem in self.problems {
            if !seen.contains(&problem) {
                seen.push(problem);
            }
        }
        if seen.is_empty() { Ok((self.subjects, self.cases)) } else { Err(seen) }
    }

    /// Reads the cases of a row, or all cases of a suite without rows.
    fn row(&mut self, suite: &SuiteYaml, row: Option<(usize, &Row)>) {
        let settings = row.map(|(index, row)| Settings {
            at: format!("/matrix/{index}/settings"),
            policies: &row.settings,
        });
        let of_row = self.subject(None, settings);
        for (index, case) in suite.cases.iter().enumerate() {
            if row.is_some_and(|(_, row)| !is_judged(case, &row.name)) {
                continue;
            }
            let at = format!("/cases/{index}");
            let settings = Settings { at: format!("{at}/settings"), policies: &case.settings };
            let subject = match case.settings.is_empty() {
                true => of_row,
                false => self.subject(Some(of_row), Some(settings)),
            };
            let Some(check) = self.check(suite, case, &at) else { continue };
            self.cases.push(Case {
                id: CaseId {
                    suite: self.path.to_owned(),
                    row: row.map(|(_, row)| row.name.clone()),
                    name: Some(case.name.clone()),
                },
                place: Place { path: self.path.to_owned(), at: self.document.locate(&at) },
                subject,
                check,
            });
        }
    }

    /// Adds the policies under test with further settings, and returns their index.
    fn subject(&mut self, of: Option<usize>, settings: Option<Settings<'_>>) -> usize {
        let base = of.and_then(|of| self.subjects.get(of)).and_then(|subject| subject.config.as_ref());
        let mut config = base.or(self.config).cloned();
        for policy in settings.as_ref().map(|settings| settings.policies.keys()).into_iter().flatten() {
            let at = settings.as_ref().map(|settings| settings.at.as_str()).unwrap_or_default();
            let at = format!("{at}/{}", pointer::escape(policy));
            let entries = config.as_mut().map(|config| config.policies.as_mut_slice()).unwrap_or_default();
            match entries.iter_mut().find(|entry| entry.name.as_str() == policy) {
                Some(entry) => entry.merge_settings(Overlay {
                    path: self.path.to_owned(),
                    document: Arc::clone(&self.document),
                    pointer: at,
                }),
                None => self.unknown_policy(self.document.key_span(&at), policy),
            }
        }
        self.subjects.push(Subject { config, is_of_case: of.is_some() });
        self.subjects.len() - 1
    }

    fn check(&mut self, suite: &SuiteYaml, case: &CaseYaml, at: &str) -> Option<Check> {
        if let Some(refused) = &case.refused {
            return self.check_refused(case, refused, at);
        }
        let only = self.only(case, at);
        let facts = match &case.facts {
            Some(facts) => self.facts(facts, &format!("{at}/facts")),
            None => Some(self.facts.clone()),
        };
        let review = self.review(suite, case, at)?;
        if review.as_ref().is_ok_and(|review| review.images.is_empty()) {
            return self.no_check(&format!("{at}/review"), "it has no image, so that no policy would run");
        }
        let mut images = review.as_ref().map(|review| review.images.clone()).unwrap_or_default();
        let mut distinct = std::collections::HashSet::new();
        images.retain(|image| distinct.insert(image.clone()));
        let known = Known {
            images: &images,
            policies: only.as_ref().unwrap_or(&self.under_test.policies),
            mode: self.under_test.mode,
            is_update: self.under_test.is_update,
        };
        let in_images = matches!(case.images, Some(Value::Object(_)));
        let read = match (&case.expect, in_images) {
            (Some(_), false) => Expect::read(&self.document, &format!("{at}/expect"), &known),
            (None, true) => Expect::read_images(&self.document, &format!("{at}/images"), &known),
            (Some(_), true) => {
                let message = "the case has expectations in `images` and in `expect`: write those of the \
                    images below `expect.images`";
                return self.no_check(&format!("{at}/expect"), message);
            }
            (None, false) if known.is_update => {
                Ok(Expect::blank(at, self.document.holds(&format!("{at}/expect"))))
            }
            (None, false) => {
                let message = "the case expects nothing, so that it cannot fail: write `expect: allow`, \
                    `expect: deny` or `refused`";
                return self.no_check(at, message);
            }
        };
        let pointer = format!("{at}/{}", if in_images { "images" } else { "expect" });
        match read {
            Ok(expect) => Some(Check::Verdict { review, facts: facts?, only, expect, pointer }),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn no_check(&mut self, at: &str, message: &str) -> Option<Check> {
        self.problem(at, message);
        None
    }

    fn check_refused(&mut self, case: &CaseYaml, _: &Value, at: &str) -> Option<Check> {
        let others = [
            ("expect", case.expect.is_some()),
            ("images", case.images.is_some()),
            ("review", case.review.is_some()),
            ("facts", case.facts.is_some()),
        ];
        for (key, _) in others.iter().filter(|(_, is_there)| *is_there) {
            let message = "`refused` is about settings alone: no review is judged";
            self.problems.push(Problem::new(self.document.key_span(&format!("{at}/{key}")), message));
        }
        if case.settings.is_empty() {
            return self.no_check(at, "`refused` needs `settings` that a policy must refuse");
        }
        let policies = self.under_test.policies.iter();
        let policies: Vec<_> =
            policies.filter(|name| case.settings.contains_key(name.as_str())).cloned().collect();
        match ExpectRefused::read(&self.document, &format!("{at}/refused"), &policies) {
            Ok(refused) => Some(Check::Refused(refused)),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn facts(&mut self, value: &Value, at: &str) -> Option<Facts> {
        facts::read(self.path, &self.document, at, value).map_err(|found| self.problems.extend(found)).ok()
    }

    /// Returns the policies that take part in a case. None: all.
    fn only(&mut self, case: &CaseYaml, at: &str) -> Option<Vec<PolicyName>> {
        let names = case.policies.as_ref()?;
        if names.is_empty() {
            self.problem(
                &format!("{at}/policies"),
                "no policy would judge the case: remove the key to have all",
            );
        }
        let mut only = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match self.under_test.policies.iter().find(|policy| policy.as_str() == name) {
                Some(policy) => only.push(policy.clone()),
                None => self.unknown_policy(self.document.span(&format!("{at}/policies/{index}")), name),
            }
        }
        // Names that are not under test are reported already.
        (!only.is_empty()).then_some(only)
    }

    fn review(&mut self, suite: &SuiteYaml, case: &CaseYaml, at: &str) -> Option<Result<Review, Refusal>> {
        let namespace = case.namespace.as_ref().unwrap_or(&suite.namespace);
        match (&case.images, &case.review) {
            (Some(images), None) => {
                let images = self.images(images, &format!("{at}/images"))?;
                let mut annotations = self.strings(&suite.annotations, "/annotations");
                annotations.extend(self.strings(&case.annotations, &format!("{at}/annotations")));
                let review = Review {
                    namespace: namespace.clone(),
                    annotations: annotations.into_iter().collect(),
                    images,
                };
                Some(review.within(&self.under_test.limits).map(|()| review))
            }
            (None, Some(review)) => {
                if !case.annotations.is_empty() {
                    let message = "`annotations` belong to a case with `images`: a review has its own";
                    self.problem(&format!("{at}/annotations"), message);
                }
                self.manifest(review, case, namespace, &format!("{at}/review"))
            }
            (Some(_), Some(_)) => {
                self.problem(
                    &format!("{at}/review"),
                    "the case has `images` and a `review`: remove one of the two",
                );
                None
            }
            (None, None) => {
                self.problem(at, "the case judges nothing: name `images`, or a `review`");
                None
            }
        }
    }

    fn images(&mut self, images: &Value, at: &str) -> Option<Vec<String>> {
        let found: Option<Vec<String>> = match images {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::Object(_) => Some(self.document.keys(at).into_iter().map(str::to_owned).collect()),
            _ => None,
        };
        match found {
            Some(images) if !images.is_empty() => Some(images),
            Some(_) => {
                self.problem(at, "there is no image, so that no policy would run");
                None
            }
            None => {
                self.problem(
                    at,
                    "expected a list of image references, or a map with an expectation for each",
                );
                None
            }
        }
    }

    fn strings(&mut self, map: &BTreeMap<String, Value>, at: &str) -> BTreeMap<String, String> {
        let mut strings = BTreeMap::new();
        for (key, value) in map {
            match value.as_str() {
                Some(value) => drop(strings.insert(key.clone(), value.to_owned())),
                None => {
                    let message = "an annotation is a string: put the value in quotes";
                    self.problem(&format!("{at}/{}", pointer::escape(key)), message);
                }
            }
        }
        strings
    }

    /// Reads the manifest of a case, from its file or in place.
    fn manifest(
        &mut self,
        review: &Value,
        case: &CaseYaml,
        namespace: &str,
        at: &str,
    ) -> Option<Result<Review, Refusal>> {
        let (bytes, file) = match review {
            Value::String(file) => {
                let path = beside(self.path, file);
                match fixture::bytes(&path) {
                    Ok(bytes) => (bytes, Some(path)),
                    Err(error) => {
                        self.problem(at, &error.to_string());
                        return None;
                    }
                }
            }
            inline => (inline.to_string().into_bytes(), None),
        };
        let Manifest { mut objects, problems, .. } =
            Manifest::read(&bytes, namespace, &self.under_test.limits);
        for problem in &problems {
            let message = match &file {
                Some(path) => format!("{}:{problem}", text::path(path)),
                None => problem.message.clone(),
            };
            self.problem(at, &message);
        }
        if let Some(object) = &case.object {
            objects.retain(|found| found.to_string() == *object);
        }
        let count = objects.len();
        match objects.pop().filter(|_| count == 1) {
            Some(object) => Some(object.review),
            None if !problems.is_empty() => None,
            None => {
                let message = match (count, &case.object) {
                    (0, Some(object)) => format!("it holds no object {}", quote(object)),
                    (0, None) => "it holds no object with pods, so that nothing is judged".to_owned(),
                    (many, _) => {
                        format!(
                            "it holds {many} objects with pods: name one of them, such as `object: \
                             Deployment/web`"
                        )
                    }
                };
                self.problem(at, &message);
                None
            }
        }
    }

    fn unknown_policy(&mut self, at: Span, name: &str) {
        let names: Vec<_> = self.under_test.policies.iter().map(PolicyName::as_str).collect();
        let hint = hint(name, &names, "under test are");
        self.problems.push(Problem::new(at, format!("no policy {} is under test{hint}", quote(name))));
    }

    fn problem(&mut self, at: &str, message: &str) {
        self.problems.push(Problem::new(self.document.span(at), message));
    }
}

/// Returns whether a case is judged in a row.
pub(super) fn is_judged(case: &CaseYaml, row: &str) -> bool {
    let named = |names: &[String]| names.iter().any(|name| name == row);
    case.only.as_deref().is_none_or(named) && !named(&case.except)
}

/// Returns the nearest name, or all names.
pub(super) fn hint(name: &str, names: &[&str], all: &str) -> String {
    match suggestion(name, names) {
        Some(hint) => format!(": {hint}"),
        None if names.is_empty() => String::new(),
        None => format!(": {all} {}", list(names, ", ")),
    }
}

/// Returns a path that a suite file names.
pub(in crate::suite) fn beside(suite: &Path, path: &str) -> PathBuf {
    let path = suite.parent().unwrap_or(Path::new("")).join(path);
    // Without `.` in it, so that one file has one spelling.
    path.components().filter(|component| *component != std::path::Component::CurDir).collect()
}
