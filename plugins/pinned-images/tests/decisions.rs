//! The decisions of the policy on images, under various settings.

use image_policy::test::{in_namespace, settings};
use image_policy::{Decision, Image, Malfunction, Outcome, Policy};
use pinned_images::Rules;

fn judge(rules: &Rules, image: &Image) -> Result<Decision, Malfunction> {
    rules.evaluate(image, &in_namespace("default"))
}

/// An image of `registry.k8s.io/pause`, spelled so.
fn image(tag: Option<&str>, digest: Option<&str>) -> Image {
    let spelled =
        |mark: char, part: Option<&str>| part.map(|part| format!("{mark}{part}")).unwrap_or_default();
    Image {
        original: format!("registry.k8s.io/pause{}{}", spelled(':', tag), spelled('@', digest)),
        registry: "registry.k8s.io".into(),
        repository: "pause".into(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    }
}

const BESIDE: &str = r#"{"forbiddenTags":["*-dev"],"forbiddenTagsBesideDigest":true}"#;

#[test]
fn decisions() {
    use Outcome::{Abstain, Allow, Deny};
    let digest = format!("sha256:{}", "d".repeat(64));
    let digest = Some(digest.as_str());
    let pin = "it has no digest: write registry.k8s.io/pause:3.9@sha256:…, which `crane digest \
        registry.k8s.io/pause:3.9` prints";
    let no_latest = "tag latest is forbidden: write a version, or a digest";
    let no_dev = "tag 1-dev is forbidden: write a version, or a digest";
    let beside = "tag 1-dev is forbidden, beside a digest too: write a version, or leave it out";
    let pin_dev = "it has no digest: write registry.k8s.io/pause:1-dev@sha256:…, which `crane digest \
        registry.k8s.io/pause:1-dev` prints";
    for (json, tag, digest, outcome, code, reason) in [
        ("{}", None, digest, Allow, "pinned", "it is named by a digest"),
        ("{}", Some("latest"), digest, Allow, "pinned", "it is named by a digest"),
        ("{}", Some("3.9"), None, Deny, "not-pinned", pin),
        (r#"{"requireDigest":false}"#, Some("3.9"), None, Allow, "tag-allowed", "tag 3.9 is not forbidden"),
        (r#"{"requireDigest":false}"#, Some("latest"), None, Deny, "forbidden-tag", no_latest),
        (r#"{"requireDigest":false}"#, None, None, Deny, "forbidden-tag", no_latest),
        (r#"{"requireDigest":false}"#, Some("latest"), digest, Allow, "pinned", "it is named by a digest"),
        (
            r#"{"requireDigest":false,"forbiddenTags":["*-dev"]}"#,
            Some("1-dev"),
            None,
            Deny,
            "forbidden-tag",
            no_dev,
        ),
        (
            r#"{"requireDigest":false,"forbiddenTags":["*-dev"]}"#,
            Some("latest"),
            None,
            Allow,
            "tag-allowed",
            "tag latest is not forbidden",
        ),
        (r#"{"requireDigest":true,"forbiddenTags":[]}"#, Some("3.9"), None, Deny, "not-pinned", pin),
        (
            r#"{"except":["registry.k8s.io/*"]}"#,
            Some("3.9"),
            None,
            Abstain,
            "exempt",
            "pattern registry.k8s.io/* is exempt",
        ),
        (
            r#"{"except":["registry.k8s.io/*"]}"#,
            Some("3.9"),
            digest,
            Abstain,
            "exempt",
            "pattern registry.k8s.io/* is exempt",
        ),
        (r#"{"except":["ghcr.io/*"]}"#, Some("3.9"), None, Deny, "not-pinned", pin),
        (
            r#"{"except":["registry.k8s.io/pause:*"]}"#,
            None,
            digest,
            Abstain,
            "exempt",
            "pattern registry.k8s.io/pause:* is exempt",
        ),
        // Beside a digest the tag counts only where the settings say so.
        (r#"{"forbiddenTags":["*-dev"]}"#, Some("1-dev"), digest, Allow, "pinned", "it is named by a digest"),
        (BESIDE, Some("1-dev"), digest, Deny, "forbidden-tag", beside),
        (BESIDE, Some("1-dev"), None, Deny, "not-pinned", pin_dev),
        (BESIDE, Some("3.9"), digest, Allow, "pinned", "it is named by a digest"),
        (BESIDE, None, digest, Allow, "pinned", "it is named by a digest"),
        (
            r#"{"forbiddenTagsBesideDigest":true}"#,
            Some("latest"),
            digest,
            Deny,
            "forbidden-tag",
            "tag latest is forbidden, beside a digest too: write a version, or leave it out",
        ),
        // Pinning takes no exemption away.
        (
            r#"{
                "forbiddenTags": ["*-dev"], "forbiddenTagsBesideDigest": true,
                "except": ["registry.k8s.io/pause:1-*"]
            }"#,
            Some("1-dev"),
            digest,
            Abstain,
            "exempt",
            "pattern registry.k8s.io/pause:1-* is exempt",
        ),
        (
            r#"{"except":["registry.k8s.io/pause:3.*"]}"#,
            Some("3.9"),
            None,
            Abstain,
            "exempt",
            "pattern registry.k8s.io/pause:3.* is exempt",
        ),
    ] {
        let rules: Rules = settings(json).unwrap_or_else(|mistakes| panic!("{json}: {mistakes}"));
        let decision = judge(&rules, &image(tag, digest)).unwrap();
        assert_eq!(decision.outcome, outcome, "{json} {tag:?}");
        assert_eq!((decision.code.as_str(), decision.reason.as_str()), (code, reason), "{json} {tag:?}");
        assert_eq!(decision.audit_annotations.len(), usize::from(outcome == Abstain), "{json} {tag:?}");
        assert!(decision.warnings.is_empty());
    }
}

#[test]
fn a_name_that_is_long_or_unprintable_is_not_repeated() {
    let rules: Rules = settings("{}").unwrap();
    for original in ["x".repeat(4096), "a\nb".into(), String::new()] {
        let reason = judge(&rules, &Image { original, ..image(Some("1"), None) }).unwrap().reason;
        assert_eq!(reason, "it has no digest: write IMAGE@sha256:…, which `crane digest IMAGE` prints");
    }
    let rules: Rules = settings(r#"{"requireDigest":false,"forbiddenTags":["*"]}"#).unwrap();
    let reason = judge(&rules, &image(Some(&"x\n".repeat(4096)), None)).unwrap().reason;
    assert!(reason.len() < 700 && !reason.contains('\n'), "{reason}");
}

#[test]
fn mistakes_in_the_settings() {
    for (json, expected) in [
        (r#"{"requireDigest":false,"forbiddenTags":[]}"#, vec![("", "nothing is required")]),
        (r#"{"requireDigest":"yes"}"#, vec![("/requireDigest", "wanted true or false, found a string")]),
        (
            r#"{"forbiddenTags":["latest","a b"],"except":["pause"],"x":1}"#,
            vec![
                ("/forbiddenTags/1", "is no tag"),
                ("/except/0", "write `docker.io/library/pause`"),
                ("/x", "valid here: requireDigest, forbiddenTags, forbiddenTagsBesideDigest, except"),
            ],
        ),
    ] {
        let found = settings::<Rules>(json).expect_err(json);
        assert_eq!(found.len(), expected.len(), "{json}: {found:?}");
        for (mistake, (pointer, part)) in found.iter().zip(expected) {
            assert!(mistake.pointer == pointer && mistake.message.contains(part), "{json}: {mistake:?}");
        }
    }
}
