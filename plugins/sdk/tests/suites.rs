//! Suites that fail, and suites that cannot run natively: each is reported, and none passes.

use std::panic::catch_unwind;
use std::{fs, io};

use image_policy::export::no_settings;
use image_policy::test::run;
use image_policy::{Context, Decision, Image, Malfunction, allow, deny};

fn no_docker_hub(_: &(), image: &Image, _: &Context) -> Result<Decision, Malfunction> {
    match image.repository.as_str() {
        "broken" => Err("it broke")?,
        _ if image.registry == "docker.io" => Ok(deny("docker-hub", "write the mirror")),
        _ => Ok(allow("mirror", "it is not of Docker Hub").annotate("registry", image.registry.as_str())),
    }
}

/// Runs a suite with these cases, and returns the words of its panic.
fn panic_of(cases: &str) -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    let head =
        "apiVersion: image-policy-host/v1alpha1\nkind: Suite\npolicies: [{ name: hub, module: hub.wasm }]\n";
    fs::write(folder.path().join("hub.yaml"), format!("{head}{cases}\n"))?;
    let path = folder.path().display().to_string();
    let Err(panic) = catch_unwind(|| run(&path, no_settings, no_docker_hub)) else {
        return Ok(String::new());
    };
    let words = panic.downcast::<String>().map_or_else(|_| String::from("no words"), |words| *words);
    Ok(words.replace(&format!("{path}/"), "").replace(&path, "FOLDER"))
}

#[test]
fn what_differs_is_reported() {
    for (case, expected) in [
        ("images: { nginx: { deny: docker-hub, reason: mirror } }", ""),
        ("images: { quay.io/x: { hub: { allow: mirror, auditAnnotations: { registry: quay } } } }", ""),
        ("images: [nginx, quay.io/x], expect: deny", ""),
        ("images: { quay.io/broken: { malfunction: , reason: it broke } }", ""),
        ("images: { nginx: allow }", "nginx: Deny docker-hub: write the mirror: expected allow "),
        ("images: { nginx: { deny: other } }", "expected deny other"),
        ("images: { nginx: { hub: abstain } }", "expected abstain "),
        (
            "images: { nginx: { deny: , reason: [mirror, quay] } }",
            "reason: expected \"quay\", got [\"write the mirror\"]",
        ),
        ("images: { nginx: { deny: , reason: { is: write } } }", "reason: expected {\"is\":\"write\"}"),
        ("images: { quay.io/broken: { hub: deny } }", "malfunction: it broke: expected deny"),
        (
            "images: { quay.io/x: { hub: { allow: , auditAnnotations: { registry: ghcr } } } }",
            "registry: expected \"ghcr\"",
        ),
        (
            "images: [nginx, quay.io/x], expect: allow",
            "expected allow , got nginx: Deny docker-hub: write the mirror",
        ),
        ("images: [quay.io/x], expect: { deny: docker-hub }", "expected deny docker-hub"),
        (
            "settings: { hub: { a: 1 } }, images: { nginx: deny }",
            "the settings are refused: /a: this policy has no settings",
        ),
        ("refused: { /a: none }", "the settings are not refused"),
        ("settings: { hub: { a: 1 } }, refused: { /b: none }", "refused /b: expected \"none\", got []"),
        // Nothing that is not understood passes.
        ("images: [nginx]", "a case expects nothing"),
        ("images: [], expect: deny", "`images` is empty"),
        ("images: { NGINX: deny }", "NGINX: "),
        (
            "images: { nginx: { deny: , reason: /mirror/ } }",
            "a regular expression does not run natively: use `host test`",
        ),
        ("images: { nginx: { other: deny } }", "the expectation `other` does not run natively"),
        ("images: { nginx: denied }", "no expectation"),
        ("review: pod.yaml, expect: deny", "the key `review` does not run natively"),
        ("settings: { other: {} }, images: { nginx: deny }", "no policy `other` is under test"),
        ("images: { nginx: &a deny }", "an anchor does not run natively"),
        ("images: { nginx: !x deny }", "a tag does not run natively"),
    ] {
        let found = panic_of(&format!("cases: [{{ name: c, {case} }}]")).unwrap();
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{case}: {found}");
    }
}

#[test]
fn a_folder_without_cases_fails() {
    assert_eq!(panic_of("cases: []").unwrap(), "FOLDER: no case ran");
    assert!(panic_of("cases: [").unwrap().contains("hub.yaml: not valid YAML"));
    assert!(panic_of("host: host.yaml").unwrap().contains("the key `host` does not run natively"));
    assert!(catch_unwind(|| run("/nowhere", no_settings, no_docker_hub)).is_err());
}
