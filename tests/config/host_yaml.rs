//! host.yaml: every folder of `cases/config` is a test. `expected.txt` is the report (`ok` if there is none).

use std::fs;
use std::path::{Path, PathBuf};

use host::config::yaml::{Document, Location};
use host::config::{self, ClientAuth, Config, HostLimits, PolicyConfig, PolicyLimits, PolicyName};
use serde_json::{Value, json};

fn parse(text: &str) -> Result<Config, config::ConfigError> {
    Config::parse(Path::new("host.yaml"), text.as_bytes())
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/config")
}

#[test]
fn config_cases() {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 25, "only {} cases", folders.len());
    let mut differences = Vec::new();
    for folder in folders {
        let bytes = fs::read(folder.join("host.yaml")).unwrap();
        let expected = fs::read_to_string(folder.join("expected.txt")).unwrap();
        let found = Config::parse(Path::new("host.yaml"), &bytes)
            .map_or_else(|error| error.to_string(), |_| "ok".into());
        if found.trim_end() != expected.trim_end() {
            let name = folder.file_name().unwrap().display().to_string();
            differences.push(format!("--- {name}, expected:\n{}\n--- found:\n{found}", expected.trim_end()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn the_full_example_means_what_it_says() {
    let path = cases().join("ok-full/host.yaml");
    let config = Config::read(&path).unwrap();
    let folder = path.parent().unwrap();
    assert_eq!(config.directory, folder);
    let serving = config.require_serving().unwrap();
    assert_eq!(serving.tls.certificate, folder.join("external-cert.pem"));
    let names = vec!["kube-apiserver".to_owned()];
    assert_eq!(
        serving.tls.client_auth,
        ClientAuth::Required { ca: folder.join("apiserver-client-ca.pem"), names }
    );
    assert_eq!(config.state_directory, Some(PathBuf::from("/var/lib/image-policy-host")));
    assert_eq!(config.policy_directory, Some(folder.join("policies")));
    let [policy] = config.policies.as_slice() else { panic!("one policy") };
    assert_eq!(policy.name.as_str(), "trusted-registries");
    assert_eq!(policy.module.file(), folder.join("policies/trusted-registries.wasm"));
    assert_eq!(policy.settings, json!({"allow": ["ghcr.io/acme/**"]}));
    let scope = &policy.placement.scope;
    assert!(scope.applies("default") && !scope.applies("sandbox"));
    let line = config.locate("/policies/0/settings/allow/0");
    assert_eq!(line, format!("{}:14:23", path.display()));
}

#[test]
fn absent_keys_are_the_defaults() {
    let config = parse("policies:\n- name: a\n  module: ./a.wasm\n").unwrap();
    assert_eq!(config.limits, HostLimits::default());
    let mut bare = PolicyConfig::bare(PolicyName::try_from("a").unwrap(), PathBuf::from("a.wasm"));
    bare.pointer = "/policies/0".to_owned();
    assert_eq!(config.policies, [bare]);
    assert_eq!(config.directory, Path::new("."));
    let without_file = Config::for_policies(config.policies.clone());
    assert_eq!(config.rules, without_file.rules);
    assert_eq!(config.admin_listen, without_file.admin_listen);
    assert_eq!(without_file.locate("/policies/0"), "/policies/0");
}

#[test]
fn quantities_and_durations_are_read() {
    let limits = "limits: { deadline: 1m0s, memory: 65536 }";
    let error = parse(&format!("policies: [{{ name: a, module: a, {limits} }}]")).unwrap_err().to_string();
    assert_eq!(
        error,
        "host.yaml:1:54: policies[0].limits.deadline: `1m0s` is out of range: from `1ms` to `10s`"
    );
    let limits = "limits: { deadline: 2s500ms, memory: 65536, logLines: 0 }";
    let config = parse(&format!("policies: [{{ name: a, module: a, {limits} }}]")).unwrap();
    let expected = PolicyLimits {
        deadline: std::time::Duration::from_millis(2500),
        memory: 65536,
        log_lines: 0,
        ..PolicyLimits::default()
    };
    assert_eq!(config.policies[0].limits, expected);
}

#[test]
fn serving_needs_what_a_test_does_not() {
    let error = parse("\npolicies: []\n").unwrap().require_serving().unwrap_err().to_string();
    assert_eq!(
        error,
        "host.yaml:2:1: `apiVersion: image-policy-host/v1alpha1` is missing (`host serve` needs it)\n\
         host.yaml:2:1: `kind: HostConfiguration` is missing (`host serve` needs it)\n\
         host.yaml:2:1: `tls` is missing: it names `certificate` and `privateKey` (`host serve` needs it)"
    );
    let tls = "{ certificate: a, privateKey: b, clientAuth: None }";
    let header = "apiVersion: image-policy-host/v1alpha1\nkind: HostConfiguration\n";
    let config = parse(&format!("{header}tls: {tls}\n")).unwrap();
    assert_eq!(config.require_serving().unwrap().tls.client_auth, ClientAuth::None);
}

#[test]
fn locate_points_to_the_value_or_its_nearest_parent() {
    let text = "a: 1\nb:\n- x\n-  y: é\n   'k/~': [1, &n {z: 2},\n   *n]\n";
    let document = Document::parse(text.as_bytes()).unwrap();
    let at = |pointer: &str| document.locate(pointer).to_string();
    assert_eq!(at(""), "1:1");
    assert_eq!(at("/a"), "1:4");
    assert_eq!(at("/b/0"), "3:3");
    assert_eq!(at("/b/1"), "4:4");
    assert_eq!(at("/b/1/y"), "4:7");
    assert_eq!(at("/b/1/k~1~0/1/z"), "5:22");
    assert_eq!(at("/b/1/k~1~0/2"), "6:4", "the alias");
    assert_eq!(at("/b/1/k~1~0/2/z"), "5:22", "what the alias stands for");
    assert_eq!(at("/b/1/nothing/here"), "4:4");
    assert_eq!(at("/b/7"), at("/b"), "no such item");
    assert_eq!(at("no pointer"), "1:1");
    assert_eq!(document.key_span("/b/1/k~1~0").at, Location { line: 5, column: 4 });
}

/// Holds for every line break, a byte order mark and characters of several bytes.
#[test]
fn a_span_is_the_bytes_of_the_value() {
    let text = "é: ü # comment\nb:\n- x y # comment\n-  y: 'é'\n   'k/~': [1, &n {z: 2},\n   *n]\n\
                c: |\n  ä\n  b\nd:\ne: -1\nf: 'i''s # x'  # comment\ng: [\"a\\\"b\" , 2]\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
        let document = Document::parse(text.as_bytes()).unwrap();
        let part = |bytes| text.get(bytes).expect("a span begins and ends between characters");
        let value = |pointer: &str| part(document.span(pointer).bytes).replace("\r\n", "\n");
        let key = |pointer: &str| part(document.key_span(pointer).bytes);
        for (pointer, expected) in [
            ("/é", "ü"),
            ("/b/0", "x y"),
            ("/b/1/y", "'é'"),
            ("/b/1/k~1~0", "[1, &n {z: 2},\n   *n]"),
            ("/b/1/k~1~0/0", "1"),
            ("/b/1/k~1~0/1/z", "2"),
            ("/b/1/k~1~0/2", "*n"),
            ("/b/1", "y: 'é'\n   'k/~': [1, &n {z: 2},\n   *n]"),
            ("/d", ""),
            ("/e", "-1"),
            ("/f", "'i''s # x'"),
            ("/g/0", r#""a\"b""#),
        ] {
            assert_eq!(value(pointer), expected, "{pointer} of {text:?}");
        }
        assert_eq!((key("/é"), key("/b/1/k~1~0"), key("/b/0")), ("é", "'k/~'", "x y"), "{text:?}");
        assert_eq!(value("/c"), "ä\n  b\n");
        assert!(value("/b").ends_with("*n]"), "{:?}", value("/b"));
    }
}

#[test]
fn a_terminal_gets_the_lines_of_the_problems() {
    let text = "unjudgd: Allow\nmode: 'é' # no mode\npolicies:\n- name: a\n  module: a.wasm\n  \
                match: [1,\n    2]\n";
    let error = parse(text).unwrap_err();
    let expected = "host.yaml:1:1: unknown key `unjudgd`: did you mean `unjudged`?\n  \
                    1 | unjudgd: Allow\n    | ^^^^^^^\n\
                    host.yaml:2:7: mode: expected `enforce` or `audit`, found the string `é`\n  \
                    2 | mode: 'é' # no mode\n    |       ^^^\n\
                    host.yaml:6:10: policies[0].match: expected a map, found a list\n  \
                    6 |   match: [1,\n    |          ^^^";
    assert_eq!(error.with_excerpts(), expected);
    let without: Vec<_> = expected.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(error.to_string(), without.join("\n"));

    let error = parse("mode: [\n").unwrap_err();
    assert!(error.with_excerpts().starts_with("host.yaml:"), "{}", error.with_excerpts());
    let long = format!("mode: {}\n", "x".repeat(200));
    let error = parse(&long).unwrap_err();
    assert_eq!(error.with_excerpts(), error.to_string(), "a long line is not shown");
}

#[test]
fn the_folder_of_the_file_has_a_name() {
    let config =
        parse("policyDirectory: .\npolicies: [{ name: a, module: a.wasm, settingsFrom: ./. }]").unwrap();
    assert_eq!(config.policy_directory.as_deref(), Some(Path::new(".")));
    assert_eq!(config.policies[0].settings_from.as_deref(), Some(Path::new(".")));
}

#[test]
fn scalars_follow_the_core_schema() {
    let text =
        "[no, yes, 'true', true, ~, 1, 1.0, 0x1F, 0o17, 0777, 1e3, -.5, '', , 1.2.3, 1_000, !!str 5, 5., +7]";
    let text = text.replace(", ,", ", null,");
    let value = Document::parse(text.as_bytes()).unwrap().value;
    let expected = json!([
        "no", "yes", "true", true, null, 1, 1.0, 31, 15, 777, 1000.0, -0.5, "", null, "1.2.3", "1_000", "5",
        5.0, 7
    ]);
    assert_eq!(value, expected);
    for refused in
        [".inf", "-.Inf", ".nan", "1e999", "99999999999999999999", "!x y", "!!int 5", "0xfffffffffffffffff"]
    {
        assert!(Document::parse(refused.as_bytes()).is_err(), "{refused}");
    }
}

#[test]
fn hostile_text_ends_soon() {
    let mebibyte = 1 << 20;
    let wide_anchor = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1000), "*a,".repeat(100_000));
    let nested_anchors = format!("{}{}", "&a [".repeat(60), "1,".repeat(mebibyte / 2));
    let long_keys = format!("? {0}\n: {{{1}}}\n", "k".repeat(mebibyte / 2), "a: {b: {c: 1}},".repeat(1000));
    let texts = [
        "[".repeat(mebibyte),
        "{".repeat(mebibyte),
        "- ".repeat(mebibyte / 2),
        "? ".repeat(mebibyte / 2),
        "!a ".repeat(mebibyte / 3),
        "a: ".repeat(mebibyte / 3),
        "[1,".repeat(mebibyte / 3),
        "\n".repeat(mebibyte),
        "a\n".repeat(mebibyte / 2),
        " ".repeat(mebibyte),
        "\"".repeat(mebibyte),
        "|\n".repeat(mebibyte / 2),
        "1".repeat(mebibyte),
        (0..mebibyte / 8).map(|n| format!("k{n}: 1\n")).collect(),
        "1,".repeat(mebibyte / 2),
        format!("[{}]", "1,".repeat(mebibyte / 2)),
        "*a ".repeat(1000),
        "a: &a [*a]".to_owned(),
        "{---".to_owned(),
        wide_anchor,
        nested_anchors,
        long_keys,
    ];
    for text in texts {
        let start = std::time::Instant::now();
        // Any result is fine: no panic, no overflow of the stack, no long wait.
        let answer = parse(&text).map(|_| ()).map_err(|error| error.to_string());
        let beginning: String = text.chars().take(20).collect();
        assert!(start.elapsed().as_secs() < 20, "{beginning:?} took {:?}", start.elapsed());
        assert!(answer.as_ref().err().is_none_or(|error| error.len() < 50_000), "{beginning:?}");
        assert!(answer.is_err(), "{beginning:?}");
    }
}

#[test]
fn what_is_no_file_is_named() {
    let missing = Config::read(Path::new("/nonexistent/host.yaml")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/host.yaml: "), "{missing}");
    let folder = Config::read(&cases()).unwrap_err().to_string();
    assert!(folder.ends_with(": not a regular file"), "{folder}");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = config::schema();
    assert_eq!(schema["title"], "host.yaml");
    let definitions = schema["$defs"].as_object().unwrap().values();
    let mut keys = 0;
    for object in definitions.chain([&schema]) {
        let Some(properties) = object["properties"].as_object() else { continue };
        assert_eq!(object["additionalProperties"], false, "{object}");
        for (key, property) in properties {
            keys += 1;
            assert!(property["description"].is_string(), "{key} has no description");
            assert_ne!(property.get("default"), Some(&Value::Null), "{key}");
        }
    }
    assert!(keys > 40, "{keys}");
    assert_eq!(schema["properties"]["listen"]["default"], "127.0.0.1:1234");
    assert_eq!(schema["$defs"]["PolicyLimits"]["properties"]["memory"]["default"], "64Mi");
    assert!(!schema.to_string().contains("null"), "{schema}");
}

/// limit: configuration within, configuration breaks
#[test]
fn host_yaml_has_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.yaml");
    let comment = |bytes: usize| format!("policies: []\n#{}", "x".repeat(bytes - 14));
    fs::write(&path, comment(1 << 20)).unwrap();
    assert!(Config::read(&path).is_ok());
    fs::write(&path, comment((1 << 20) + 1)).unwrap();
    let error = Config::read(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}: larger than 1048576 bytes", path.display()));
}
