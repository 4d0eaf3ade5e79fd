//! Accepted and refused expectations.

use super::{lines, read, read_in, rows};
use crate::config::Mode;

/// Asserts the problems of each expectation.
#[track_caller]
fn assert_problems(table: &str) {
    for (yaml, expected) in rows(table) {
        assert_eq!(lines(&read(&yaml)).join(" "), expected, "{yaml}");
    }
}

#[test]
fn every_notation_is_read() {
    for yaml in [
        "allow",
        "deny",
        "malfunction",
        "{ deny: }",
        "{ deny: untrusted-registry }",
        "{ allow: ok-1 }",
        "{ malfunction: left-out }",
        "{ reason: text }",
        r"{ reason: '/^nginx: \d+ (?i)REGISTRY/' }",
        "{ reason: { is: the whole } }",
        "{ reason: { is: '' } }",
        "{ reason: [one, /two/, { is: three }] }",
        "{ warnings: [], log: [] }",
        "{ auditAnnotations: { pinned-images.pattern: 'ghcr.io/**', decided-by: /^pol/, would-deny: [] } }",
        "{ images: { nginx: deny, 'ghcr.io/acme/web:1': { allow: , reason: trusted, warnings: [] } } }",
        "{ images: { nginx: { trusted-registries: abstain, pinned-images: { abstain: none } } } }",
        "{ images: { nginx: { deny: , pinned-images: { malfunction: deadline, log: [started] } } } }",
        "{ deny: , images: { nginx: allow } }",
        "{ allow: , images: { nginx: allow, 'ghcr.io/acme/web:1': malfunction } }",
        "{ allow: , reason: [] }",
    ] {
        assert!(lines(&read(yaml)).is_empty(), "{yaml}: {:?}", lines(&read(yaml)));
    }
}

#[test]
fn an_expectation_that_expects_nothing_is_refused() {
    assert_problems(
        r#"
> 1:1: nothing is expected here: write `allow` or `deny` or `malfunction`

{}
> 1:1: nothing is expected here: write `allow` or `deny` or `malfunction`

~
> 1:1: nothing is expected here: write `allow` or `deny` or `malfunction`

images:
  nginx:
> 2:3: nothing is expected here: write `allow` or `deny` or `malfunction`

images:
  nginx: {}
> 2:10: nothing is expected here: write `allow` or `deny` or `malfunction`

images: { nginx: { pinned-images: {} } }
> 1:35: nothing is expected here: write `allow` or `deny` or `abstain` or `malfunction`

images: {}
> 1:9: nothing is expected here: write a map from images to expectations

images:
> 1:1: expected a map from images to expectations, found nothing

auditAnnotations: {}
> 1:19: nothing is expected here: write a map from keys to texts

reason: ''
> 1:9: every text contains an empty one: write `[]` if there is none

reason: //
> 1:9: the regular expression `` matches every text

reason: /.*/
> 1:9: the regular expression `.*` matches every text

reason: [/x*|y/, /^$/, /$/]
> 1:10: the regular expression `x*|y` matches every text
> 1:24: the regular expression `$` matches every text

reason:
> 1:1: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found nothing: write `[]` if there is
> none
"#,
    );
}

#[test]
fn words_and_keys_that_do_not_exist_are_refused() {
    assert_problems(
        r#"
alow
> 1:1: expected `allow`, `deny`, `malfunction` or a map, found `alow`: did you mean `allow`?

true
> 1:1: expected `allow`, `deny`, `malfunction` or a map, found the boolean `true`

[deny]
> 1:1: expected `allow`, `deny`, `malfunction` or a map, found a list

abstain
> 1:1: `abstain` is an outcome of a policy: write it below a policy's name

abstain: x
> 1:1: `abstain` is an outcome of a policy: write it below a policy's name

images: { nginx: abstain }
> 1:18: `abstain` is an outcome of a policy: write it below a policy's name

images: { nginx: { abstain: } }
> 1:20: `abstain` is an outcome of a policy: write it below a policy's name

reasons: x
> 1:1: unknown key `reasons`: did you mean `reason`?

x: y
> 1:1: unknown key `x`: valid here: `allow`, `deny`, `malfunction`, `reason`, `auditAnnotations`,
> `warnings`, `log`, `images`

pinned-images: deny
> 1:1: unknown key `pinned-images`: a policy stands below an image: `images: { IMAGE: { pinned-images:
> OUTCOME } }`

nginx: deny
> 1:1: unknown key `nginx`: an image stands below `images`

images: { nginx: { images: deny } }
> 1:20: unknown key or policy `images`: valid here: `allow`, `deny`, `malfunction`, `reason`,
> `auditAnnotations`, `warnings`, `log`, and policies under test: `trusted-registries`, `pinned-images`

images: { nginx: { pined-images: deny } }
> 1:20: unknown key or policy `pined-images`: did you mean `pinned-images`?

images: { nginx: { spin: deny } }
> 1:20: unknown key or policy `spin`: valid here: `allow`, `deny`, `malfunction`, `reason`,
> `auditAnnotations`, `warnings`, `log`, and policies under test: `trusted-registries`, `pinned-images`

images: { nginx: { pinned-images: { image: x } } }
> 1:37: unknown key `image`: valid here: `allow`, `deny`, `abstain`, `malfunction`, `reason`,
> `auditAnnotations`, `warnings`, `log`

reason: { equals: x }
> 1:11: unknown key `equals`: valid here: `is`

reason: { is: x, iss: y }
> 1:18: unknown key `iss`: did you mean `is`?
"#,
    );
}

#[test]
fn images_are_named_as_the_review_names_them() {
    assert_problems(
        r#"
images: { docker.io/library/nginx:latest: deny }
> 1:11: the review has no image `docker.io/library/nginx:latest`: write the same image as the review does,
> `nginx`

images: { ghcr.io/acme/web:2: deny }
> 1:11: the review has no image `ghcr.io/acme/web:2`: did you mean `ghcr.io/acme/web:1`?

images: { 'x y': deny }
> 1:11: the review has no image `x y`: it has: `nginx`, `ghcr.io/acme/web:1`

images: [nginx]
> 1:9: expected a map from images to expectations, found a list
"#,
    );
    assert_eq!(
        lines(&read_in(Mode::Enforce, "nginx: deny\nngin: deny\n", true)),
        ["2:1: the review has no image `ngin`: did you mean `nginx`?"]
    );
    assert_eq!(
        lines(&read_in(Mode::Enforce, "deny", true)),
        ["1:1: expected a map from images to expectations, found the string `deny`"]
    );
}

#[test]
fn codes_kinds_and_texts_are_checked() {
    assert_problems(
        r#"
deny: Untrusted_Registry
> 1:7: code `Untrusted_Registry` is not kebab-case of 1 to 63 bytes, such as `untrusted-registry`

deny: ''
> 1:7: code `` is not kebab-case of 1 to 63 bytes, such as `untrusted-registry`

deny: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
> 1:7: code `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` is not kebab-case of 1 to 63
> bytes, such as `untrusted-registry`

deny: 404
> 1:7: expected a code, or nothing for any, found the number `404`: put it in quotes

allow: true
> 1:8: expected a code, or nothing for any, found the boolean `true`

malfunction: [deadline]
> 1:14: expected a kind, or nothing for any, found a list

malfunction: dedline
> 1:14: `dedline` is no kind of malfunction: did you mean `deadline`?

malfunction: x
> 1:14: `x` is no kind of malfunction: valid here: `not-loaded`, `deadline`, `budget`, `left-out`,
> `memory`, `result`, `trap`, `reported`, `contract`

reason: 1
> 1:9: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found the number `1`: put it in quotes

reason: [[a]]
> 1:10: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found a list

reason: {}
> 1:9: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found a map

log: { is: 1 }
> 1:12: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found the number `1`: put it in quotes

reason: '/(/'
> 1:9: the regular expression `(`: unclosed group

warnings: [ok, '/[/']
> 1:16: the regular expression `[`: unclosed character class

auditAnnotations: deny
> 1:19: expected a map from keys to texts, found the string `deny`
"#,
    );
}

#[test]
fn annotations_that_no_verdict_has_are_refused() {
    const OF_POLICIES: &str = "here a policy's keys begin with its name, as in `trusted-registries.KEY`";
    const OWN: &str = "; the host's own are `decided-by`, `generation`, `would-deny`";
    let digest = "pinned.k-0123456789ab";
    for (yaml, expected) in [
        ("auditAnnotations: { decided-by: [], generation: [], would-deny: [] }", None),
        ("auditAnnotations: { pinned-images.a_b.c-D9: [], pinned-images.warnings: x }", None),
        (&format!("auditAnnotations: {{ {digest}: [] }}"), None),
        ("images: { nginx: { auditAnnotations: { pinned-images.k: [] } } }", None),
        ("images: { nginx: { pinned-images: { auditAnnotations: { any key: [] } } } }", None),
        ("auditAnnotations: { pattern: [] }", Some(("1:21", "pattern", OWN))),
        ("auditAnnotations: { pattern: x }", Some(("1:21", "pattern", OWN))),
        ("auditAnnotations: { review: [] }", Some(("1:21", "review", OWN))),
        ("auditAnnotations: { 'pinned-images.k ': [] }", Some(("1:21", "pinned-images.k ", OWN))),
        ("auditAnnotations: { pinned-images.: [] }", Some(("1:21", "pinned-images.", OWN))),
        ("auditAnnotations: { other.k: [] }", Some(("1:21", "other.k", OWN))),
        ("images: { nginx: { auditAnnotations: { decided-by: [] } } }", Some(("1:40", "decided-by", ""))),
    ] {
        let expected = expected.map(|(place, key, own)| {
            format!("{place}: no audit annotation has the key `{key}`: {OF_POLICIES}{own}")
        });
        assert_eq!(lines(&read(yaml)), Vec::from_iter(expected), "{yaml}");
    }
}

#[test]
fn contradictions_are_refused() {
    assert_problems(
        r#"
allow:
deny:
malfunction:
> 2:1: two outcomes: `allow` is at 1:1
> 3:1: two outcomes: `allow` is at 1:1

allow:
reason: x
> 2:1: contradiction: a review that is allowed (see 1:1) has no reason

reason: [x, y]
allow:
> 1:1: contradiction: a review that is allowed (see 2:1) has no reason

allow:
images:
  nginx: { deny: code }
  ghcr.io/acme/web:1: deny
> 3:12: contradiction: no image of a review that is allowed (see 1:1) is denied
> 4:23: contradiction: no image of a review that is allowed (see 1:1) is denied

deny:
images: { nginx: allow, 'ghcr.io/acme/web:1': { allow: } }
> 1:1: contradiction: every image is expected to be allowed, and then so is the review
"#,
    );
    // In mode audit, a review is allowed whatever its images are.
    assert!(read_in(Mode::Audit, "{ allow: , images: { nginx: deny } }", false).is_ok());
    let reason = lines(&read_in(Mode::Audit, "{ allow: , reason: x }", false));
    assert_eq!(reason, ["1:12: contradiction: a review that is allowed (see 1:3) has no reason"]);
}

#[test]
fn all_problems_are_found_at_once_in_the_order_of_the_file() {
    assert_problems(
        r#"
reasn: x
images:
  ngnx: allow
  nginx: { pinned: deny, deny: 1 }
warnings: [1, '/)/']
> 1:1: unknown key `reasn`: did you mean `reason`?
> 3:3: the review has no image `ngnx`: did you mean `nginx`?
> 4:12: unknown key or policy `pinned`: did you mean `pinned-images`?
> 4:32: expected a code, or nothing for any, found the number `1`: put it in quotes
> 5:12: expected a text (`TEXT`, `/EXPRESSION/`, `{ is: TEXT }`), found the number `1`: put it in quotes
> 5:15: the regular expression `)`: unopened group
"#,
    );
}

#[test]
fn hostile_text_is_escaped_and_cut() {
    let key = format!("? \"\\e[31m\\u202e{}\"\n: x\n", "k".repeat(100_000));
    let problems = lines(&read(&key));
    assert!(problems[0].starts_with("1:3: unknown key `\\u{1b}[31m\\u{202e}kkk"), "{problems:?}");
    let image = format!("images: {{ ? \"\\n{}\" : deny }}", "i".repeat(1000));
    let annotation = format!("auditAnnotations: {{ ? \"\\n{}\" : x }}", "i".repeat(1000));
    let expression = format!("reason: \"/\\n(\\u200b{}/\"", "x".repeat(10_000));
    for yaml in [&key, &image, &annotation, &expression, &"deny: \"\\n\"".to_owned()] {
        let problems = lines(&read(yaml));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].len() < 1000, "{problems:?}");
        assert_eq!(crate::text::escape(&problems[0]), problems[0]);
    }
    let message = &lines(&read(&annotation))[0];
    assert!(message.starts_with("1:23: no audit annotation has the key `\\u{a}iii"), "{message}");
    assert!(message.ends_with("…`: it has over 63 bytes"), "{message}");
}

#[test]
fn a_file_of_many_mistakes_is_read_in_time() {
    let mut yaml = "images:\n".to_owned();
    for image in 0..10_000 {
        yaml.push_str(&format!("  nginx-{image}: {{ pinned: deny }}\n"));
    }
    let problems = lines(&read(&yaml));
    assert_eq!(problems.len(), 10_000);
    assert!(problems[9_999].ends_with("see the review"), "{}", problems[9_999]);
}
