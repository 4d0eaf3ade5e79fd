//! The metrics: the page is parsed as strictly as its format is specified, and its counts match the events.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host::serve::metrics::{ALL, Kind, markdown};
use hyper::Request;
use serde_json::{Value, json};

use crate::support::client::{Connection, Protocol, full, get, post, review_in};
use crate::support::{Installation, project, scripted};

/// One metric of a page.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) series: Vec<Series>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

pub(crate) type Page = BTreeMap<String, Family>;

/// Reads a page in the text format, version 0.0.4. Panics at everything that `promtool check metrics` would
/// report.
pub(crate) fn parse(text: &str) -> Page {
    assert!(text.ends_with('\n'), "the last line has an end");
    let mut page = Page::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
        assert!(help.len() > 10, "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect(line).to_owned();
        check_name(name, &kind);
        let mut series = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            series.push(parse_series(line));
        }
        assert!(!series.is_empty(), "{name} has a head and nothing below");
        let distinct: BTreeSet<_> =
            series.iter().map(|series| (series.name.clone(), series.labels.clone())).collect();
        assert_eq!(distinct.len(), series.len(), "{name} has a series twice");
        if kind == "histogram" {
            check_histogram(name, &series);
        } else {
            assert!(series.iter().all(|series| series.name == name), "{name} has others among its own");
        }
        let before = page.insert(name.to_owned(), Family { kind, series });
        assert!(before.is_none(), "{name} twice");
    }
    page
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Checks the rules of prometheus.io/docs/practices/naming.
fn check_name(name: &str, kind: &str) {
    assert!(is_name(name), "{name}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
    assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    for (ending, whose) in [("_info", "gauge"), ("_bucket", ""), ("_sum", ""), ("_count", "")] {
        assert!(!name.ends_with(ending) || kind == whose, "{name} is a {kind}");
    }
    for other in ["milliseconds", "microseconds", "minutes", "kilobytes", "mebibytes", "percent"] {
        assert!(!name.contains(other), "{name}: base units are seconds, bytes and ratios");
    }
    assert!(name.starts_with("image_policy_host_") || name.starts_with("process_"), "{name}");
}

fn parse_series(line: &str) -> Series {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, value) = rest.trim_start_matches(',').split_once("=\"").expect(line);
            assert!(is_name(label) && label != "job" && label != "instance", "{line}");
            let (value, after) = unescape(value);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = after;
        }
        rest = rest.strip_prefix('}').expect(line);
    }
    let value = rest.strip_prefix(' ').expect(line);
    Series { name: name.to_owned(), labels, value: value.parse().expect(line) }
}

/// Returns a label's value up to its quotation mark, and the rest.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next().expect(text) {
            (at, '"') => return (value, text.split_at(at + 1).1),
            (_, '\\') => value.push(match characters.next().unwrap().1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                other => panic!("\\{other} in {text}"),
            }),
            (_, other) => value.push(other),
        }
    }
}

fn check_histogram(name: &str, series: &[Series]) {
    let mut by_labels: BTreeMap<BTreeMap<String, String>, Vec<&Series>> = BTreeMap::new();
    for series in series {
        let mut labels = series.labels.clone();
        labels.remove("le");
        by_labels.entry(labels).or_default().push(series);
    }
    for series in by_labels.into_values() {
        let of = |ending: &str| {
            let full = format!("{name}{ending}");
            series.iter().filter(|series| series.name == full).copied().collect::<Vec<_>>()
        };
        let (buckets, sums, counts) = (of("_bucket"), of("_sum"), of("_count"));
        assert_eq!(
            buckets.len() + sums.len() + counts.len(),
            series.len(),
            "{name} has others among its own"
        );
        let ends: Vec<f64> = buckets.iter().map(|bucket| bucket.labels["le"].parse().unwrap()).collect();
        assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {ends:?}");
        assert!(
            ends.iter().filter(|end| **end < 0.001).count() >= 5,
            "{name} tells quick ones apart: {ends:?}"
        );
        assert_eq!(ends.last(), Some(&f64::INFINITY), "{name}");
        assert!(buckets.windows(2).all(|pair| pair[0].value <= pair[1].value), "{name} is cumulative");
        assert_eq!(counts[0].value, buckets.last().unwrap().value, "{name}");
        assert_eq!((sums.len(), counts.len()), (1, 1), "{name}");
    }
}

/// Returns the value of the one series of a metric that has these labels among its own.
pub(crate) fn value(page: &Page, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = page.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fits = |series: &&Series| {
        labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|found| found == value))
    };
    let found: Vec<_> = family.series.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => one.value,
        _ => panic!("{} series of {name} with {labels:?}: {found:#?}", found.len()),
    }
}

async fn page(server: &crate::support::Server) -> Page {
    // A page is cached for this time.
    tokio::time::sleep(std::time::Duration::from_millis(110)).await;
    let (status, text) = get(server.admin, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    parse(&text)
}

#[test]
fn the_page_of_the_documentation_is_the_table() {
    const BEGIN: &str = "<!-- the tables: `UPDATE=1 cargo test metrics` writes them -->\n\n";
    let path = project("host/docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (text, found) = text.split_once(BEGIN).expect("the page has a mark where the tables begin");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{text}{BEGIN}{}", markdown())).unwrap();
    } else {
        assert!(found == markdown(), "{}: `UPDATE=1 cargo test metrics` writes it", path.display());
    }
    // Alerts and the guide name existing metrics only.
    let named = |text: &str| -> BTreeSet<String> {
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let words = text.split(word).filter(|word| word.starts_with("image_policy_host_"));
        words.map(|word| word.trim_end_matches("_bucket").trim_end_matches("_sum").to_owned()).collect()
    };
    let all: BTreeSet<_> =
        ALL.iter().flat_map(|group| group.metrics).map(|metric| metric.full_name()).collect();
    let named: BTreeSet<_> =
        crate::project::guide::pages().iter().flat_map(|(_, page)| named(page)).collect();
    let unknown: Vec<_> = named.difference(&all).cloned().collect();
    assert_eq!(unknown, [""; 0], "named in the documentation, but there are no such metrics");
}

/// Makes an installation of one scripted policy, both enforced and in mode audit.
fn installation() -> Installation {
    let images = json!({
        "library/good": { "outcome": "allow", "code": "good" },
        "library/bad": { "outcome": "deny", "code": "bad" },
        "library/broken": { "error": "no answer" },
        "library/trap": { "abort": true },
    });
    let policy = |name: &str, mode: &str| {
        json!({ "name": name, "module": scripted(), "mode": mode,
        "settings": { "images": images } })
    };
    Installation::new(json!({ "policies": [policy("one", "enforce"), policy("watched", "audit")] }))
}

/// Sends a review of each image.
async fn ask(connection: &mut Connection, images: &[&str]) {
    for image in images {
        assert_eq!(connection.review(image).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn what_happened_is_what_is_counted() {
    let installation = installation();
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    ask(&mut connection, &["good", "good", "good", "bad", "bad", "broken", "trap", "other"]).await;
    for (request, status) in [
        (post("{}"), 400),
        (post(r#"{"kind":"ImageReview","apiVersion":"imagepolicy.k8s.io/v1alpha1"}"#), 200),
        (Request::get("https://localhost/nowhere").body(full("")).unwrap(), 404),
        (Request::put("https://localhost/").body(full("")).unwrap(), 405),
        (Request::get("https://localhost/").body(full("")).unwrap(), 200),
    ] {
        assert_eq!(connection.send(request).await.unwrap().status, status);
    }
    assert!(installation.client().handshake(server.address, &["spdy/3"]).await.is_err());

    let page = page(&server).await;
    let reviews = "image_policy_host_reviews_total";
    for (verdict, by, count) in [
        ("allowed", "policies", 3.0),
        ("allowed", "exempt", 0.0),
        ("denied", "policies", 2.0),
        ("denied", "failure-policy", 2.0),
        ("denied", "unjudged", 1.0),
        ("refused", "request", 1.0),
        ("would-deny", "policies", 0.0),
    ] {
        assert_eq!(value(&page, reviews, &[("verdict", verdict), ("by", by)]), count, "{verdict} by {by}");
    }
    let rejected = "image_policy_host_requests_rejected_total";
    for (code, count) in [("400", 1.0), ("404", 1.0), ("405", 1.0), ("429", 0.0)] {
        assert_eq!(value(&page, rejected, &[("code", code)]), count, "{code}");
    }
    for policy in ["one", "watched"] {
        for (outcome, code, count) in
            [("allow", "good", 3.0), ("deny", "bad", 2.0), ("abstain", "scripted", 1.0)]
        {
            let labels = [("policy", policy), ("outcome", outcome), ("code", code)];
            assert_eq!(value(&page, "image_policy_host_decisions_total", &labels), count, "{labels:?}");
        }
        for (kind, count) in [("reported", 1.0), ("trap", 1.0), ("deadline", 0.0), ("not-loaded", 0.0)] {
            let labels = [("policy", policy), ("kind", kind)];
            assert_eq!(value(&page, "image_policy_host_malfunctions_total", &labels), count, "{labels:?}");
        }
    }
    assert_eq!(value(&page, "image_policy_host_handshakes_refused_total", &[]), 1.0);
    let of = |name: &str, ending: &str, policy: Option<&str>| {
        let series = page[name].series.iter().filter(|series| series.name == format!("{name}{ending}"));
        let mut series = series.filter(|series| series.labels.get("policy").map(String::as_str) == policy);
        series.next().unwrap().value
    };
    let (review, policy) =
        ("image_policy_host_review_duration_seconds", "image_policy_host_policy_duration_seconds");
    assert_eq!(of(review, "_count", None), 9.0);
    assert!(of(policy, "_count", Some("one")) >= 8.0);
    assert!(of(review, "_sum", None) > of(policy, "_sum", Some("one")));
    assert_eq!(value(&page, "image_policy_host_connections", &[("state", "serving")]), 1.0);
    assert_eq!(
        value(&page, "image_policy_host_policy_info", &[("policy", "watched"), ("mode", "audit")]),
        1.0
    );
    assert_eq!(value(&page, "image_policy_host_policy_failing", &[("policy", "one")]), 0.0);
    assert_eq!(value(&page, "image_policy_host_generation", &[]), 1.0);
    assert_eq!(value(&page, "image_policy_host_problems", &[]), 1.0, "the rejected requests");
    let expires = value(
        &page,
        "image_policy_host_certificate_expiration_timestamp_seconds",
        &[("certificate", "serving")],
    );
    let left = UNIX_EPOCH + Duration::from_secs_f64(expires);
    let left = left.duration_since(SystemTime::now()).unwrap();
    assert!(Duration::from_secs(23 * 3600) < left && left <= Duration::from_secs(24 * 3600), "{left:?}");
    assert!(value(&page, "process_resident_memory_bytes", &[]) > 1e6);
    assert!(value(&page, "process_open_fds", &[]) > 3.0);
    assert!(value(&page, "process_cpu_seconds_total", &[]) > 0.0);
}

/// Every metric of the table is on the page, with exactly its labels. No label has a value that a request can
/// choose freely.
#[tokio::test]
async fn labels_are_those_of_the_table() {
    let installation = installation();
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http1).await.unwrap();
    ask(&mut connection, &["good", "bad", "evil.example/\"};x{\"", "trap"]).await;
    let review = review_in("namespace-of-the-request", "registry-of-the-request.example/a");
    connection.send(post(review)).await.unwrap();
    let page = page(&server).await;
    let table: Vec<_> = ALL.iter().flat_map(|group| group.metrics).collect();
    let names: BTreeSet<_> = table.iter().map(|metric| metric.full_name()).collect();
    assert_eq!(page.keys().cloned().collect::<BTreeSet<_>>(), names);
    for metric in table {
        let family = &page[&metric.full_name()];
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(family.kind, kind, "{}", metric.name);
        for series in &family.series {
            let labels = series.labels.keys().map(String::as_str).filter(|label| *label != "le");
            let expected: BTreeSet<_> = metric.labels.iter().copied().collect();
            assert_eq!(labels.collect::<BTreeSet<_>>(), expected, "{series:?}");
            assert!(
                series
                    .labels
                    .values()
                    .all(|value| !value.contains("of-the-request") && !value.contains("evil")),
                "{series:?}"
            );
        }
    }
}

/// The number of distinct codes of a policy is limited; all others share one label.
/// limit: codes within, codes breaks
#[tokio::test]
async fn codes_are_limited() {
    let images: serde_json::Map<String, Value> = (0..40)
        .map(|number| {
            let script = json!({ "outcome": "allow", "code": format!("code-{number}") });
            (format!("library/image-{number}"), script)
        })
        .chain([("library/last".to_owned(), json!({ "outcome": "deny", "code": "other" }))])
        .collect();
    let policy = json!({ "name": "one", "module": scripted(), "settings": { "images": images } });
    let installation = Installation::new(json!({ "policies": [policy] }));
    let server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    for number in 0..32 {
        ask(&mut connection, &[&format!("image-{number}")]).await;
    }
    let decisions = "image_policy_host_decisions_total";
    let codes = |page: &Page| page[decisions].series.len();
    let within = page(&server).await;
    assert_eq!(codes(&within), 32);
    for number in 32..40 {
        ask(&mut connection, &[&format!("image-{number}")]).await;
    }
    ask(&mut connection, &["image-3", "last"]).await;
    let over = page(&server).await;
    assert_eq!(codes(&over), 34);
    assert_eq!(value(&over, decisions, &[("code", "code-3")]), 2.0);
    assert_eq!(value(&over, decisions, &[("code", "other"), ("outcome", "allow")]), 8.0);
    assert_eq!(value(&over, decisions, &[("code", "other"), ("outcome", "deny")]), 1.0);
}

/// Counts continue when a policy gets a new version, and go when the policy is removed.
#[tokio::test]
async fn counts_go_on_when_a_policy_is_replaced() {
    let installation = installation();
    let mut server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    ask(&mut connection, &["good"]).await;
    let change = |from: &str, to: &str| {
        let host_yaml = fs::read_to_string(installation.path("host.yaml")).unwrap();
        assert!(host_yaml.contains(from), "{host_yaml}");
        installation.write("host.yaml", host_yaml.replace(from, to).as_bytes());
    };
    change(r#""no answer""#, r#""another answer""#);
    server.reloader.reload();
    ask(&mut connection, &["good", "broken"]).await;
    let counted = page(&server).await;
    let good = [("policy", "one"), ("code", "good")];
    assert_eq!(value(&counted, "image_policy_host_decisions_total", &good), 2.0);
    assert_eq!(value(&counted, "image_policy_host_generation", &[]), 2.0);
    change(r#""watched""#, r#""seen""#);
    server.reloader.reload();
    ask(&mut connection, &["good"]).await;
    let counted = page(&server).await;
    let series = &counted["image_policy_host_decisions_total"].series;
    assert!(series.iter().all(|series| series.labels["policy"] != "watched"), "{series:#?}");
    assert_eq!(value(&counted, "image_policy_host_decisions_total", &good), 3.0);
}
