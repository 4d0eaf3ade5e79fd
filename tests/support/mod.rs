//! Helpers that the tests share: one engine for the process, sets from a host.yaml in a string, a folder to
//! serve from, the host that serves it, and clients like an apiserver's.

pub(crate) mod certificates;
pub(crate) mod client;
mod components;
pub(crate) mod evaluation;
pub(crate) mod frames;
mod installation;
pub(crate) mod process;

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use host::config::{Config, HostLimits, Placement, PolicyLimits, Rules};
use host::policy::{Cache, Compiler, Component, Engine, Entry, LoadError, Policy, PolicySet, Purpose};
use host::reload::gate::Recent;
use host::reload::{Candidate, Fallback, assemble};
use host::review::Review;
use host::telemetry::answered::{Ids, ReviewId};
use serde_json::{Value, json};

pub(crate) use self::components::{denying, version, wat_policy};
pub(crate) use self::installation::{Installation, Server, assert_none, cases};

/// Returns the compiler of all tests that need no other: one engine and one cache, so each component is
/// compiled once.
pub(crate) fn compiler() -> &'static Compiler {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let engine = Engine::new(Purpose::Serve { policies: 0 }).unwrap();
        let cache = Cache::open(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), 1 << 30).unwrap();
        Compiler::new(engine, cache, process::HOST.into(), false).unwrap()
    })
}

/// Returns the path of a file or folder of this project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the path of the scripted policy, whose settings say its decisions (`tests/guests/scripted`).
pub(crate) fn scripted() -> PathBuf {
    project("tests/guests/dist/scripted.wasm")
}

/// Loads a component as the host does.
pub(crate) fn load(
    component: &[u8],
    settings: &Value,
    limits: &PolicyLimits,
) -> Result<Arc<Policy>, LoadError> {
    compiler().load(
        &Component::new(component.to_vec()),
        settings,
        limits,
        Instant::now() + Duration::from_secs(600),
    )
}

/// Returns the folder of components that tests make. It stays until the process ends.
fn made() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    MADE.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// Returns `text` with `MODULE` instead of the paths of policies.
pub(crate) fn without_paths(text: &str) -> String {
    let word = |word: &str| match word.strip_suffix(':') {
        Some(path) if path.ends_with(".wasm") => "MODULE:".to_owned(),
        _ => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Parses a host.yaml. Policies without a `module` are the scripted one; a `module` `FOLDER/NAME.wat` is a
/// file of `cases`.
pub(crate) fn config(mut host: Value) -> Config {
    for policy in host.get_mut("policies").and_then(Value::as_array_mut).into_iter().flatten() {
        let policy = policy.as_object_mut().unwrap();
        let module = match policy.get("module").and_then(Value::as_str) {
            None => scripted(),
            Some(module) if module.ends_with(".wat") => {
                let file = made().join(module.replace('/', "-")).with_extension("wasm");
                // Written whole by a rename: another test may be reading the file.
                let beside = tempfile::NamedTempFile::new_in(made()).unwrap();
                std::fs::write(&beside, wat_policy(&project("tests/cases").join(module)).unwrap()).unwrap();
                beside.persist(&file).unwrap();
                file
            }
            Some(module) => module.into(),
        };
        policy.insert("module".to_owned(), module.display().to_string().into());
    }
    // JSON is YAML.
    Config::parse(Path::new("host.yaml"), host.to_string().as_bytes()).unwrap()
}

/// Makes the first generation of a host.yaml, with its problems.
pub(crate) fn candidate(host: Value) -> Candidate {
    let config = config(host);
    let waits = |candidate: &Candidate| {
        candidate.problems.iter().any(|problem| problem.what.ends_with(&LoadError::Compiling.to_string()))
    };
    // A start gives up waiting before all components of all tests are compiled.
    let until = Instant::now() + Duration::from_secs(600);
    loop {
        let candidate = assemble(compiler(), &config, Fallback::LastGood(None), &mut Default::default());
        let candidate = candidate.unwrap_or_else(|problem| panic!("{problem}"));
        if !waits(&candidate) || Instant::now() > until {
            return candidate;
        }
    }
}

/// Makes the first generation of a host.yaml. Panics if it has problems.
pub(crate) fn set(host: Value) -> PolicySet {
    let candidate = candidate(host);
    assert!(candidate.problems.is_empty(), "{:?}", candidate.problems);
    candidate.set
}

/// Returns a set of one policy that is enforced everywhere.
pub(crate) fn set_of(policy: &Arc<Policy>) -> PolicySet {
    let entry = Entry {
        name: "policy".try_into().unwrap(),
        placement: Placement::default(),
        message: None,
        loaded: Ok(Arc::clone(policy)),
    };
    PolicySet::new(Rules::default(), HostLimits::default(), vec![entry])
}

/// Returns a set of one scripted policy with the name `scripted`. `images` is its setting of that name.
pub(crate) fn scripted_set(images: Value) -> PolicySet {
    set(json!({ "policies": [{ "name": "scripted", "settings": { "images": images } }] }))
}

/// Returns a review without annotations.
pub(crate) fn review(namespace: &str, images: &[&str]) -> Review {
    let images = images.iter().map(|&image| image.to_owned()).collect();
    Review { namespace: namespace.to_owned(), annotations: Vec::new(), images }
}

/// Returns a new id of a review.
pub(crate) fn review_id() -> ReviewId {
    static IDS: OnceLock<Ids> = OnceLock::new();
    IDS.get_or_init(Ids::default).next(SystemTime::now())
}

/// Adds a review of one image to the recent ones of the gate.
pub(crate) fn remember(recent: &Recent, image: &str) {
    recent.push(review_id(), &Arc::new(review("default", &[image])));
}

type Act = Box<dyn Fn(&str)>;

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static AT_EACH_LINE: RefCell<Act> = RefCell::new(Box::new(|_| {}));
}

struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The line at which a thread panicked is written again before the next one.
        let lines = String::from_utf8_lossy(bytes);
        AT_EACH_LINE.with_borrow(|act| act(lines.lines().last().unwrap_or_default()));
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the log lines of this thread during `act`.
pub(crate) fn logged(act: impl FnOnce()) -> String {
    subscribe();
    LOG.take();
    act();
    String::from_utf8(LOG.take()).unwrap()
}

/// Runs `act` with each later log line of this thread.
pub(crate) fn at_each_line(act: impl Fn(&str) + 'static) {
    subscribe();
    AT_EACH_LINE.set(Box::new(act));
}

/// Installs the subscriber for the whole process: with a subscriber for each thread, the lines heard would
/// depend on which thread logs first.
fn subscribe() {
    static SUBSCRIBED: OnceLock<()> = OnceLock::new();
    SUBSCRIBED.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(|| ThisThread).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}
