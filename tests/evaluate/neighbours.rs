//! Neighbours: reviews, health and reloads beside policies that use up all their limits, and overload. Every
//! file of `cases/neighbours` lists the policies (each for the namespace of its name), the noisy ones, and
//! the one that must not be affected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Client, Connection, Protocol, get, post, review_in};
use crate::support::evaluation::evaluate;
use crate::support::process::Process;
use crate::support::{self, Installation, version};

/// Duration of each phase of the measurement.
const PHASE: Duration = Duration::from_secs(3);
/// Maximum latency of requests that do not concern the noise: half of the time that a spinning policy takes.
const MOST: Duration = Duration::from_millis(500);
/// Maximum ratio of the median latency beside the noise, which has all processors but the neighbour's share.
const TIMES: u32 = 5;
/// Additional latency of a busy machine.
const JITTER: Duration = Duration::from_millis(5);
/// Time limit of a reload, which compiles beside the noise at a lower priority.
const RELOAD: Duration = Duration::from_secs(10);
/// Number of attempts: other work of the machine may disturb one.
const ATTEMPTS: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Policies as in host.yaml; a `module` is of `cases/neighbours`, or a standard policy's.
    policies: Vec<Value>,
    /// Number of clients that send reviews continuously, by policy.
    noise: BTreeMap<String, usize>,
    /// The policy whose reviews must not be affected.
    felt: String,
    /// The malfunction that `/status` shows for each noisy policy.
    named: BTreeMap<String, String>,
}

/// Measurements run alone.
static TIMED: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A host with policies, each for the namespace of its name.
struct Host {
    installation: Installation,
    client: Client,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Host {
    fn start(policies: Vec<Value>, limits: Value) -> Host {
        let mut all = vec![
            json!({ "name": "trusted-registries", "module": "policies/trusted-registries.wasm",
                    "settings": { "allow": ["x.io/**"] } }),
            json!({ "name": "reloaded", "module": "reloaded.wasm" }),
        ];
        all.extend(policies);
        for policy in &mut all {
            policy["match"] = json!({ "namespaces": { "include": [policy["name"].clone()] } });
        }
        let installation = Installation::new(json!({ "policies": all, "limits": limits }));
        installation.write("reloaded.wasm", &version("version0"));
        for policy in &all {
            let module = policy["module"].as_str().unwrap();
            if let Some(name) = module.strip_suffix(".wat") {
                let wat = support::project("tests/cases/neighbours").join(module);
                installation.write(&format!("{name}.wat"), &support::wat_policy(&wat).unwrap());
            }
        }
        let mut process = installation.start();
        let (address, admin) = process.addresses();
        let client = installation.client();
        Host { installation, client, process, address, admin }
    }

    async fn connect(&self) -> Connection {
        self.client.connect(self.address, Protocol::Http1).await.unwrap()
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&get(self.admin, "/status").await.unwrap().1).unwrap()
    }

    /// Returns the record of a policy in `/status`.
    async fn record(&self, name: &str) -> Value {
        let status = self.status().await;
        let policies = status["policies"].as_array().unwrap();
        policies.iter().find(|policy| policy["name"] == name).unwrap()["record"].clone()
    }

    /// Starts clients that send reviews in a namespace until they are dropped. A client that gets 429 pauses.
    fn clients(&self, namespace: &str, clients: usize, tally: &Arc<Tally>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (client, address, tally) = (self.client.clone(), self.address, Arc::clone(tally));
            let namespace = namespace.to_owned();
            tasks.spawn(async move {
                let mut connection = client.connect(address, Protocol::Http1).await.unwrap();
                while !tally.over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = connection.send(post(review_in(&namespace, "x.io/a"))).await.unwrap();
                    if answer.status == StatusCode::OK {
                        tally.accepted.lock().unwrap().push(began.elapsed());
                        continue;
                    }
                    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
                    assert_eq!(answer.headers.get("retry-after"), None);
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    // An apiserver waits half a second.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        tasks
    }
}

/// The responses to the clients.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    accepted: std::sync::Mutex<Vec<Duration>>,
    refused: AtomicUsize,
}

impl Tally {
    /// Ends the clients. Returns the latencies of the accepted reviews, sorted.
    async fn end(&self, clients: JoinSet<()>) -> Vec<Duration> {
        self.over.store(true, Ordering::Relaxed);
        clients.join_all().await;
        let mut accepted = std::mem::take(&mut *self.accepted.lock().unwrap());
        accepted.sort();
        accepted
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// The latencies of one phase.
#[derive(Debug)]
struct Phase {
    review: [Duration; 2],
    health: [Duration; 2],
    reload: Duration,
}

/// Measures reviews in a namespace, health in between, and a reload at the end.
async fn look(host: &Host, namespace: &str, reloaded: &str) -> Phase {
    let mut connection = host.connect().await;
    let (mut reviews, mut health) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < PHASE {
        let asked = Instant::now();
        let answer = connection.send(post(review_in(namespace, "x.io/a"))).await.unwrap();
        reviews.push(asked.elapsed());
        assert_eq!(answer.json()["status"]["allowed"], true, "{}", answer.text());
        for path in ["/livez", "/readyz"] {
            let asked = Instant::now();
            assert_eq!(get(host.admin, path).await.unwrap(), (200, "ok".to_owned()));
            health.push(asked.elapsed());
        }
    }

    let generation = async |connection: &mut Connection| {
        let answer = connection.send(post(review_in("reloaded", "x.io/a"))).await.unwrap();
        answer.json()["status"]["auditAnnotations"]["generation"].clone()
    };
    let before = generation(&mut connection).await;
    host.installation.write("new.wasm", &version(reloaded));
    let renamed = Instant::now();
    std::fs::rename(host.installation.path("new.wasm"), host.installation.path("reloaded.wasm")).unwrap();
    while generation(&mut connection).await == before {
        assert!(renamed.elapsed() < 6 * RELOAD, "the new file is not in force");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reload = renamed.elapsed();

    let told = |mut times: Vec<Duration>| {
        times.sort();
        [percentile(&times, 50), percentile(&times, 100)]
    };
    Phase { review: told(reviews), health: told(health), reload }
}

/// Describes the effects of the noise; empty if there is none.
fn felt(quiet: &Phase, noisy: &Phase) -> Vec<String> {
    let mut found = Vec::new();
    for (what, [quiet, _], [median, most]) in
        [("a review", quiet.review, noisy.review), ("health", quiet.health, noisy.health)]
    {
        if median > quiet * TIMES + JITTER || most > MOST {
            found.push(format!("{what}: median {median:?} (quiet: {quiet:?}), at most {most:?}"));
        }
    }
    if noisy.reload > RELOAD {
        found.push(format!("a reload: {:?} (quiet: {:?})", noisy.reload, quiet.reload));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_cases() {
    let _alone = TIMED.lock().await;
    let mut files: Vec<_> = std::fs::read_dir(support::project("tests/cases/neighbours"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 2, "only {} cases", files.len());
    let mut differences = Vec::new();
    for file in files {
        let case = host::config::yaml::Document::parse(&std::fs::read(&file).unwrap()).unwrap();
        let case = serde_json::from_value(case.value).unwrap();
        differences.extend(hold(&case).await.map(|found| format!("{}: {found}", file.display())));
    }
    support::assert_none(&differences);
}

async fn hold(case: &Case) -> Option<String> {
    let mut last = Vec::new();
    for _ in 0..ATTEMPTS {
        // A new host for each attempt, without a history of the noise.
        let host = Host::start(case.policies.clone(), json!({}));
        let quiet = look(&host, &case.felt, "version1").await;
        let tally = Arc::new(Tally::default());
        let noise: Vec<_> =
            case.noise.iter().map(|(name, clients)| host.clients(name, *clients, &tally)).collect();
        let noisy = look(&host, &case.felt, "version2").await;
        named(&host, case).await;
        for clients in noise {
            tally.end(clients).await;
        }
        last = felt(&quiet, &noisy);
        if last.is_empty() {
            return None;
        }
    }
    Some(last.join("; "))
}

/// Checks that the status names the noisy policies, once they have failed often enough, and that the host
/// stays ready.
async fn named(host: &Host, case: &Case) {
    let line = |name: &str| format!("[-]policy/{name} failed: ");
    let began = Instant::now();
    let verbose = loop {
        let (_, verbose) = get(host.admin, "/readyz?verbose").await.unwrap();
        if case.named.keys().all(|name| verbose.contains(&line(name))) {
            break verbose;
        }
        assert!(began.elapsed() < 6 * RELOAD, "{:?} are not all named:\n{verbose}", case.named);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert!(verbose.contains(&format!("[+]policy/{} ok\n", case.felt)), "{verbose}");
    assert_eq!(host.status().await["degraded"], true);
    assert_eq!(host.record(&case.felt).await["malfunctionsInARow"], 0);
    for (name, malfunction) in &case.named {
        let told = verbose.lines().find_map(|told| told.strip_prefix(&line(name))).unwrap();
        let record = host.record(name).await;
        let count = record["malfunctions"][malfunction].as_u64();
        assert!(count.is_some_and(|count| count >= 3), "{record}");
        assert_eq!(record["malfunctions"].as_object().unwrap().len(), 1, "{record}");
        assert!(record["malfunctionsInARow"].as_u64() >= Some(3), "{record}");
        let message = record["lastMalfunction"]["message"].as_str().unwrap();
        assert!(told.contains("malfunctions in a row, the last one: ") && told.ends_with(message), "{told}");
    }
}

/// A policy that was quick so far runs on the thread of its request. Others there wait only until the run is
/// aborted as no longer quick, not for its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_quick_and_spins_holds_nobody_up() {
    let _alone = TIMED.lock().await;
    let images = json!({ "good": { "outcome": "allow" }, "bad": { "spin": true } });
    let moody = json!({
        "name": "moody", "module": support::scripted(), "settings": { "images": images },
    });
    let host = Host::start(vec![moody], json!({}));
    let mut moody = host.connect().await;
    let mut beside = host.connect().await;
    let mut worst = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut asked = 0;
        while host.record("moody").await["pace"] != "quick" {
            assert!(asked < 2000, "it never became quick: {}", host.record("moody").await);
            for _ in 0..50 {
                let answer = moody.send(post(review_in("moody", "x.io/good"))).await.unwrap();
                assert_eq!(answer.json()["status"]["allowed"], true);
                asked += 1;
            }
        }
        let mut other = host.connect().await;
        let spinning =
            tokio::spawn(
                async move { other.send(post(review_in("moody", "x.io/bad"))).await.unwrap().json() },
            );
        let mut longest = Duration::ZERO;
        while !spinning.is_finished() {
            let began = Instant::now();
            let answer = beside.send(post(review_in("trusted-registries", "x.io/a"))).await.unwrap();
            assert_eq!(answer.json()["status"]["allowed"], true);
            longest = longest.max(began.elapsed());
        }
        let spun = spinning.await.unwrap();
        assert_eq!(spun["status"]["allowed"], false, "{spun}");
        assert!(spun["status"]["reason"].as_str().unwrap().contains("deadline"), "{spun}");
        worst.push(longest);
        if longest < Duration::from_millis(100) {
            return;
        }
    }
    panic!("reviews beside it took {worst:?}");
}

/// Accepted reviews take no longer than with as many clients as there are places; the others are rejected at
/// once, and nothing piles up.
///
/// On a busy machine the policy may be slow. The slow lane has one slot less than the steady one, so these
/// clients fit into either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_and_not_felt_by_who_is_accepted() {
    let _alone = TIMED.lock().await;
    let (concurrent, queue) = (2, 6);
    let limits = json!({ "concurrentReviews": concurrent, "queue": queue });
    let host = Host::start(vec![json!({ "name": "steady", "module": "steady.wat" })], limits);
    let mut found = String::new();
    for _ in 0..ATTEMPTS {
        let phase = async |clients| {
            let tally = Arc::new(Tally::default());
            let asking = host.clients("steady", clients, &tally);
            tokio::time::sleep(PHASE).await;
            let accepted = tally.end(asking).await;
            (percentile(&accepted, 99), accepted.len(), tally.refused.load(Ordering::Relaxed))
        };
        let capacity = concurrent - 1 + queue;
        let (at_capacity, _, refused) = phase(capacity).await;
        assert_eq!(refused, 0, "there is room for {capacity}");
        let before = host.process.resident();
        let (overloaded, accepted, refused) = phase(10 * capacity).await;
        let grown = host.process.resident().saturating_sub(before);
        assert!(refused > accepted / 10, "{accepted} accepted, {refused} refused: that was no overload");
        // The growth includes connections of ten times the clients: rustls holds some 40 KiB for each.
        if overloaded <= at_capacity * 5 && grown < 16 << 20 {
            return;
        }
        found = format!("p99 {overloaded:?}, at capacity {at_capacity:?}; {grown} bytes more");
    }
    panic!("{found}");
}

/// A review that waits for its turn longer than its deadline gets a response, a denial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_waited_in_no_longer_than_the_budget_of_a_review() {
    let limits = json!({ "concurrentReviews": 1, "queue": 10, "reviewDeadline": "300ms" });
    let host = Host::start(vec![json!({ "name": "spins", "module": "spins.wat" })], limits);
    let mut reviews = JoinSet::new();
    for _ in 0..6 {
        let mut connection = host.connect().await;
        reviews.spawn(async move {
            let began = Instant::now();
            (connection.send(post(review_in("spins", "x.io/a"))).await.unwrap(), began.elapsed())
        });
    }
    let mut waited = 0;
    for (answer, took) in reviews.join_all().await {
        assert_eq!(answer.status, StatusCode::OK);
        let status = &answer.json()["status"];
        assert_eq!(status["allowed"], false);
        let reason = status["reason"].as_str().unwrap();
        if reason.contains("waited for its turn longer than its budget of 300ms (limits.reviewDeadline)") {
            waited += 1;
        }
        // Waiting and evaluation, each within the deadline, and the delay of a busy machine.
        assert!(took < Duration::from_secs(2), "{took:?}: {reason}");
    }
    assert!(waited >= 3, "{waited} waited");
    let answer = host.connect().await.send(post(review_in("trusted-registries", "x.io/a"))).await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true, "{}", answer.text());
}

/// Eight reviews at once where one may run: the enforced policy decides each, the audit-mode policy never
/// does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_in_mode_audit_that_spins_denies_nobody() {
    let installation = Installation::never_ending(
        "1s",
        json!({
            "limits": { "reviewDeadline": "2s", "concurrentReviews": 1 },
            "policies": [
                { "name": "quick", "module": "policies/quick.wasm" },
                {
                    "name": "never-ending", "module": "never-ending.wasm", "mode": "audit",
                    "limits": { "deadline": "1s" },
                },
            ],
        }),
    );
    installation.write("policies/quick.wasm", &version("version1"));
    let server = installation.serve().await;
    let client = Arc::new(installation.client());
    let mut reviews = JoinSet::new();
    for _ in 0..8 {
        let client = Arc::clone(&client);
        let address = server.address;
        reviews.spawn(async move {
            let mut connection = client.connect(address, Protocol::Http1).await.unwrap();
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.push(connection.review("x.io/a").await.unwrap().json());
            }
            answers
        });
    }
    let answers: Vec<_> = reviews.join_all().await.into_iter().flatten().collect();
    assert_eq!(answers.len(), 24);
    let said = |answer: &Value| answer["status"]["auditAnnotations"]["never-ending.malfunction"].to_string();
    for answer in &answers {
        assert_eq!(answer["status"]["allowed"], true, "{answer}");
        assert!(said(answer).contains("deadline") || said(answer).contains("was not asked"), "{answer}");
    }
    assert!(answers.iter().any(|answer| said(answer).contains("was not asked")), "some were left out");
}

/// An evaluation that was not finished is no sign of a quick policy.
#[test]
fn a_policy_that_uses_up_the_budget_is_not_taken_for_quick() {
    let set = support::set(json!({
        "policies": [{ "name": "s", "settings": { "images": { "*": { "spin": true } } },
            "limits": { "deadline": "50ms" } }],
        "limits": { "reviewDeadline": "200ms" },
    }));
    let images: Vec<String> = (0..100).map(|number| format!("x.io/{number}")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    for _ in 0..2 {
        assert!(!evaluate(&set, &support::review("default", &images)).allowed());
    }
    let seen = set.policies[0].loaded.as_ref().unwrap().stats().snapshot();
    assert!(seen.expected >= Duration::from_millis(20), "{seen:?}");
    assert!(seen.evaluations <= 8, "{seen:?}");
}
