//! Isolation between instances, and between reviews. Each `.wat` of `cases/isolation` is a probe: it looks
//! for traces of others, reports them, and leaves secrets.

use std::sync::Arc;

use host::evaluate::Instances;
use host::policy::PolicySet;
use host::review::Review;
use host::review::verdict::{Decision, ImageVerdict, Malfunction, Said, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support;
use crate::support::evaluation::{evaluate, evaluate_with};

/// The report of a probe that found nothing.
const NOTHING: &str = "--------";

/// Returns a set of the probes called `names`, all of which judge every review.
fn probes(names: &[&str]) -> PolicySet {
    let policies: Vec<Value> = names
        .iter()
        .map(|name| {
            let module = format!("isolation/{name}.wat");
            json!({ "name": name, "module": module, "limits": { "deadline": "10s" } })
        })
        .collect();
    // Enough time for the slowest machine to search all memory.
    support::set(json!({ "policies": policies, "limits": { "reviewDeadline": "25s" } }))
}

fn said(verdict: &Verdict) -> Vec<String> {
    verdict.images.iter().flat_map(|image| &image.judged.said).map(Said::reason).collect()
}

fn find_nothing(set: &PolicySet, reviews: usize) {
    let review = support::review("default", &["x.io/a"]);
    for number in 0..reviews {
        let verdict = evaluate(set, &review);
        assert!(verdict.allowed(), "review {number}: {}", verdict.reason);
        assert!(said(&verdict).iter().all(|reason| reason == NOTHING), "{verdict:?}");
    }
}

/// Without this check the tests below would pass with blind probes: within one instance they find all that
/// they left.
#[test]
fn a_probe_finds_what_it_left_in_its_own_instance() {
    let set = probes(&["plain", "grown", "large", "configured-with-a-table", "configured"]);
    let review = support::review("default", &["x.io/a", "x.io/b"]);
    let verdict = evaluate(&set, &review);
    assert_eq!(said(&verdict)[..5], [NOTHING; 5]);
    assert_eq!(said(&verdict)[5..], ["MPTEG---", "MPTEG---", "MPTEG---", "MPTEG---", "MP--G---"]);
    assert!(evaluate_with(&set, &review, Instances::Isolated).allowed());
}

#[test]
fn thousands_of_instances_leave_nothing_behind() {
    find_nothing(&probes(&["plain", "configured", "configured-with-a-table"]), 3000);
    find_nothing(&probes(&["grown", "plain"]), 500);
}

#[test]
fn threads_leave_nothing_behind_for_each_other() {
    let sets = [
        probes(&["plain", "grown"]),
        probes(&["configured", "plain"]),
        probes(&["grown", "configured"]),
        probes(&["large"]),
    ];
    std::thread::scope(|scope| {
        for (set, reviews) in sets.iter().zip([500, 500, 500, 20]) {
            // Two for each set, so that slots also pass between equal components.
            for _ in 0..2 {
                scope.spawn(move || find_nothing(set, reviews));
            }
        }
    });
}

/// Many large memories at the same time, every page of them written, beside small ones that come and go.
#[test]
fn large_memories_side_by_side_leave_nothing_behind() {
    let (large, small) = (probes(&["large"]), probes(&["configured", "plain"]));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| find_nothing(&large, 5));
        }
        scope.spawn(|| find_nothing(&small, 500));
    });
}

/// A policy finds no trace of the policy that it replaces.
#[test]
fn policies_that_come_and_go_leave_nothing_behind() {
    for names in
        [["plain", "grown"], ["configured", "plain"], ["grown", "configured"]].iter().cycle().take(12)
    {
        find_nothing(&probes(names), 50);
    }
}

/// Returns the images, and the scripted policy's action on each.
fn scripts() -> Value {
    json!({
        "allow": { "outcome": "allow", "reason": "fine" },
        "deny": { "outcome": "deny", "code": "no", "reason": "not this" },
        "abstain": { "outcome": "abstain" },
        "annotated": { "outcome": "allow", "annotations": [["key", "value"]], "warnings": ["old"] },
        "echo": { "outcome": "allow", "echo": true },
        "by-namespace": { "outcome": "deny", "namespaces": { "a": "allow" } },
        "by-annotation": { "outcome": "abstain", "annotation": ["x.image-policy.k8s.io/y", "deny"] },
        "error": { "error": "no answer" },
        "trap": { "trap": "last words" },
        "abort": { "abort": true },
        "talkative": { "outcome": "allow", "log": ["one", "two"], "logTimes": 200 },
        "greedy": { "allocate": true },
        "recursive": { "recurse": true },
        "huge": { "outcome": "allow", "reasonBytes": 1_000_000 },
        "code": { "outcome": "allow", "code": "NO CODE" },
    })
}

/// Returns a set of a scripted policy and the two standard policies.
fn judges() -> PolicySet {
    support::set(json!({ "policies": [
        { "name": "scripted", "settings": { "images": scripts() }, "limits": { "memory": "4Mi" } },
        {
            "name": "trusted-registries",
            "module": support::project("plugins/dist/trusted-registries.wasm"),
            "settings": { "allow": ["x.io/**", "*.example.com/team/*"] },
        },
        { "name": "pinned-images", "module": support::project("plugins/dist/pinned-images.wasm") },
    ] }))
}

fn image() -> impl Strategy<Value = String> {
    let names: Vec<String> = scripts().as_object().unwrap().keys().cloned().collect();
    let registry = prop::sample::select(vec!["x.io", "y.io", "a.example.com"]);
    let end = prop::sample::select(vec![
        "",
        ":1",
        "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ]);
    (registry, prop::sample::select(names), end)
        .prop_map(|(registry, name, end)| format!("{registry}/{name}{end}"))
}

fn review() -> impl Strategy<Value = Review> {
    let namespace = prop::sample::select(vec!["a", "b"]);
    let annotation = prop::option::of(prop::sample::select(vec!["1", "2"]));
    (namespace, annotation, prop::collection::vec(image(), 0..6)).prop_map(
        |(namespace, annotation, images)| Review {
            namespace: namespace.to_owned(),
            annotations: annotation
                .map(|value| ("x.image-policy.k8s.io/y".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            images,
        },
    )
}

/// The decision of each policy on each image, in the order of the images' names. Logs are left out: the room
/// for lines depends on the whole review.
type Decisions = Vec<(String, String, Result<Decision, Malfunction>)>;

fn decisions(verdict: &Verdict) -> Decisions {
    let of_image = |image: &ImageVerdict| -> Decisions {
        let said = image.judged.said.iter();
        said.map(|said| (image.judged.original.clone(), said.policy.clone(), said.judgement.clone()))
            .collect()
    };
    let mut decisions: Decisions = verdict.images.iter().flat_map(of_image).collect();
    decisions.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    decisions
}

proptest! {
    // Each case loads its policies.
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// The decisions of a set that has judged `before` equal those of a fresh set.
    #[test]
    fn decisions_do_not_depend_on_the_reviews_before(
        before in prop::collection::vec(review(), 0..24),
        review in review(),
    ) {
        let used = used_judges();
        for earlier in &before {
            evaluate(&used, earlier);
        }
        prop_assert_eq!(decisions(&evaluate(&used, &review)), decisions(&evaluate(&judges(), &review)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn decisions_do_not_depend_on_the_order_of_images(
        (review, shuffled) in review().prop_flat_map(|review| {
            let shuffled = Just(review.images.clone()).prop_shuffle();
            (Just(review), shuffled)
        }),
    ) {
        let used = used_judges();
        let expected = decisions(&evaluate(&used, &review));
        let shuffled = Review { images: shuffled, ..review.clone() };
        prop_assert_eq!(&decisions(&evaluate(&used, &shuffled)), &expected);
        // The decisions do not depend on the sharing of instances either.
        for instances in [Instances::Reversed, Instances::Isolated] {
            prop_assert_eq!(&decisions(&evaluate_with(&used, &review, instances)), &expected);
        }
    }
}

/// Returns one set for all cases, which has judged more with each.
fn used_judges() -> Arc<PolicySet> {
    static USED: std::sync::OnceLock<Arc<PolicySet>> = std::sync::OnceLock::new();
    Arc::clone(USED.get_or_init(|| Arc::new(judges())))
}
