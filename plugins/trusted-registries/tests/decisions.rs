//! What the policy says of which image, under which settings.

use trusted_registries::{Context, Decision, Image, Outcome, Policy, Rules, SettingsError};

fn context() -> Context {
    Context { namespace: "default".into(), annotations: Vec::new() }
}

/// `REGISTRY REPOSITORY TAG DIGEST`, `-` for none.
fn image(fields: &str) -> Image {
    let mut fields = fields.split(' ').map(|field| (field != "-").then(|| field.to_owned()));
    let mut next = || fields.next().flatten();
    let (registry, repository) = (next().unwrap_or_default(), next().unwrap_or_default());
    Image { original: "for messages only".into(), registry, repository, tag: next(), digest: next() }
}

fn judge(settings: &str, fields: &str) -> Result<Decision, Vec<SettingsError>> {
    Ok(Rules::parse(settings)?.judge(&image(fields), &context()))
}

const ALLOW: &str = r#"{"allow":["registry.k8s.io/**","ghcr.io/acme/**","ghcr.io/tools/app:v*"]}"#;
const BOTH: &str =
    r#"{"allow":["ghcr.io/acme/**"],"deny":["ghcr.io/acme/legacy"],"message":"see https://wiki"}"#;
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
            "ghcr.io/acme is not trusted: allowed of ghcr.io are ghcr.io/acme/** and ghcr.io/tools/app:v*",
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
            "this version of ghcr.io/tools/app is not trusted: allowed of it is ghcr.io/tools/app:v*; where there is a digest the tag does not count",
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
            "registry quay.io is not trusted: allowed is ghcr.io/acme/** (see https://wiki)",
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
    for (settings, expected) in [
        ("{}", vec![("", "write allow: [\"ghcr.io/acme/**\"]")]),
        (r#"{"deny":[]}"#, vec![("", "nothing to judge by")]),
        (r#"{"message":"x"}"#, vec![("", "nothing to judge by")]),
        (r#"{"allow":[]}"#, vec![("/allow", "an empty list would deny every image")]),
        (r#"{"allow":"ghcr.io/**"}"#, vec![("/allow", "wanted a list of strings")]),
        (
            r#"{"allowed":["ghcr.io/**"]}"#,
            vec![("", "nothing to judge by"), ("/allowed", "there are allow, deny, message")],
        ),
        (
            r#"{"allow":["ghcr.io/**","nginx"],"deny":[3],"message":"a\nb"}"#,
            vec![
                ("/allow/1", "write `docker.io/library/nginx`"),
                ("/deny/0", "a number"),
                ("/message", "one line"),
            ],
        ),
    ] {
        let found = Rules::parse(settings).expect_err(settings);
        assert_eq!(found.len(), expected.len(), "{settings}: {found:?}");
        for (mistake, (pointer, part)) in found.iter().zip(expected) {
            assert!(mistake.pointer == pointer && mistake.message.contains(part), "{settings}: {mistake:?}");
        }
    }
    assert!(Rules::parse(r#"{"allow":["ghcr.io/**"],"deny":[]}"#).is_ok());
}
