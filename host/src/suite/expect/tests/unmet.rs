//! Expectations compared with verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Expect, Unmet};
use super::{in_one_line, lines, read, rows};
use crate::config::{FailurePolicy, Mode, Rules, Unjudged};
use crate::image::Image;
use crate::review::verdict::{
    Decision, Judged, Level, LogLine, Malfunction, Outcome, ReferenceError, Said, Verdict,
};

pub(super) const WEB: &str = "ghcr.io/acme/web:1";

/// Returns a decision of a policy, with an annotation, a warning and a log line that have the code's name.
pub(super) fn said(policy: &str, outcome: Outcome, code: &str, reason: &str) -> Said {
    let decision = Decision {
        outcome,
        code: code.to_owned(),
        reason: reason.to_owned(),
        audit_annotations: vec![("pattern".to_owned(), format!("{code}/**"))],
        warnings: vec![format!("{code} warns")],
    };
    Said {
        policy: policy.to_owned(),
        mode: Mode::Enforce,
        failure_policy: FailurePolicy::Fail,
        message: None,
        judgement: Ok(decision),
        log: vec![LogLine { level: Level::Info, message: format!("{code} logs") }],
    }
}

pub(super) fn allows(policy: &str) -> Said {
    said(policy, Outcome::Allow, "trusted-registry", "pattern ghcr.io/** is trusted")
}

pub(super) fn denies(policy: &str) -> Said {
    said(policy, Outcome::Deny, "not-pinned", "it has no digest")
}

pub(super) fn fails(policy: &str, failure_policy: FailurePolicy) -> Said {
    let judgement = Err(Malfunction::Deadline(Duration::from_secs(1)));
    Said { judgement, failure_policy, log: Vec::new(), ..allows(policy) }
}

pub(super) fn judged(image: &str, said: Vec<Said>) -> Judged {
    let parsed = Image::parse(image).map_err(ReferenceError::from);
    Judged { original: image.to_owned(), image: parsed, said, exhausted: None }
}

pub(super) fn verdict(rules: &Rules, images: Vec<Judged>) -> Verdict {
    Verdict::combine(rules, "shop", "g1", images)
}

/// nginx is denied by pinned-images, and the other image is allowed.
pub(super) fn mixed() -> Verdict {
    let nginx = vec![allows("trusted-registries"), denies("pinned-images")];
    let web = vec![allows("trusted-registries"), said("pinned-images", Outcome::Abstain, "tagged", "")];
    verdict(&Rules::default(), vec![judged("nginx", nginx), judged(WEB, web)])
}

pub(super) fn unmet(yaml: &str, verdict: &Verdict) -> Vec<Unmet> {
    let expect = read(yaml);
    assert!(expect.is_ok(), "{yaml}: {:?}", lines(&expect));
    expect.unwrap().unmet(verdict)
}

/// Asserts the differences of each expectation to a verdict.
#[track_caller]
fn assert_unmet(verdict: &Verdict, table: &str) {
    for (yaml, expected) in rows(table) {
        let found: Vec<_> = unmet(&yaml, verdict).iter().map(Unmet::to_string).collect();
        assert_eq!(in_one_line(&found.join(" ")), expected, "{yaml}");
    }
}

#[test]
fn outcomes_of_a_review() {
    assert_unmet(
        &mixed(),
        r#"
deny

deny:

deny: not-pinned

allow
> expected allow
> got deny not-pinned: nginx: it has no digest (policy pinned-images)

allow: trusted-registry
> expected allow trusted-registry
> got deny not-pinned: nginx: it has no digest (policy pinned-images)

deny: forbidden-tag
> expected deny forbidden-tag
> got deny not-pinned: nginx: it has no digest (policy pinned-images)

malfunction
> expected malfunction
> got deny not-pinned: nginx: it has no digest (policy pinned-images)

malfunction: trap
> expected malfunction trap
> got deny not-pinned: nginx: it has no digest (policy pinned-images)
"#,
    );
    let allowed = verdict(&Rules::default(), vec![judged(WEB, vec![allows("trusted-registries")])]);
    assert_unmet(
        &allowed,
        r#"
allow

allow: trusted-registry

allow: other
> expected allow other
> got allow trusted-registry

deny
> expected deny
> got allow trusted-registry
"#,
    );
    let audit = Rules { mode: Mode::Audit, ..Rules::default() };
    let audit = verdict(&audit, vec![judged("nginx", vec![denies("pinned-images")])]);
    assert_unmet(
        &audit,
        r#"
allow

deny
> expected deny
> got allow: the host is in mode audit; otherwise: nginx: it has no digest (policy pinned-images)

images: { nginx: { deny: not-pinned } }
"#,
    );
    let refused = Verdict::refuse(&Rules::default(), "g1", "the review has 300 images");
    assert_unmet(
        &refused,
        r#"
deny

deny: code
> expected deny code
> got deny: the review has 300 images

images: { nginx: { deny: , pinned-images: { reason: x } } }
> nginx: expected deny
> got none: the host judged no image: the review has 300 images
> nginx, pinned-images: reason: expected a text that contains "x"
> got none: the host judged no image: the review has 300 images
"#,
    );
}

#[test]
fn outcomes_of_an_image() {
    assert_unmet(
        &mixed(),
        r#"
images: { nginx: deny, 'ghcr.io/acme/web:1': allow }

images: { nginx: { deny: not-pinned }, 'ghcr.io/acme/web:1': { allow: trusted-registry } }

images: { nginx: allow }
> nginx: expected allow
> got deny not-pinned: it has no digest

images: { nginx: { deny: trusted-registry } }
> nginx: expected deny trusted-registry
> got deny not-pinned: it has no digest

images: { 'ghcr.io/acme/web:1': deny, nginx: { malfunction: trap } }
> ghcr.io/acme/web:1: expected deny
> got allow trusted-registry: pattern ghcr.io/** is trusted
> nginx: expected malfunction trap
> got deny not-pinned: it has no digest
"#,
    );
    let two = vec![denies("pinned-images"), said("trusted-registries", Outcome::Deny, "untrusted", "")];
    let two = verdict(&Rules::default(), vec![judged("nginx", two)]);
    assert_unmet(
        &two,
        r#"
images: { nginx: { deny: untrusted } }

images: { nginx: { deny: not-pinned } }

images: { nginx: { deny: x } }
> nginx: expected deny x
> got deny not-pinned: it has no digest; untrusted
"#,
    );
}

#[test]
fn outcomes_that_the_host_decides() {
    let images = |said: &[Said]| vec![judged("nginx", said.to_vec())];
    let unjudged = verdict(&Rules::default(), images(&[said("pinned-images", Outcome::Abstain, "none", "")]));
    assert_unmet(
        &unjudged,
        r#"
images: { nginx: deny }

images: { nginx: allow }
> nginx: expected allow
> got deny: no policy judged it in namespace shop (in host.yaml, `unjudged` and `exempt.namespaces` decide
> what happens then)

images: { nginx: { deny: none } }
> nginx: expected deny none
> got deny: no policy judged it in namespace shop (in host.yaml, `unjudged` and `exempt.namespaces` decide
> what happens then)

images: { nginx: { trusted-registries: abstain } }
> nginx, trusted-registries: expected abstain
> got none: the policy's scope leaves out this image
"#,
    );
    let rules = Rules { unjudged: Unjudged::Allow, ..Rules::default() };
    assert_unmet(
        &verdict(&rules, images(&[])),
        r#"
images: { nginx: allow }

images: { nginx: { allow: code } }
> nginx: expected allow code
> got allow: no policy judged it in namespace shop (unjudged: Allow)

images: { nginx: { pinned-images: deny } }
> nginx, pinned-images: expected deny
> got none: no policy judged it in namespace shop (unjudged: Allow)
"#,
    );
    let audit = Said { mode: Mode::Audit, ..denies("pinned-images") };
    assert_unmet(
        &verdict(&Rules::default(), images(&[audit])),
        r#"
images: { nginx: { allow: , pinned-images: { deny: not-pinned } } }

images: { nginx: { deny: not-pinned } }
> nginx: expected deny not-pinned
> got allow: only policies in mode audit apply in namespace shop (pinned-images), and audit denies nothing
"#,
    );
}

#[test]
fn outcomes_of_a_malfunction() {
    let images = |said: &[Said]| vec![judged("nginx", said.to_vec())];
    let failed = images(&[allows("trusted-registries"), fails("pinned-images", FailurePolicy::Fail)]);
    let failed = verdict(&Rules::default(), failed);
    assert_unmet(
        &failed,
        r#"
malfunction

malfunction: deadline

images: { nginx: { malfunction: deadline } }

images: { nginx: { pinned-images: { malfunction: deadline } } }

deny
> expected deny
> got malfunction deadline: no answer within its deadline of 1s

images: { nginx: deny }
> nginx: expected deny
> got malfunction deadline: no answer within its deadline of 1s

images: { nginx: { pinned-images: deny } }
> nginx, pinned-images: expected deny
> got malfunction deadline: no answer within its deadline of 1s

images: { nginx: { deny: not-pinned } }
> nginx: expected deny not-pinned
> got malfunction deadline: no answer within its deadline of 1s

deny: not-pinned
> expected deny not-pinned
> got malfunction deadline: no answer within its deadline of 1s

images: { nginx: { malfunction: trap } }
> nginx: expected malfunction trap
> got malfunction deadline: no answer within its deadline of 1s
"#,
    );
    // The response of the server is the same.
    assert_eq!(Expect::of_status(false, None, BTreeMap::new()).unmet(&failed), []);
    let with_denial = images(&[denies("trusted-registries"), fails("pinned-images", FailurePolicy::Fail)]);
    assert_unmet(
        &verdict(&Rules::default(), with_denial),
        r#"
deny

images: { nginx: deny }

images: { nginx: { deny: x } }
> nginx: expected deny x
> got deny not-pinned: it has no digest; malfunction deadline: no answer within its deadline of 1s
"#,
    );
    let ignored = images(&[allows("trusted-registries"), fails("pinned-images", FailurePolicy::Ignore)]);
    assert_unmet(
        &verdict(&Rules::default(), ignored),
        r#"
{ allow: , images: { nginx: malfunction } }

images: { nginx: allow }

images: { nginx: { pinned-images: abstain } }
> nginx, pinned-images: expected abstain
> got malfunction deadline: no answer within its deadline of 1s
"#,
    );
}

#[test]
fn outcomes_of_a_policy() {
    assert_unmet(
        &mixed(),
        r#"
images: { nginx: { trusted-registries: allow, pinned-images: { deny: not-pinned } } }

images: { 'ghcr.io/acme/web:1': { pinned-images: { abstain: tagged } } }

images: { 'ghcr.io/acme/web:1': { pinned-images: allow, trusted-registries: abstain } }
> ghcr.io/acme/web:1, pinned-images: expected allow
> got abstain tagged
> ghcr.io/acme/web:1, trusted-registries: expected abstain
> got allow trusted-registry: pattern ghcr.io/** is trusted

images: { nginx: { pinned-images: { deny: forbidden-tag } } }
> nginx, pinned-images: expected deny forbidden-tag
> got deny not-pinned: it has no digest

images: { nginx: { pinned-images: { malfunction: } } }
> nginx, pinned-images: expected malfunction
> got deny not-pinned: it has no digest
"#,
    );
}

#[test]
fn texts() {
    assert_unmet(
        &mixed(),
        r#"
reason: no digest

reason: [nginx, '/DIGEST|digest/', '/(?i)IMAGES\)$/']

reason: { is: 'nginx: it has no digest (policy pinned-images)' }

reason: no tag
> reason: expected a text that contains "no tag"
> got "nginx: it has no digest (policy pinned-images)"

reason: /^it/
> reason: expected a text that matches /^it/
> got "nginx: it has no digest (policy pinned-images)"

reason: { is: nginx }
> reason: expected "nginx"
> got "nginx: it has no digest (policy pinned-images)"

reason: []
> reason: expected none
> got "nginx: it has no digest (policy pinned-images)"

reason: [nginx, za, zb]
> reason: expected a text that contains "za" and a text that contains "zb"
> got "nginx: it has no digest (policy pinned-images)"

images: { nginx: { reason: { is: it has no digest (policy pinned-images) } } }

images: { 'ghcr.io/acme/web:1': { reason: is trusted (policy trusted-registries) } }

images: { nginx: { pinned-images: { reason: { is: it has no digest } } } }

images: { nginx: { pinned-images: { reason: /tag/ } } }
> nginx, pinned-images: reason: expected a text that matches /tag/
> got "it has no digest"
"#,
    );
    assert_unmet(
        &mixed(),
        r#"
warnings: [trusted-registry warns, not-pinned warns, tagged warns]

log: tagged logs

images: { nginx: { warnings: [trusted, not-pinned], log: not-pinned } }

images: { nginx: { pinned-images: { warnings: { is: not-pinned warns }, log: [/logs$/] } } }

images: { nginx: { warnings: tagged, pinned-images: { log: [] } } }
> nginx: warnings: expected a text that contains "tagged"
> got "trusted-registry warns"; "not-pinned warns"
> nginx, pinned-images: log: expected none
> got "not-pinned logs"
"#,
    );
    let silent = verdict(&Rules::default(), vec![judged(WEB, Vec::new())]);
    assert_unmet(
        &silent,
        r#"
{ warnings: [], log: [] }

log: x
> log: expected a text that contains "x"
> got none
"#,
    );
}

#[test]
fn audit_annotations() {
    assert_unmet(
        &mixed(),
        r#"
auditAnnotations: { decided-by: policies, generation: { is: g1 }, pinned-images.no: [] }

auditAnnotations: { trusted-registries.pattern: { is: 'trusted-registry/**' } }

auditAnnotations: { pinned-images.pattern: 'nginx: not-pinned/**' }

auditAnnotations: { generation: g2 }
> auditAnnotations["generation"]: expected a text that contains "g2"
> got "g1"

auditAnnotations: { pinned-images.no: x }
> auditAnnotations["pinned-images.no"]: expected a text that contains "x"
> got none; there are decided-by, generation, pinned-images.pattern, pinned-images.warnings,
> trusted-registries.pattern, trusted-registries.warnings

auditAnnotations: { generation: [] }
> auditAnnotations["generation"]: expected none
> got "g1"

images: { nginx: { auditAnnotations: { pinned-images.pattern: { is: 'not-pinned/**' } } } }

images: { nginx: { auditAnnotations: { pinned-images.no: x } } }
> nginx: auditAnnotations["pinned-images.no"]: expected a text that contains "x"
> got none; there are pinned-images.pattern, pinned-images.warnings, trusted-registries.pattern,
> trusted-registries.warnings

images: { nginx: { pinned-images: { auditAnnotations: { pattern: { is: 'not-pinned/**' } } } } }

images: { nginx: { pinned-images: { auditAnnotations: { tag: x } } } }
> nginx, pinned-images: auditAnnotations["tag"]: expected a text that contains "x"
> got none; there are pattern
"#,
    );
}

#[test]
fn the_order_is_that_of_the_file() {
    let found =
        unmet("log: z\nimages:\n  nginx:\n    pinned-images: allow\n    allow:\nreason: zy\n", &mixed());
    let pointers: Vec<_> = found.iter().map(|unmet| unmet.pointer.clone().unwrap()).collect();
    assert_eq!(pointers, ["/log", "/images/nginx/pinned-images", "/images/nginx/allow", "/reason"]);
}

#[test]
fn got_stands_below_expected() {
    let lines = |yaml: &str| unmet(yaml, &mixed())[0].to_string();
    assert_eq!(
        lines("images: { nginx: { deny: forbidden-tag } }"),
        "nginx: expected deny forbidden-tag\n            got deny not-pinned: it has no digest"
    );
    assert_eq!(
        lines("reason: []"),
        "reason: expected none\n             got \"nginx: it has no digest (policy pinned-images)\""
    );
    assert_eq!(
        lines("images: { nginx: { pinned-images: allow } }"),
        "nginx, pinned-images: expected allow\n                           got deny not-pinned: it has no \
            digest"
    );
    assert!(lines("allow").starts_with("expected allow\n     got deny"));
}
