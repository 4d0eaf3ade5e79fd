//! Reloads of host.yaml, and of the certificates that it names, on request.

use std::fs;
use std::sync::Arc;

use host::install::certificates;

use crate::reload::candidate::{Installation, said, scripted_yaml};
use crate::support::evaluation::evaluate;
use crate::support::{self, logged, version};

#[test]
fn host_yaml_is_followed_whole_or_not_at_all() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    installation
        .host_yaml("policyDirectory: policies\nunjudged: Allow\nexempt: { namespaces: [kube-system] }");
    started.reloader.reload();
    let set = started.policies.current();
    assert_eq!(set.number(), 2);
    assert!(set.rules.exempt_namespaces.matches("kube-system"));

    let broken = [
        ("policyDirectory: policies\nunjudgd: Allow", "host.yaml:7:1: unknown key `unjudgd`"),
        ("policyDirectory: policies\nunjudged: Perhaps", "host.yaml:7:11: unjudged: "),
        ("policyDirectory: [", "host.yaml:"),
    ];
    for (text, why) in broken {
        installation.host_yaml(text);
        installation.policy("a", &version("version2"));
        let log = logged(|| started.reloader.reload());
        assert_eq!(started.policies.current().generation(), set.generation());
        assert_eq!(said(&started.policies), ["a: version1"]);
        let problems = installation.problems(&started);
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(problem.starts_with("host.yaml:") && problem.contains(why), "{problem}");
        assert_eq!(problem.matches("host.yaml").count(), 1, "{problem}");
        assert!(problem.ends_with(" (the generation in force stays)"), "{problem}");
        assert!(log.contains("ERROR"), "{log}");
    }
    fs::remove_file(installation.path("host.yaml")).unwrap();
    started.reloader.reload();
    assert_eq!(started.policies.current().generation(), set.generation());
    assert!(
        installation.problems(&started)[0].contains("No such file"),
        "{:?}",
        installation.problems(&started)
    );

    installation.host_yaml("policyDirectory: policies");
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version2"]);
    assert_eq!(installation.problems(&started), [""; 0]);
}

#[test]
fn a_settings_error_points_into_host_yaml() {
    let good = "    images: { '*': { outcome: allow, reason: good } }";
    let bad = "    images: {}\n    configure:\n      errors:\n      - { pointer: /images, message: no image \
        }\n      \
               - { pointer: /configure/errors/1, message: not this one }\n      - { pointer: '', message: \
               all wrong }";
    let expected = "host.yaml:10:13: settings/images: no image; host.yaml:14:9: settings/configure/errors/1: \
                    not this one; host.yaml:10:5: settings: all wrong";

    let installation = Installation::new(&scripted_yaml(good));
    let mut started = installation.start();
    installation.host_yaml(&scripted_yaml(bad));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["s: good"]);
    assert_eq!(
        installation.problems(&started),
        [format!("policy s: {expected} (its last good version stays in force, as it was configured)")]
    );

    // At a start without a last good version, kubectl shows this message.
    let started = installation.start();
    let verdict = evaluate(&started.policies.current(), &support::review("default", &["x.io/a"]));
    assert_eq!(
        installation.shortened(&verdict.reason),
        format!("x.io/a: the policy is not loaded: {expected} (policy s)")
    );
}

/// A policy may name a place in a text. The message has the place in host.yaml, or the place in words if
/// host.yaml has no such place.
#[test]
fn a_settings_error_in_a_text_points_into_the_text() {
    let settings = "    images:\n      a: { reason: plain text }\n      b:\n        reason: |\n\
        \u{20}         first\n          second\n    configure:\n      errors:\n\
        \u{20}     - { pointer: /images/b/reason, message: wrong, position: [2, 3] }\n\
        \u{20}     - { pointer: /images/a/reason, message: bad, position: [1, 7] }\n\
        \u{20}     - { pointer: /images/a/reason, message: none, position: [2, 0] }";
    let installation = Installation::new(&scripted_yaml(settings));
    let started = installation.start();
    let problems = installation.problems(&started);
    let expected = "policy s: host.yaml:15:13: settings/images/b/reason: wrong; host.yaml:11:26: \
                    settings/images/a/reason: bad; host.yaml:11:20: line 2, column 1 of the text at \
                    settings/images/a/reason: none (";
    assert!(problems[0].starts_with(expected), "{problems:?}");
}

#[test]
fn certificates_are_followed_whole_or_not_at_all() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let first = started.tls.current();
    started.reloader.reload();
    assert!(Arc::ptr_eq(&first, &started.tls.current()));

    let key = fs::read_to_string(installation.path("key.pem")).unwrap();
    let other = certificates::make().unwrap();
    installation.certificates(&other);
    started.reloader.reload();
    let second = started.tls.current();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(started.policies.current().number(), 1, "policies are as they were");

    // A key that does not belong to the certificate, and a file that is no certificate: as when only a part
    // has been replaced.
    for (file, content) in [("key.pem", key.as_str()), ("cert.pem", "nothing"), ("ca.pem", "nothing")] {
        installation.certificates(&other);
        fs::write(installation.path(file), content).unwrap();
        installation.policy("b", &version("version2"));
        let log = logged(|| started.reloader.reload());
        assert!(Arc::ptr_eq(&second, &started.tls.current()));
        assert_eq!(said(&started.policies), ["a: version1"]);
        let problems = installation.problems(&started);
        assert!(problems[0].contains(file), "{problems:?}");
        assert!(problems[0].ends_with(" (the generation in force stays)"), "{problems:?}");
        assert!(log.contains("ERROR"), "{log}");
    }
    installation.certificates(&other);
    started.reloader.reload();
    assert_eq!(installation.problems(&started), [""; 0]);
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"]);
}

/// Certificates expire, so they are followed whatever else is wrong.
#[test]
fn certificates_are_followed_while_nothing_else_can_be() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let elsewhere = installation.path("elsewhere");
    let broken: [(&dyn Fn(), &str); 2] = [
        (&|| installation.host_yaml("unjudgd: Allow"), "unknown key"),
        (
            &|| {
                installation.host_yaml("policyDirectory: policies");
                fs::rename(installation.path("policies"), &elsewhere).unwrap();
            },
            "it cannot be read",
        ),
    ];
    for (break_it, why) in broken {
        break_it();
        let before = started.tls.current();
        installation.certificates(&certificates::make().unwrap());
        started.reloader.reload();
        assert!(!Arc::ptr_eq(&before, &started.tls.current()));
        let problems = installation.problems(&started);
        assert!(problems.len() == 1 && problems[0].contains(why), "{problems:?}");
        assert_eq!(said(&started.policies), ["a: version1"]);
    }
    // Broken certificates change nothing in this state either.
    installation.host_yaml("unjudgd: Allow");
    let before = started.tls.current();
    fs::write(installation.path("key.pem"), "nothing").unwrap();
    started.reloader.reload();
    assert!(Arc::ptr_eq(&before, &started.tls.current()));
    let problems = installation.problems(&started);
    assert!(problems.len() == 2 && problems[0].contains("key.pem"), "{problems:?}");
}

#[test]
fn what_is_bound_to_the_process_needs_a_restart() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let text = fs::read_to_string(installation.path("host.yaml")).unwrap();
    let text = text.replace("127.0.0.1:0", "127.0.0.1:4711").replace("4711 }", "4712 }");
    fs::write(installation.path("host.yaml"), format!("{text}stateDirectory: state\nunjudged: Allow\n"))
        .unwrap();
    let expected = ["listen", "admin.listen", "stateDirectory"]
        .map(|key| format!("host.yaml: `{key}` has changed, which needs a restart; the rest is in force"));
    // The problem stays as long as its cause.
    for _ in 0..2 {
        started.reloader.reload();
        assert_eq!(started.policies.current().number(), 2);
        assert_eq!(installation.problems(&started), expected);
    }
}
