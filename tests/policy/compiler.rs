//! Compilation in a child process, the cache, and the snapshots: with real children, killed children and
//! damaged entries.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::config::{Grants, HostLimits, PolicyLimits};
use host::policy::{Cache, Compiler, Component, LoadError, LoadRequest, Policy};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::client::{Protocol, get, post, review_in};
use crate::support::evaluation::evaluate;
use crate::support::process::HOST;
use crate::support::{self, Installation, project, version};

/// Time limit of events that must happen but may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn compiler(cache: &Path, snapshots: bool) -> Compiler {
    let cache = Cache::open(cache, 1 << 30).unwrap();
    Compiler::new(support::compiler().engine().clone(), cache, HOST.into(), snapshots).unwrap()
}

fn trusted_registries() -> Component {
    Component::new(fs::read(project("plugins/dist/trusted-registries.wasm")).unwrap())
}

fn load(compiler: &Compiler, settings: &Value) -> Result<Arc<Policy>, LoadError> {
    compiler.load(&trusted_registries(), settings, &PolicyLimits::default(), Instant::now() + PATIENCE)
}

fn settings() -> Value {
    json!({ "allow": ["ghcr.io/acme/**"] })
}

/// Waits until the snapshot is taken or has failed.
fn snapshot(policy: &Policy) -> Result<(), String> {
    let began = Instant::now();
    loop {
        if let Some(snapshot) = policy.snapshot() {
            return snapshot.map_err(ToString::to_string);
        }
        assert!(began.elapsed() < PATIENCE, "no snapshot within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    // An entry that is being written has another name until it is complete.
    entries.retain(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"."));
    entries.sort();
    entries
}

#[test]
fn the_snapshot_follows_and_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let first = compiler(&cache, true);
    let policy = load(&first, &settings()).unwrap();
    assert_eq!(snapshot(&policy), Ok(()));
    // The snapshot is put into the cache after it is adopted.
    let began = Instant::now();
    while entries(&cache).len() < 2 && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(entries(&cache).len(), 2, "the native code, and that of the snapshot");

    // This program cannot compile: only the cache can load the policy.
    let cache = Cache::open(&cache, 1 << 30).unwrap();
    let engine = support::compiler().engine().clone();
    let second = Compiler::new(engine, cache, HOST.into(), true).unwrap();
    second.limit(&HostLimits { prepare_memory: 1, ..HostLimits::default() });
    let again = load(&second, &settings()).unwrap();
    assert_eq!(again.snapshot(), Some(Ok(())));
    assert_eq!(again.load_log(), policy.load_log());
    // Other settings need no compilation, but a snapshot of their own.
    let other = load(&second, &json!({ "deny": ["ghcr.io/acme/**"] })).unwrap();
    assert!(snapshot(&other).is_err());
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    load(&compiler(&cache, false), &settings()).unwrap();
    let [entry] = entries(&cache).try_into().unwrap();
    let whole = fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let old = [b"image-policy-host cache 0 x\n", &whole[100..]].concat();
    let damaged: [(&str, &[u8]); 6] = [
        ("one bit", &flipped),
        ("cut short", &whole[..whole.len() / 2]),
        ("its first line", &whole[..40]),
        ("empty", b""),
        ("another format", &old),
        ("something else", b"hello\nworld\n"),
    ];
    for (what, content) in damaged {
        fs::write(&entry, content).unwrap();
        load(&compiler(&cache, false), &settings()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(fs::read(&entry).unwrap().len(), whole.len(), "{what}");
    }
    // A folder instead of a file is not even opened.
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    let compiler = compiler(&cache, false);
    load(&compiler, &settings()).unwrap();
    let trouble = compiler.cache().trouble().unwrap();
    assert!(trouble.contains("what is compiled cannot be kept there"), "{trouble}");
}

#[tokio::test]
async fn without_a_usable_cache_it_serves_and_says_so() {
    let installation = Installation::new(json!({ "stateDirectory": "state" }));
    fs::create_dir(installation.path("state")).unwrap();
    fs::write(installation.path("state/cache"), "").unwrap();
    let server = installation.serve().await;
    let (_, ready) = get(server.admin, "/readyz?verbose").await.unwrap();
    assert!(ready.contains("state/cache failed: what is compiled cannot be kept there"), "{ready}");
    let mut connection = installation.client().connect(server.address, Protocol::Http1).await.unwrap();
    let answer = connection.send(post(review_in("default", "registry.k8s.io/pause:3.10"))).await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true);
}

/// Returns the children of a process that compile.
fn compiling(parent: u32) -> Vec<i32> {
    let is_child = |id: &i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let parent_of = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent_of == Some(parent) && command.ends_with(b"\0compile\0")
    };
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(is_child).collect()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// While a component compiles for ever, the host serves and other changes wait. They come into force as soon
/// as the component is removed. A child that is killed is reported and replaced.
#[tokio::test]
async fn a_child_that_is_killed_is_followed_by_another() {
    let installation = Installation::new(json!({
        "policyDirectory": "policies", "policies": [], "limits": { "prepareTime": "10m" },
    }));
    fs::remove_file(installation.path("policies/trusted-registries.wasm")).unwrap();
    fs::remove_file(installation.path("policies/pinned-images.wasm")).unwrap();
    installation.write("policies/quick.wasm", &version("version1"));
    let mut process = installation.start();
    let (webhook, admin) = process.addresses();
    let mut connection = installation.client().connect(webhook, Protocol::Http2).await.unwrap();

    let endless = support::wat_policy(&project("tests/hostile/deep-blocks.wat")).unwrap();
    installation.replace("policies/endless.wasm", &endless);
    let child = until("a child compiles", async || compiling(process.id()).first().copied()).await;
    let answer = connection.send(post(review_in("default", "x.io/a"))).await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true);
    let problem = async |part: &str| {
        let (_, ready) = get(admin, "/readyz?verbose").await.unwrap();
        ready.lines().any(|line| line.contains(part)).then_some(())
    };
    let compiled = "endless failed: ";
    until("it says that it compiles", async || problem(&LoadError::Compiling.to_string()).await).await;

    // The host does not know yet whether the other change would be weaker without this one.
    installation.replace("policies/quick.wasm", &version("version2"));
    let waits = "as long as endless cannot be loaded, and these changes wait: quick (component)";
    until("the other change waits", async || problem(waits).await).await;
    let quick_is = async |reason: &str| {
        let (_, status) = get(admin, "/status").await.unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        let quick =
            status["policies"].as_array().unwrap().iter().find(|policy| policy["name"] == "quick").cloned();
        let wanted = Component::new(version(reason)).digest;
        (quick?["digest"] == wanted).then_some(())
    };
    quick_is("version1").await.unwrap();
    assert!(compiling(process.id()).contains(&child), "it was compiled all the while");

    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    process.wait_for("was killed (signal: 9");
    until("another child compiles", async || {
        compiling(process.id()).into_iter().find(|other| *other != child)
    })
    .await;
    // The compilation lasts until its component is removed.
    fs::remove_file(installation.path("policies/endless.wasm")).unwrap();
    until("nothing is wrong any more", async || problem(compiled).await.is_none().then_some(())).await;
    until("the other change is in force", async || quick_is("version2").await).await;
    let answer = connection.send(post(review_in("default", "x.io/a"))).await.unwrap();
    assert_eq!(answer.json()["status"]["allowed"], true);

    // The child is gone with the host, at once. The process that adopts it may reap it later (a zombie has no
    // command).
    let children = compiling(process.id());
    assert!(!children.is_empty(), "what nobody wants any more is compiled to its end");
    process.signal(Signal::KILL);
    process.end();
    let runs =
        |child: &i32| fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|command| !command.is_empty());
    until("no child is left", async || (!children.iter().any(runs)).then_some(())).await;
}

#[test]
fn a_snapshot_decides_as_a_configured_instance_does() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = compiler(&folder.path().join("cache"), false);
    let policy = load(&compiler, &settings()).unwrap();
    let set = support::set_of(&policy);
    let review = support::review("default", &["ghcr.io/acme/app:1", "ghcr.io/other/app:1", "nginx"]);
    let configured = evaluate(&set, &review);
    compiler.snapshot(&policy, &trusted_registries().bytes);
    assert_eq!(policy.snapshot(), Some(Ok(())));
    assert_eq!(evaluate(&set, &review), configured);
}

/// Writes a `host` that adds a line to a file each time a child is started, and then runs the real program.
fn counting(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, started) = (folder.join("counting"), folder.join("started"));
    let host = project(HOST).display().to_string();
    fs::write(&program, format!("#!/bin/sh\necho >> {}\nexec {host} \"$@\"\n", started.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&started, "").unwrap();
    (program, started)
}

/// One child compiles a component, however many policies use it, whether they load at the same time or one
/// after the other; also if the compilation fails.
#[test]
fn a_component_is_compiled_once_for_all_its_policies() {
    let endless_types = support::wat_policy(&project("tests/hostile/deep-blocks.wat")).unwrap();
    let cases = [
        ("a component that compiles", trusted_registries(), HostLimits::default(), true),
        (
            "one whose compiling fails",
            Component::new(endless_types),
            HostLimits { prepare_time: Duration::from_secs(1), ..HostLimits::default() },
            false,
        ),
    ];
    let settings: Vec<Value> =
        (0..24).map(|number| json!({ "allow": [format!("ghcr.io/team-{number}/**")] })).collect();
    for (what, component, limits, compiles) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (program, started) = counting(folder.path());
        let cache = Cache::open(&folder.path().join("cache"), 1 << 30).unwrap();
        let compiler = Compiler::new(support::compiler().engine().clone(), cache, program, false).unwrap();
        compiler.limit(&limits);
        let (bounds, none) = (PolicyLimits::default(), Grants::default());
        let wanted: Vec<_> = settings
            .iter()
            .map(|settings| LoadRequest { component: &component, settings, limits: &bounds, grants: &none })
            .collect();
        let loaded = compiler.load_all(&wanted, Instant::now() + PATIENCE);
        assert_eq!(loaded.len(), wanted.len());
        for loaded in loaded {
            assert_eq!(loaded.is_ok(), compiles, "{what}: {:?}", loaded.err());
        }
        assert_eq!(fs::read_to_string(&started).unwrap().lines().count(), 1, "{what}");
    }
}

/// The queue of snapshots keeps the bytes of a component only for existing policies, however many there were.
#[test]
fn a_queue_of_snapshots_keeps_nothing_of_policies_that_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = compiler(&folder.path().join("cache"), true);
    let component = trusted_registries();
    let load = |number: usize| {
        let settings = json!({ "allow": [format!("ghcr.io/team-{number}/**")] });
        let limits = PolicyLimits::default();
        compiler.load(&component, &settings, &limits, Instant::now() + PATIENCE).unwrap()
    };
    // While its snapshot is taken the others wait.
    let _busy = load(0);
    for number in 1..30 {
        load(number);
    }
    // This one, the queue's, the snapshot thread's, and those that threads are about to drop.
    let kept = Arc::strong_count(&component.bytes);
    assert!(kept <= 6, "{kept} keep the component");
}

/// Writing to standard output needs parts of the host that the snapshot process does not allow, unless they
/// are made without descriptors.
#[test]
fn a_policy_that_prints_in_configure_is_refused_a_snapshot_for_its_handle() {
    let folder = tempfile::tempdir().unwrap();
    let case = fs::read_to_string(project("tests/cases/instance/wasi-stdout-is-the-log.wat")).unwrap();
    let file = folder.path().join("prints.wat");
    fs::write(&file, format!("{case};; --- configure\n(call $judge)\n")).unwrap();
    let component = Component::new(support::wat_policy(&file).unwrap());
    let compiler = compiler(&folder.path().join("cache"), true);
    let limits = PolicyLimits::default();
    let policy = compiler.load(&component, &json!({}), &limits, Instant::now() + PATIENCE).unwrap();
    let why = snapshot(&policy).unwrap_err();
    assert!(why.contains("it holds a WASI handle after `configure`"), "{why}");
}

/// Another candidate, which has no use for these components, is loaded meanwhile.
#[test]
fn a_job_stays_queued_while_a_thread_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let compiler = compiler(folder.path(), false);
    let names: Vec<_> = (0..8).map(|number| format!("version{number}")).collect();
    std::thread::scope(|scope| {
        let load = |name: &String| {
            let component = Component::new(version(name));
            compiler.load(&component, &json!({}), &PolicyLimits::default(), Instant::now() + PATIENCE)
        };
        let waiting: Vec<_> = names.iter().map(|name| scope.spawn(move || load(name))).collect();
        while !waiting.iter().all(|thread| thread.is_finished()) {
            compiler.retain(&HashSet::new());
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in waiting {
            thread.join().unwrap().unwrap();
        }
    });
}

/// Returns a compiler of an author, whose compiled functions lie in `folder` too.
fn author(folder: &Path, functions: u64) -> Compiler {
    let open = |name: &str, bytes| Cache::open(&folder.join(name), bytes).unwrap();
    let engine = support::compiler().engine().clone();
    Compiler::for_author(engine, open("cache", 1 << 30), open("functions", functions), HOST.into(), false)
        .unwrap()
}

/// Returns the content of the only entry of a cache, without its first line.
fn only_entry(cache: &Path) -> Vec<u8> {
    let [entry] = entries(cache).try_into().unwrap();
    let bytes = fs::read(entry).unwrap();
    let heading = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    bytes[heading..].to_vec()
}

/// The native code that `host test` runs is that of the server, whether functions are known or not.
#[test]
fn an_author_gets_the_code_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    load(&compiler(&folder.path().join("server"), false), &settings()).unwrap();
    let code = only_entry(&folder.path().join("server"));
    let packs = folder.path().join("functions");
    for known in [false, true] {
        load(&author(folder.path(), 1 << 30), &settings()).unwrap();
        assert!(only_entry(&folder.path().join("cache")) == code, "functions are known: {known}");
        assert_eq!(entries(&packs).len(), 1);
        fs::remove_dir_all(folder.path().join("cache")).unwrap();
    }
    // A damaged pack is not used.
    let [pack] = entries(&packs).try_into().unwrap();
    let mut damaged = fs::read(&pack).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&pack, damaged).unwrap();
    load(&author(folder.path(), 1 << 30), &settings()).unwrap();
    assert!(only_entry(&folder.path().join("cache")) == code);
}

/// limit: function-cache within, function-cache breaks
#[test]
fn the_functions_of_an_author_have_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let packs = folder.path().join("functions");
    load(&author(folder.path(), 1024), &settings()).unwrap();
    assert!(entries(&packs).is_empty(), "a pack over the limit is not kept");
    fs::remove_dir_all(folder.path().join("cache")).unwrap();
    load(&author(folder.path(), 1 << 30), &settings()).unwrap();
    assert_eq!(entries(&packs).len(), 1);
}
