//! Combination of decisions into a verdict. Every file of `cases/decisions` has a host.yaml with scripted
//! policies, a review, and the exact expected verdict. Properties of all verdicts are below the table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::config::yaml::Document;
use host::config::{
    FailurePolicy, HostLimits, Mode, NamespacePattern, NamespacePatterns, Placement, PolicyName, Rules,
    Scope, Unjudged,
};
use host::evaluate::attempts::Costs;
use host::policy::{Entry, PolicySet};
use host::review::Review;
use host::review::verdict::{DecidedBy, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support;
use crate::support::evaluation::evaluate;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[expect(dead_code, reason = "for the count of tests that every limit has")]
    limit: Option<String>,
    host: Value,
    review: Asked,
    expected: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    images: Vec<String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// All fields of a response except `generation`. `MODULE` stands for the file of a policy.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expected {
    allowed: bool,
    #[serde(default = "policies")]
    decided_by: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// The log lines of the policies.
    log: Option<Vec<String>>,
}

fn policies() -> String {
    "policies".to_owned()
}

#[test]
fn dispatch_cases() {
    hold("tests/cases/decisions", 80);
}

/// Runs every `.yaml` of a folder, of which there must be at least `least`.
pub(crate) fn hold(folder: &str, least: usize) {
    let mut files: Vec<_> =
        std::fs::read_dir(support::project(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= least, "only {} cases", files.len());
    // Most of the time is compilation, one case at a time on each processor.
    let share = files.len().div_ceil(std::thread::available_parallelism().map_or(1, usize::from));
    let differences: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(share)
            .map(|files| scope.spawn(|| files.iter().filter_map(|file| difference(file)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Returns the difference from the expectation, or None.
fn difference(file: &Path) -> Option<String> {
    let name = file.file_stem().unwrap().display().to_string();
    let document = Document::parse(&std::fs::read(file).unwrap()).unwrap();
    let case: Case = serde_json::from_value(document.value).unwrap_or_else(|e| panic!("{name}: {e}"));
    let set = support::candidate(case.host).set;
    let Asked { namespace, annotations, images } = case.review;
    let review = Review { namespace, annotations: annotations.into_iter().collect(), images };
    let verdict = evaluate(&set, &review);
    let mut annotations = verdict.audit_annotations();
    assert_eq!(annotations.remove("generation"), Some(set.generation()), "{name}");
    let decided_by = annotations.remove("decided-by").unwrap_or_default();
    assert_eq!(decided_by, verdict.disposition.decided_by().name(), "{name}");
    let mut reason = verdict.answered_reason().to_owned();
    for text in annotations.values_mut().chain([&mut reason]) {
        *text = support::without_paths(text);
    }
    let said = verdict.images.iter().flat_map(|image| &image.judged.said);
    let log = said.flat_map(|said| said.log.iter().map(|line| line.message.clone())).collect();
    let log = case.expected.log.is_some().then_some(log);
    let found = Expected { allowed: verdict.allowed(), decided_by, reason, annotations, log };
    (found != case.expected).then(|| format!("{name}\nexpected {:#?}\nfound {found:#?}", case.expected))
}

/// The decision of a policy by the repository of the image: `WORD-WORD` has a word for each of two policies.
const WORDS: [&str; 4] = ["allow", "deny", "abstain", "malfunction"];

/// Scope, mode and failurePolicy of one of the two policies.
#[derive(Clone, Debug)]
struct Stance {
    mode: Mode,
    failure_policy: FailurePolicy,
    scope: Scope,
    applies: bool,
}

fn stances() -> Vec<Stance> {
    let namespaces = |name: &str| NamespacePatterns::from_iter([NamespacePattern::try_from(name).unwrap()]);
    let scopes = [
        (true, Scope::default()),
        (true, Scope { include: Some(namespaces("default")), ..Scope::default() }),
        (false, Scope { include: Some(namespaces("other")), ..Scope::default() }),
        (false, Scope { exclude: namespaces("default"), ..Scope::default() }),
    ];
    let mut stances = Vec::new();
    for mode in [Mode::Enforce, Mode::Audit] {
        for failure_policy in [FailurePolicy::Fail, FailurePolicy::Ignore] {
            let stance = |(applies, scope)| Stance { mode, failure_policy, scope, applies };
            stances.extend(scopes.clone().map(stance));
        }
    }
    stances
}

/// Applies the rules in their shortest form, to compare with: whether an image may run, and the basis of
/// that.
fn decided(rules: &Rules, stances: [&Stance; 2], image: &str) -> (bool, DecidedBy) {
    if rules.exempt_namespaces.matches("default") {
        return (true, DecidedBy::Exempt);
    }
    let Some((first, second)) = image.strip_prefix("x.io/").and_then(|words| words.split_once('-')) else {
        return (false, DecidedBy::Reference);
    };
    let in_force = |word: &str| {
        let mut words = stances.iter().zip([first, second]);
        words.any(|(stance, says)| stance.mode == Mode::Enforce && stance.applies && says == word)
    };
    let says = |word: &str| {
        stances.iter().zip([first, second]).any(|(stance, says)| {
            let says = match (says, stance.failure_policy) {
                ("malfunction", FailurePolicy::Fail) => "deny",
                ("malfunction", FailurePolicy::Ignore) => "abstain",
                (says, _) => says,
            };
            stance.mode == Mode::Enforce && stance.applies && says == word
        })
    };
    let applies = |mode| stances.iter().any(|stance| stance.mode == mode && stance.applies);
    let failed = in_force("malfunction");
    if says("deny") {
        return (false, if in_force("deny") { DecidedBy::Policies } else { DecidedBy::FailurePolicy });
    }
    if says("allow") {
        return (true, if failed { DecidedBy::FailurePolicy } else { DecidedBy::Policies });
    }
    if applies(Mode::Audit) && !applies(Mode::Enforce) {
        return (true, DecidedBy::AuditOnly);
    }
    match rules.unjudged {
        Unjudged::Allow if failed => (true, DecidedBy::FailurePolicy),
        Unjudged::Allow => (true, DecidedBy::Unjudged),
        Unjudged::Deny => (false, DecidedBy::Unjudged),
    }
}

#[test]
fn every_combination_of_two_policies_is_as_the_rules_say() {
    let script = |word: &str| match word {
        "malfunction" => json!({ "error": "no answer" }),
        outcome => json!({ "outcome": outcome }),
    };
    let mut images = vec!["not/AN/image".to_owned()];
    let mut settings = [BTreeMap::new(), BTreeMap::new()];
    for first in WORDS {
        for second in WORDS {
            let repository = format!("{first}-{second}");
            images.push(format!("x.io/{repository}"));
            for (settings, word) in settings.iter_mut().zip([first, second]) {
                settings.insert(repository.clone(), script(word));
            }
        }
    }
    let component = std::fs::read(support::scripted()).unwrap();
    let [first, second] = settings.map(|images| {
        let settings = json!({ "images": images });
        Arc::new(support::load(&component, &settings, &Default::default()).unwrap())
    });
    let review = Review { namespace: "default".to_owned(), annotations: Vec::new(), images };
    let stances = stances();
    for unjudged in [Unjudged::Deny, Unjudged::Allow] {
        for exempt in [None, Some("default".to_owned())] {
            let pairs = stances.iter().flat_map(|one| stances.iter().map(move |other| (one, other)));
            for (one, other) in pairs {
                let entry = |name: &str, stance: &Stance, policy| Entry {
                    name: PolicyName::try_from(name).unwrap(),
                    placement: Placement {
                        scope: stance.scope.clone(),
                        mode: stance.mode,
                        failure_policy: stance.failure_policy,
                    },
                    message: None,
                    loaded: Ok(Arc::clone(policy)),
                };
                let rules = Rules {
                    mode: Mode::Enforce,
                    unjudged,
                    exempt_namespaces: exempt.clone().map(NamespacePattern::Name).into_iter().collect(),
                };
                let entries = vec![entry("first", one, &first), entry("second", other, &second)];
                let set = PolicySet::new(rules.clone(), HostLimits::default(), entries);
                let verdict = evaluate(&set, &review);
                for image in &verdict.images {
                    let expected = decided(&rules, [one, other], &image.judged.original);
                    let found = (image.allowed, image.decided_by);
                    assert_eq!(found, expected, "{rules:?} {one:?} {other:?} {image:?}");
                }
                assert_eq!(verdict.allowed(), verdict.images.iter().all(|image| image.allowed));
                assert_eq!(verdict.allowed(), verdict.reason.is_empty());
                let by: Vec<_> = verdict
                    .images
                    .iter()
                    .filter(|image| image.allowed == verdict.allowed())
                    .map(|image| image.decided_by)
                    .collect();
                assert_eq!(Some(verdict.disposition.decided_by()), by.into_iter().max());
                // The same decisions in a host in mode audit.
                let images = verdict.images.iter().map(|image| image.judged.clone()).collect();
                let looking_on = Rules { mode: Mode::Audit, ..rules };
                let other = Verdict::combine(&looking_on, "default", "1-a", images);
                assert!(other.allowed() && other.answered_reason().is_empty());
                assert_eq!(other.would_deny().unwrap_or_default(), verdict.reason);
                assert_eq!(other.disposition.decided_by(), verdict.disposition.decided_by());
            }
        }
    }
}

#[test]
fn an_image_outside_of_the_scope_of_a_policy_costs_nothing_and_is_not_audited() {
    let settings = json!({ "images": { "*": { "outcome": "allow" } } });
    let scope = json!({ "images": { "include": ["x.io/**"] } });
    let entry = json!({ "name": "p", "mode": "audit", "match": scope, "settings": settings });
    let set = support::set(json!({ "policies": [entry] }));
    let [inside, outside, both] = [vec!["x.io/a"], vec!["y.io/a", "NO IMAGE"], vec!["y.io/a", "x.io/a"]]
        .map(|images| support::review("default", &images));
    let asked =
        |review: &Review| evaluate(&set, review).images.iter().map(|image| image.judged.said.len()).sum();
    for (review, is_inside) in [(&inside, 1), (&outside, 0), (&both, 1)] {
        let said: usize = asked(review);
        assert_eq!(said, is_inside);
        let audited = Costs::of(&set, review).audited;
        assert_eq!(audited.is_some_and(|takes| takes > Duration::ZERO), is_inside == 1, "{audited:?}");
    }
    assert_eq!(Costs::of(&set, &inside), Costs::of(&set, &both));
}
