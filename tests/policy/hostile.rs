//! Hostile components in a serving host. Every `.yaml` of `tests/hostile` is one, with its expected outcome.
//! Each is put in force beside a policy that must keep deciding correctly, in limited time, in a process that
//! does not grow.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::config::yaml::Document;
use host::policy::LoadError;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::Rng as _;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::client::{Connection, Protocol, get, post, review_in};
use crate::support::process::Process;
use crate::support::{Installation, assert_none, project, version, wat_policy};

/// Time limit of the neighbour, beside anything else on a busy machine.
const NEIGHBOUR: Duration = Duration::from_secs(2);
/// Time limit of a response; over it the test fails in any case.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum growth of the process after all cases, in KiB: the memory that the pool keeps mapped for the next
/// instances, up to 256 slots of 1 MiB.
const REST: u64 = 224 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Content of the file, if it is not the component of the `.wat` beside the case.
    file: Option<Content>,
    settings: Option<Value>,
    limits: Option<Value>,
    expected: Expected,
    /// Parts of the log, each in one line that contains the policy's name too.
    #[serde(default)]
    logged: Vec<String>,
    /// Time limit of each of two reviews, and of loading, which has at least 10 s on a busy machine.
    #[serde(default = "two_seconds")]
    within: String,
    /// Maximum growth of the process, in MiB.
    #[serde(default = "usual_growth")]
    growth: u64,
}

fn two_seconds() -> String {
    "2s".to_owned()
}

/// Returns the default of `growth`: an instance may have 64 MiB, and another one exists while its snapshot is
/// tried beside the reviews.
fn usual_growth() -> u64 {
    160
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Content {
    /// This text.
    Text(String),
    /// This many pseudo-random bytes, the same each time, after the header of a component.
    Random(usize),
    /// The first bytes of the component, this many.
    Cut(usize),
    /// The component nested in this many others.
    Nested(usize),
}

/// Each text is a part of a message.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Expected {
    /// The component is not loaded.
    Refused(Vec<String>),
    /// The component is loaded, and the review denied.
    Denied(Vec<String>),
    /// The component is loaded, and harmless.
    Allowed,
}

impl Case {
    fn read(file: &Path) -> Case {
        let document = Document::parse(&std::fs::read(file).unwrap()).unwrap();
        serde_json::from_value(document.value).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    fn component(&self, file: &Path) -> Result<Vec<u8>, String> {
        let wat = file.with_extension("wat");
        let component = || if wat.exists() { wat_policy(&wat) } else { Ok(version("harmless")) };
        Ok(match self.file {
            None => wat_policy(&wat)?,
            Some(Content::Text(ref text)) => text.as_bytes().to_vec(),
            Some(Content::Random(length)) => {
                let mut bytes = vec![0; length];
                TestRng::deterministic_rng(RngAlgorithm::ChaCha).fill_bytes(&mut bytes);
                [HEADER, &bytes].concat()
            }
            Some(Content::Cut(length)) => component()?[..length].to_vec(),
            Some(Content::Nested(times)) => (0..times).fold(component()?, |inner, _| {
                /// Id of the section that holds a nested component.
                const SECTION: u8 = 4;
                [HEADER, &[SECTION], &leb128(inner.len()), &inner].concat()
            }),
        })
    }
}

/// Header of a component.
const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A host with a neighbour policy, in which one hostile component after the other is put in force.
struct Zoo {
    installation: Installation,
    process: Process,
    admin: SocketAddr,
    connection: Connection,
}

impl Zoo {
    async fn open() -> Zoo {
        let installation =
            Installation::new(json!({ "policies": [neighbour()], "limits": { "prepareTime": "10s" } }));
        let mut process = installation.start();
        let (webhook, admin) = process.addresses();
        let connection = installation.client().connect(webhook, Protocol::Http2).await.unwrap();
        Zoo { installation, process, admin, connection }
    }

    /// Puts a component into the policy directory and into host.yaml, for the namespace of its name.
    fn put(&self, name: &str, case: &Case, component: &[u8]) {
        self.installation.replace(&format!("policies/{name}.wasm"), component);
        let policy = json!({
            "name": name,
            "module": format!("policies/{name}.wasm"),
            "settings": case.settings.clone().unwrap_or_else(|| json!({})),
            "match": { "namespaces": { "include": [name] } },
            "limits": case.limits.clone().unwrap_or_else(|| json!({})),
        });
        let host_yaml = std::fs::read(self.installation.path("host.yaml")).unwrap();
        let mut host_yaml: Value = serde_json::from_slice(&host_yaml).unwrap();
        host_yaml["policies"] = json!([neighbour(), policy]);
        self.installation.replace("host.yaml", host_yaml.to_string().as_bytes());
    }

    /// Waits until the policy is in force, or rejected with a returned message. Meanwhile the neighbour gets
    /// reviews.
    async fn loaded(&mut self, name: &str, within: Duration) -> Result<Option<String>, String> {
        let began = Instant::now();
        loop {
            self.ask_neighbour().await?;
            let status = tokio::time::timeout(PATIENCE, get(self.admin, "/status")).await;
            let status = status.map_err(|_| format!("no status within {PATIENCE:?}"))?;
            let (_, status) = status.map_err(|error| format!("no status: {error}"))?;
            let status: Value = serde_json::from_str(&status).unwrap();
            let has = |list: &str, key: &str, value: &str| {
                status[list].as_array().unwrap().iter().find(|entry| entry[key] == value).cloned()
            };
            let problem = has("problems", "subject", &format!("policy {name}"));
            let compiling = |problem: &Value| {
                problem["message"].as_str().unwrap().contains(&LoadError::Compiling.to_string())
            };
            if let Some(problem) = problem.filter(|problem| !compiling(problem)) {
                return Ok(Some(problem["message"].as_str().unwrap().to_owned()));
            }
            if has("policies", "name", name).is_some() {
                return Ok(None);
            }
            if began.elapsed() > within {
                return Err(format!("it was neither loaded nor refused within {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a review of one image and returns its status.
    async fn ask(&mut self, namespace: &str, image: &str) -> Result<(Value, Duration), String> {
        let began = Instant::now();
        let answer = self.connection.send(post(review_in(namespace, image)));
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        let answer = answer.map_err(|error| format!("no answer: {error}"))?;
        Ok((answer.json()["status"].clone(), began.elapsed()))
    }

    async fn ask_neighbour(&mut self) -> Result<(), String> {
        for (image, expected) in [("registry.k8s.io/pause", true), ("x.io/a", false)] {
            let (status, time) = self.ask("neighbour", image).await?;
            let reason = status["reason"].as_str().unwrap_or_default();
            let right = status["allowed"] == expected && (expected || reason.contains("(policy neighbour)"));
            if !right || time > NEIGHBOUR {
                return Err(format!("the neighbour said {status} of {image} after {time:?}"));
            }
        }
        Ok(())
    }

    /// Returns an error with the difference from the expectation of a case.
    async fn difference(&mut self, file: &Path) -> Result<(), String> {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let case = Case::read(file);
        let component = case.component(file)?;
        let within = humantime::parse_duration(&case.within).unwrap();
        let before = self.resident("VmRSS");
        self.forget_peak();

        self.put(name, &case, &component);
        let refused = self.loaded(name, within.max(PATIENCE)).await?;
        match (&case.expected, refused) {
            (Expected::Refused(parts), Some(message)) => has_all("it was refused", &message, parts)?,
            (Expected::Refused(_), None) => return Err("it was loaded".to_owned()),
            (_, Some(message)) => return Err(format!("it was refused: {message}")),
            (Expected::Denied(_) | Expected::Allowed, None) => {
                // State that the first review leaves behind would show in the second.
                for _ in 0..2 {
                    let (status, time) = self.ask(name, "x.io/a").await?;
                    let reason = status["reason"].as_str().unwrap_or_default();
                    match &case.expected {
                        Expected::Denied(parts) if status["allowed"] == false => {
                            let own = format!("(policy {name})");
                            has_all("the review was denied", reason, parts.iter().chain([&own]))?;
                        }
                        Expected::Allowed if status["allowed"] == true => {}
                        _ => return Err(format!("the review was answered {status}")),
                    }
                    if time > within {
                        return Err(format!("the review took {time:?}"));
                    }
                }
            }
        }
        self.ask_neighbour().await?;
        let growth = self.resident("VmHWM").saturating_sub(before);
        if growth > case.growth << 10 {
            return Err(format!("the process grew by {growth} KiB"));
        }
        Ok(())
    }

    /// Reads a line of the process's memory status, in KiB.
    fn resident(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:"))).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Resets the peak (proc_pid_clear_refs(5)).
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }
}

fn neighbour() -> Value {
    json!({
        "name": "neighbour",
        "module": "policies/trusted-registries.wasm",
        "settings": { "allow": ["registry.k8s.io/**"] },
        "match": { "namespaces": { "include": ["neighbour"] } },
    })
}

fn has_all<'a>(what: &str, text: &str, parts: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let missing: Vec<_> = parts.into_iter().filter(|part| !text.contains(part.as_str())).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{what} without {missing:?}: {text}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zoo_is_kept() {
    let files = std::fs::read_dir(project("tests/hostile")).unwrap().map(|entry| entry.unwrap().path());
    let (mut cases, others): (Vec<PathBuf>, Vec<PathBuf>) =
        files.partition(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let alone = others.iter().filter(|file| !cases.contains(&file.with_extension("yaml")));
    let mut differences: Vec<_> = alone.map(|file| format!("{}: it has no .yaml", file.display())).collect();

    let mut zoo = Zoo::open().await;
    zoo.ask_neighbour().await.unwrap();
    let before = zoo.resident("VmRSS");
    for file in &cases {
        if let Err(difference) = zoo.difference(file).await {
            differences.push(format!("{}: {difference}", file.file_stem().unwrap().display()));
            // A host that has ended, or still works on the last component, would spoil the next case.
            if zoo.ask_neighbour().await.is_err() {
                zoo = Zoo::open().await;
            }
        }
    }
    let growth = zoo.resident("VmRSS").saturating_sub(before);
    if growth > REST {
        differences.push(format!("the process is {growth} KiB larger than before"));
    }

    zoo.process.signal(Signal::TERM);
    let (status, said) = zoo.process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    for file in &cases {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let policy = format!("policy=\"{name}\"");
        let lines: Vec<_> = said.lines().filter(|line| line.contains(&policy)).collect();
        for part in Case::read(file).logged {
            if !lines.iter().any(|line| line.contains(&part)) {
                differences.push(format!("{name}: nothing that was logged says {part:?}: {lines:#?}"));
            }
        }
    }
    assert_none(&differences);
}
