//! The decisions of the policy on images, under various settings.

use image_policy::test::{in_namespace, settings};
use image_policy::{Decision, Image, Malfunction, Outcome, Policy};
use trusted_registries::Rules;

/// `REGISTRY REPOSITORY TAG DIGEST`, `-` for none.
fn image(fields: &str) -> Image {
    let mut fields = fields.split(' ').map(|field| (field != "-").then(|| field.to_owned()));
    let mut next = || fields.next().flatten();
    let (registry, repository) = (next().unwrap_or_default(), next().unwrap_or_default());
    Image { original: "for messages only".into(), registry, repository, tag: next(), digest: next() }
}

fn judge(json: &str, fields: &str) -> Result<Decision, Malfunction> {
    let rules: Rules = settings(json)?;
    rules.evaluate(&image(fields), &in_namespace("default"))
}

const ALLOW: &str = r#"{"allow":["registry.k8s.io/**","ghcr.io/acme/**","ghcr.io/tools/app:v*"]}"#;
const BOTH: &str =
    r#"{"allow":["ghcr.io/acme/**"],"deny":["ghcr.io/acme/legacy"],"message":"see https://wiki"}"#;
const ABSTAIN: &str = r#"{"allow":["ghcr.io/acme/**"],"deny":["ghcr.io/acme/legacy"],"unmatched":"Abstain"}"#;
const DENY: &str = r#"{"deny":["docker.io/**"]}"#;

#[test]
fn decisions() {
    use Outcome::{Abstain, Allow, Deny};
    for (settings, image, outcome, code, reason, pattern) in [
        (
            ALLOW,
            "registry.k8s.io pause 3.9 -",
            Allow,
            "trusted-registry",
            "pattern registry.k8s.io/** is trusted",
            Some("registry.k8s.io/**"),
        ),
        (
            ALLOW,
            "ghcr.io tools/app v2 -",
            Allow,
            "trusted-registry",
            "pattern ghcr.io/tools/app:v* is trusted",
            Some("ghcr.io/tools/app:v*"),
        ),
        (
            ALLOW,
            "docker.io library/nginx latest -",
            Deny,
            "untrusted-registry",
            "registry docker.io is not trusted: allowed are registry.k8s.io/** and 2 more",
            None,
        ),
        (
            ALLOW,
            "ghcr.io acme latest -",
            Deny,
            "untrusted-registry",
            "ghcr.io/acme is not trusted: it is one segment too short for ghcr.io/acme/**",
            None,
        ),
        (
            ALLOW,
            "ghcr.io tools/app main -",
            Deny,
            "untrusted-registry",
            "this version of ghcr.io/tools/app is not trusted: allowed of it is ghcr.io/tools/app:v*",
            None,
        ),
        (
            ALLOW,
            "ghcr.io tools/app v1 sha256:00",
            Deny,
            "untrusted-registry",
            "this version of ghcr.io/tools/app is not trusted: allowed of it is ghcr.io/tools/app:v*; where \
                there is a digest the tag does not count",
            None,
        ),
        (
            BOTH,
            "ghcr.io acme/app v1 -",
            Allow,
            "trusted-registry",
            "pattern ghcr.io/acme/** is trusted",
            Some("ghcr.io/acme/**"),
        ),
        (
            BOTH,
            "ghcr.io acme/legacy v1 -",
            Deny,
            "denied-registry",
            "pattern ghcr.io/acme/legacy is denied (see https://wiki)",
            Some("ghcr.io/acme/legacy"),
        ),
        (
            BOTH,
            "quay.io acme/app v1 -",
            Deny,
            "untrusted-registry",
            "registry quay.io is not trusted: ghcr.io/acme/** is the same path in another registry (see \
                https://wiki)",
            None,
        ),
        (
            DENY,
            "docker.io library/nginx latest -",
            Deny,
            "denied-registry",
            "pattern docker.io/** is denied",
            Some("docker.io/**"),
        ),
        (
            DENY,
            "docker.io:443 nginx latest -",
            Deny,
            "denied-registry",
            "pattern docker.io/** is denied",
            Some("docker.io/**"),
        ),
        (
            DENY,
            "registry-1.docker.io library/nginx - sha256:00",
            Deny,
            "denied-registry",
            "pattern docker.io/** is denied",
            Some("docker.io/**"),
        ),
        // What separates an image from a pattern.
        (
            ALLOW,
            "ghcr.io:443 acme/app v1 -",
            Deny,
            "untrusted-registry",
            "registry ghcr.io:443 is not trusted: ghcr.io/acme/** has another port, or none",
            None,
        ),
        (
            ALLOW,
            "ghcr.oi acme/app v1 -",
            Deny,
            "untrusted-registry",
            "registry ghcr.oi is not trusted: ghcr.io/acme/** has nearly the same name",
            None,
        ),
        (
            ALLOW,
            "ghcr.io tools/app/x v1 -",
            Deny,
            "untrusted-registry",
            "ghcr.io/tools/app/x is not trusted: it is one segment too deep for ghcr.io/tools/app:v*",
            None,
        ),
        (
            ALLOW,
            "ghcr.io other/x v1 -",
            Deny,
            "untrusted-registry",
            "ghcr.io/other/x is not trusted: allowed of ghcr.io are ghcr.io/acme/** and ghcr.io/tools/app:v*",
            None,
        ),
        // Lists of several entries add up.
        (
            ABSTAIN,
            "ghcr.io acme/app v1 -",
            Allow,
            "trusted-registry",
            "pattern ghcr.io/acme/** is trusted",
            Some("ghcr.io/acme/**"),
        ),
        (ABSTAIN, "quay.io x/y v1 -", Abstain, "unmatched", "no pattern matches", None),
        (
            ABSTAIN,
            "ghcr.io acme/legacy v1 -",
            Deny,
            "denied-registry",
            "pattern ghcr.io/acme/legacy is denied",
            Some("ghcr.io/acme/legacy"),
        ),
        (DENY, "ghcr.io acme/app v1 -", Abstain, "not-denied", "no deny pattern matches", None),
    ] {
        let decision = judge(settings, image).unwrap();
        assert_eq!(decision.outcome, outcome, "{image}");
        assert_eq!((decision.code.as_str(), decision.reason.as_str()), (code, reason), "{image}");
        let annotations: Vec<_> = pattern.iter().map(|p| ("pattern".to_owned(), p.to_string())).collect();
        assert_eq!(decision.audit_annotations, annotations, "{image}");
        assert!(decision.warnings.is_empty());
    }
}

#[test]
fn a_reason_is_bounded_whatever_the_image_and_the_patterns() {
    let long = "x".repeat(900);
    for settings in [
        format!(r#"{{"allow":["ghcr.io/{long}","docker.io/acme/{long}"]}}"#),
        format!(r#"{{"deny":["ghcr.io/{long}/**"],"allow":["ghcr.io/{long}:v1","ghcr.io/{long}:v2"]}}"#),
    ] {
        for repository in [long.clone(), format!("{long}/x"), "a\nb".into()] {
            for registry in ["ghcr.io", &long, "x\u{202e}\0"] {
                let reason = judge(&settings, &format!("{registry} {repository} v9 -")).unwrap().reason;
                assert!(reason.len() < 600 && !reason.contains(char::is_control), "{reason}");
            }
        }
    }
}

#[test]
fn mistakes_in_the_settings() {
    for (json, expected) in [
        ("{}", vec![("", "write allow: [\"ghcr.io/acme/**\"]")]),
        (r#"{"deny":[]}"#, vec![("", "nothing to judge by")]),
        (r#"{"message":"x"}"#, vec![("", "nothing to judge by")]),
        (r#"{"allow":[]}"#, vec![("/allow", "an empty list would deny every image")]),
        (r#"{"allow":null,"deny":["ghcr.io/**"]}"#, vec![("/allow", "null is no value")]),
        (r#"{"allow":"ghcr.io/**"}"#, vec![("/allow", "wanted a list, found a string")]),
        (r#"{"allowed":["ghcr.io/**"]}"#, vec![("/allowed", "did you mean `allow`?")]),
        (
            r#"{"allow":["ghcr.io/**","nginx"],"deny":[3],"message":"a\nb"}"#,
            vec![
                ("/allow/1", "write `docker.io/library/nginx`"),
                ("/deny/0", "a number"),
                ("/message", "one line"),
            ],
        ),
        // An empty list that is the consequence of a mistake is none.
        (r#"{"allow":["nginx"]}"#, vec![("/allow/0", "write `docker.io/library/nginx`")]),
        (r#"{"allow":["ghcr.io/**"],"unmatched":"Ignore"}"#, vec![("/unmatched", "wanted Deny or Abstain")]),
        (r#"{"allow":["ghcr.io/**"],"unmatched":true}"#, vec![("/unmatched", "wanted Deny or Abstain")]),
        (r#"{"deny":["ghcr.io/**"],"unmatched":"Deny"}"#, vec![("/unmatched", "it would deny every image")]),
    ] {
        let found = settings::<Rules>(json).expect_err(json);
        assert_eq!(found.len(), expected.len(), "{json}: {found:?}");
        for (mistake, (pointer, part)) in found.iter().zip(expected) {
            assert!(mistake.pointer == pointer && mistake.message.contains(part), "{json}: {mistake:?}");
        }
    }
    assert!(settings::<Rules>(r#"{"allow":["ghcr.io/**"],"deny":[]}"#).is_ok());
}

#[test]
fn settings_that_do_not_hold_are_warned_of() {
    for (json, expected) in [
        (r#"{"allow":["ghcr.io/acme/**","*.corp.example/**"]}"#, vec![]),
        (r#"{"allow":["ghcr.io/acme/**"],"deny":["docker.io/**"]}"#, vec![]),
        (r#"{"allow":["ghcr.io/**"]}"#, vec!["allow: ghcr.io/** trusts registries of strangers"]),
        (r#"{"allow":["111122223333.dkr.ecr.*.amazonaws.com/**"]}"#, vec![]),
        (
            r#"{"allow":["*.dkr.ecr.eu-west-1.amazonaws.com/**","*.azurecr.io/**"]}"#,
            vec![
                "write OWNER.dkr.ecr.*.amazonaws.com/**",
                "allow: *.azurecr.io/** trusts registries of strangers",
            ],
        ),
        (r#"{"deny":["*.azurecr.io/**"]}"#, vec!["deny without allow does not hold"]),
        (
            r#"{"allow":["ghcr.io/acme/**"],"deny":["ghcr.io/acme/app:v1"]}"#,
            vec!["deny: ghcr.io/acme/app:v1 does not hold"],
        ),
    ] {
        let found = settings::<Rules>(json).unwrap().warnings();
        assert_eq!(found.len(), expected.len(), "{json}: {found:?}");
        for (warning, part) in found.iter().zip(expected) {
            assert!(warning.contains(part) && warning.len() < 1024, "{json}: {warning}");
        }
    }
}

#[test]
fn warnings_are_few_however_many_patterns_there_are() {
    let list: Vec<String> = (0..500).map(|n| format!("\"*.azurecr.io/{n}/{}\"", "x".repeat(800))).collect();
    let tags: Vec<String> = (0..500).map(|n| format!("\"ghcr.io/{n}:v1\"")).collect();
    let json = format!(r#"{{"allow":[{}],"deny":[{}]}}"#, list.join(","), tags.join(","));
    let found = settings::<Rules>(json).unwrap().warnings();
    assert!(found.len() == 16 && found.iter().all(|warning| warning.len() < 1024), "{found:?}");
}
