//! The worst review within all limits: its cost is limited, whatever policies return.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Protocol, post};
use crate::support::{Installation, scripted};

/// Number of policies that deny every image with as many and as long texts as a decision may have.
const POLICIES: usize = 20;
/// Maximum growth: more than the texts of a review (16 MiB), its body, the overhead, and a line of the log.
/// Without limits these policies' texts on 256 images have 340 MiB.
const MEMORY: u64 = 128 << 20;
/// Time limit: a review ends with its deadline (25 s); the rest is for a busy machine.
const TIME: Duration = Duration::from_secs(60);

fn policies(count: usize) -> Vec<Value> {
    let text = "w".repeat(1024);
    let annotations: Vec<_> = (0..32).map(|number| json!([format!("{number:063}"), text])).collect();
    let said = json!({
        "outcome": "deny", "code": "c".repeat(63), "reason": text, "annotations": annotations,
        "warnings": [text], "warningsTimes": 32,
    });
    let policy = |number| {
        let settings = json!({ "images": { "*": said } });
        let limits = json!({ "deadline": "10s" });
        json!({ "name": format!("p{number}"), "module": scripted(), "settings": settings, "limits": limits })
    };
    (0..count).map(policy).collect()
}

/// Returns a review of 256 images, 256 KiB of annotations, and white space up to 4 MiB.
fn review() -> String {
    let image = |number| {
        let (path, tag) = ("p/".repeat(100) + "q", "t".repeat(128));
        json!({ "image": format!("r{number}.example/{path}:{tag}") })
    };
    let key = "a.image-policy.k8s.io/b";
    let mut body = json!({
        "kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1",
        "spec": {
            "containers": (0..256).map(image).collect::<Vec<_>>(),
            "annotations": { key: "x".repeat((256 << 10) - key.len()) },
            "namespace": "n".repeat(63),
        },
    })
    .to_string();
    body.push_str(&" ".repeat((4 << 20) - body.len()));
    body
}

/// limit: said breaks
#[tokio::test]
async fn the_worst_review_takes_bounded_memory_and_time() {
    let installation = Installation::new(json!({
        "policies": policies(POLICIES),
        "limits": { "reviewDeadline": "25s" },
        "decisionLog": { "directory": "decisions" },
    }));
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let mut connection = installation.client().connect(address, Protocol::Http2).await.unwrap();
    connection.review("nginx").await.unwrap();
    let before = process.peak();
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = connection.send(post(review())).await.unwrap();
        assert_eq!(answer.status, 200);
        let status = &answer.json()["status"];
        assert_eq!(status["allowed"], false);
        let annotations = status["auditAnnotations"].as_object().unwrap();
        assert!(status["reason"].as_str().unwrap().len() <= 1024 && annotations.len() <= 64 + 4, "{status}");
        let (grown, took) = (process.peak() - before, begun.elapsed());
        println!("the worst review: {} MiB, {took:?}", grown >> 20);
        assert!(grown < MEMORY, "{} MiB more than before", grown >> 20);
        assert!(took < TIME, "{took:?}");
    }
}

/// Each decision keeps its share, whatever the order of the images.
///
/// limit: said within
#[test]
fn the_words_of_a_review_are_shared_equally() {
    use host::evaluate::Instances;

    use crate::support::evaluation::evaluate_with;
    let set = crate::support::set(json!({ "policies": policies(2), "limits": { "reviewDeadline": "25s" } }));
    let images: Vec<_> = (0..256).map(|number| format!("x.io/{number}")).collect();
    let images: Vec<_> = images.iter().map(String::as_str).collect();
    let words = |images: &[&str], instances| -> Vec<usize> {
        let verdict = evaluate_with(&set, &crate::support::review("default", images), instances);
        let said = verdict.images.iter().flat_map(|image| &image.judged.said);
        let words = said.map(|said| {
            let decision = said.judgement.as_ref().unwrap_or_else(|error| panic!("{error}"));
            let pairs = decision.audit_annotations.iter().map(|(key, value)| key.len() + value.len());
            decision.reason.len()
                + pairs.sum::<usize>()
                + decision.warnings.iter().map(String::len).sum::<usize>()
        });
        words.collect()
    };
    let alone = words(&images[..1], Instances::Shared);
    assert!(alone.iter().all(|words| *words > 65 << 10), "{alone:?}");
    let many = words(&images, Instances::Shared);
    assert_eq!(many.len(), 512);
    assert!(many.iter().all(|words| (30 << 10..=32 << 10).contains(words)), "{many:?}");
    assert_eq!(many, words(&images, Instances::Reversed));
}
