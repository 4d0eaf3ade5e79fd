//! Measurement of a policy: the duration of an evaluation by each way in which an instance can start, and its
//! resources.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::config::PolicyLimits;
use crate::image::Image;
use crate::limits;
use crate::policy::{
    Compiler, Component, Context, Engine, Instance, LoadError, Policy, Purpose, SnapshotError,
};
use crate::review::Review;
use crate::review::verdict::{Decision, Malfunction};
use crate::text;

/// Minimum and maximum of evaluations of each kind, whatever their duration.
const LEAST: usize = 10;
const MOST: usize = 20_000;
/// Evaluations of one kind in a row. Kinds alternate, so that a busy moment of the machine affects all.
const ROUND: usize = 50;
/// Number of instances whose page faults are counted for each image. The lowest count is used: other work of
/// the thread adds page faults.
const TOUCHES: usize = 20;
/// Page size of Linux where policies run, in bytes.
const PAGE: u64 = 4096;
/// Time limit for loading the policy. The process that compiles it has shorter limits of its own.
const PATIENCE: Duration = Duration::from_secs(3600);

/// References of all forms, used without fixtures.
const TYPICAL: [&str; 6] = [
    "nginx",
    "registry.k8s.io/pause:3.10",
    "ghcr.io/acme/team/application:v1.2.3",
    "registry.example:5000/team/application:v1.2.3-rc.1",
    "quay.io/acme/agent@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "docker.io/library/postgres:17@sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210",
];

/// One image of a review, as the input of an evaluation.
pub struct Question {
    image: Image,
    review: Arc<Review>,
}

impl Question {
    /// Returns a question for each image of a review whose reference parses.
    pub fn all_of(review: &Review) -> Vec<Question> {
        let review = Arc::new(review.clone());
        let images = review.images.iter().filter_map(|image| Image::parse(image).ok());
        images.map(|image| Question { image, review: Arc::clone(&review) }).collect()
    }

    /// Returns a few typical questions.
    pub fn typical() -> Vec<Question> {
        let images = TYPICAL.map(str::to_owned).to_vec();
        Question::all_of(&Review { namespace: "default".to_owned(), annotations: Vec::new(), images })
    }
}

/// Evaluations of one instance: as many as a review may have images. Some toolchains need more memory with
/// each call.
pub const CALLS: usize = limits::IMAGES.size();

/// Evaluates a question with a fresh instance.
///
/// # Errors
/// Returns an error if the policy malfunctions.
pub fn fresh(policy: &Policy, question: &Question) -> Result<Decision, Malfunction> {
    Warm::start(policy)?.ask(question)
}

/// An instance for several evaluations. The host reuses an instance only within a review.
pub struct Warm {
    instance: Instance,
    deadline: Duration,
}

impl Warm {
    /// Starts an instance.
    ///
    /// # Errors
    /// Returns an error if the policy malfunctions.
    pub fn start(policy: &Policy) -> Result<Warm, Malfunction> {
        let deadline = policy.limits().deadline;
        Ok(Warm { instance: policy.start(deadline)?, deadline })
    }

    /// Evaluates a question.
    ///
    /// # Errors
    /// Returns an error if the policy malfunctions. The instance must not be used after that.
    pub fn ask(&mut self, question: &Question) -> Result<Decision, Malfunction> {
        let Question { image, review } = question;
        let context = Context::new(&review.namespace, &review.annotations);
        self.instance.evaluate(image, &context, self.deadline)
    }
}

/// The measurements. As JSON, the keys are in alphabetical order and times are nanoseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Duration of the compilation, in a process of its own.
    #[serde(serialize_with = "nanoseconds")]
    pub compile: Duration,
    /// Size of the component, in bytes.
    pub component_bytes: usize,
    /// Evaluations of a fresh instance that is configured each time.
    pub configured: Times,
    /// Number of images that were evaluated, repeatedly.
    pub images: usize,
    /// Instructions, as wasmtime counts fuel.
    pub instructions: Instructions,
    /// Duration of loading the compiled policy from the cache, including its first instance.
    #[serde(serialize_with = "nanoseconds")]
    pub load: Duration,
    /// Memory of an instance after its configuration and an evaluation.
    pub memory: Memory,
    /// Size of the native code, in bytes.
    pub native_bytes: usize,
    /// Evaluations of a fresh instance from the snapshot.
    #[serde(serialize_with = "either")]
    pub snapshot: Result<Times, NoSnapshot>,
    /// Evaluations of an instance that was called before: a lower limit for every way to start.
    pub warm: Times,
}

/// Durations of many evaluations.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// Number of evaluations.
    pub evaluations: usize,
    /// Median.
    #[serde(serialize_with = "nanoseconds")]
    pub p50: Duration,
    /// 99th percentile.
    #[serde(serialize_with = "nanoseconds")]
    pub p99: Duration,
}

/// Numbers of instructions.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instructions {
    /// Evaluation of an image, the median.
    pub evaluate: u64,
    /// Evaluation of the image with the most instructions.
    pub evaluate_most: u64,
    /// Start and configuration.
    pub start: u64,
}

/// Memory of one instance.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Size of the linear memories, in bytes.
    pub linear_bytes: usize,
    /// Size of the touched pages, in bytes: the page faults of an instance on unused memory, including the
    /// host's own pages for it. None where the system does not count page faults.
    pub touched_bytes: Option<u64>,
}

/// The reason for which a policy has no snapshot.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoSnapshot {
    /// The policy's instances cannot start from one.
    #[error(transparent)]
    Unfit(SnapshotError),
    /// The host was not able to take it.
    #[error("the host could not take it")]
    NotTaken,
}

impl Serialize for NoSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Reason {
            none: String,
        }
        Reason { none: self.to_string() }.serialize(serializer)
    }
}

fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn either<S: Serializer>(times: &Result<Times, NoSnapshot>, serializer: S) -> Result<S::Ok, S::Error> {
    match times {
        Ok(times) => times.serialize(serializer),
        Err(why) => why.serialize(serializer),
    }
}

/// The reason for which nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The policy cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The policy malfunctions, or its decisions depend on the instance. Its measurements would mean nothing.
    #[error("{}", .0.join("\n"))]
    Unsound(Vec<String>),
}

/// Measures a component with its settings on all `questions` (at least one), for about `time` for each kind
/// of evaluation.
///
/// # Errors
/// Returns an error if the policy cannot be loaded, if it malfunctions, or if a decision depends on how its
/// instance started.
pub fn bench(
    compiler: &Compiler,
    component: &Component,
    settings: &Value,
    questions: &[Question],
    time: Duration,
) -> Result<Report, BenchError> {
    let limits = PolicyLimits::default();
    let load = || {
        let started = Instant::now();
        let policy = compiler.load(component, settings, &limits, Instant::now() + PATIENCE)?;
        Ok::<_, LoadError>((policy, started.elapsed()))
    };
    let (configured, compile) = load()?;
    let (snapshot, load) = load()?;
    compiler.snapshot(&snapshot, &component.bytes);
    let snapshot = match snapshot.snapshot() {
        Some(Ok(())) => Ok(snapshot),
        Some(Err(why)) => Err(NoSnapshot::Unfit(why.clone())),
        None => Err(NoSnapshot::NotTaken),
    };
    unsound(&configured, snapshot.as_deref().ok(), questions)?;
    let samples = Samples::take(&configured, snapshot.as_deref().ok(), questions, time)?;

    // Compiled in this process: the child process has shown that the compilation stays within its limits.
    let engine = Engine::new(Purpose::Count).map_err(|error| LoadError::NotCompiled(error.to_string()))?;
    let counting = Policy::compile(&engine, &component.bytes, settings, &limits)?;
    Ok(Report {
        compile,
        component_bytes: component.bytes.len(),
        configured: times(samples.configured),
        images: questions.len(),
        instructions: instructions(&counting, questions).map_err(malfunctions)?,
        load,
        memory: memory(&counting, questions).map_err(malfunctions)?,
        native_bytes: configured.native_bytes(),
        snapshot: snapshot.map(|_| times(samples.snapshot)),
        warm: times(samples.warm),
    })
}

/// Durations of single evaluations, by the state of the instance.
#[derive(Default)]
struct Samples {
    configured: Vec<Duration>,
    snapshot: Vec<Duration>,
    warm: Vec<Duration>,
}

impl Samples {
    /// Measures for about three times `time`.
    fn take(
        configured: &Policy,
        snapshot: Option<&Policy>,
        questions: &[Question],
        time: Duration,
    ) -> Result<Samples, BenchError> {
        let mut samples = Samples::default();
        let mut warm = Warm::start(configured).map_err(malfunctions)?;
        let started = Instant::now();
        let all = time * 3;
        let mut each = questions.iter().cycle();
        while samples.configured.len() < LEAST || (started.elapsed() < all && samples.configured.len() < MOST)
        {
            // A round takes at most a quarter of `time`, so that a slow policy has a few rounds too.
            let spent = started.elapsed();
            let left = || started.elapsed() < (spent + time / 4).min(all);
            for (count, question) in each.by_ref().take(ROUND).enumerate() {
                if count >= LEAST && !left() {
                    break;
                }
                samples.configured.push(timed(|| fresh(configured, question))?);
                if let Some(snapshot) = snapshot {
                    samples.snapshot.push(timed(|| fresh(snapshot, question))?);
                }
            }
            // Warm calls are measured apart from the others, whose instances evict their data from the
            // processor's caches.
            if samples.warm.len() % (CALLS / ROUND * ROUND) == 0 {
                warm = Warm::start(configured).map_err(malfunctions)?;
            }
            for question in each.by_ref().take(ROUND) {
                samples.warm.push(timed(|| warm.ask(question))?);
            }
        }
        Ok(samples)
    }
}

fn malfunctions(malfunction: Malfunction) -> BenchError {
    BenchError::Unsound(vec![malfunction.to_string()])
}

/// Returns an error if the policy malfunctions, or if a decision depends on the instance.
fn unsound(configured: &Policy, snapshot: Option<&Policy>, questions: &[Question]) -> Result<(), BenchError> {
    let mut warm = Warm::start(configured).map_err(malfunctions)?;
    let mut lines = Vec::new();
    for question in questions {
        let image = text::image(&question.image.original);
        let decision = match fresh(configured, question) {
            Ok(decision) => decision,
            Err(malfunction) => {
                lines.push(format!("{image}: {malfunction}"));
                continue;
            }
        };
        let mut compare = |how: &str, other: Result<Decision, Malfunction>| match other {
            Ok(other) if other == decision => {}
            Ok(other) => lines.push(format!(
                "{image}: a fresh instance decides {}, and {how} {}",
                in_words(&decision),
                in_words(&other)
            )),
            Err(malfunction) => lines.push(format!("{image}: {how}: {malfunction}")),
        };
        if let Some(snapshot) = snapshot {
            compare("one from the snapshot", fresh(snapshot, question));
        }
        compare("one that was called before", warm.ask(question));
    }
    if lines.is_empty() { Ok(()) } else { Err(BenchError::Unsound(lines)) }
}

fn in_words(Decision { outcome, code, reason, .. }: &Decision) -> String {
    format!("{outcome} ({code}: {reason})")
}

fn timed(ask: impl FnOnce() -> Result<Decision, Malfunction>) -> Result<Duration, BenchError> {
    let started = Instant::now();
    black_box(ask().map_err(malfunctions)?);
    Ok(started.elapsed())
}

fn times(mut samples: Vec<Duration>) -> Times {
    samples.sort_unstable();
    let at = |percent: usize| {
        let rank = (samples.len() * percent).div_ceil(100).saturating_sub(1);
        samples.get(rank).copied().unwrap_or_default()
    };
    Times { evaluations: samples.len(), p50: at(50), p99: at(99) }
}

fn instructions(counting: &Policy, questions: &[Question]) -> Result<Instructions, Malfunction> {
    let mut start = 0;
    let mut evaluate = Vec::new();
    for question in questions {
        let mut warm = Warm::start(counting)?;
        start = warm.instance.instructions().unwrap_or_default();
        warm.ask(question)?;
        evaluate.push(warm.instance.instructions().unwrap_or_default().saturating_sub(start));
    }
    evaluate.sort_unstable();
    let at = |index: usize| evaluate.get(index).copied().unwrap_or_default();
    let last = evaluate.len().saturating_sub(1);
    Ok(Instructions { start, evaluate: at(last / 2), evaluate_most: at(last) })
}

fn memory(counting: &Policy, questions: &[Question]) -> Result<Memory, Malfunction> {
    let mut found = Memory { linear_bytes: 0, touched_bytes: None };
    for question in questions {
        let mut fewest: Option<u64> = None;
        for _ in 0..TOUCHES {
            let before = page_faults();
            let mut warm = Warm::start(counting)?;
            warm.ask(question)?;
            let faults = page_faults().zip(before).map(|(after, before)| after.saturating_sub(before));
            found.linear_bytes = found.linear_bytes.max(warm.instance.memory());
            fewest = fewest.into_iter().chain(faults).min();
        }
        found.touched_bytes = found.touched_bytes.max(fewest.map(|faults| faults * PAGE));
    }
    found.touched_bytes = found.touched_bytes.filter(|bytes| *bytes > 0);
    Ok(found)
}

/// Returns the page faults of this thread that needed no disk (proc_pid_stat(5), field 10).
fn page_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(7)?.parse().ok()
}
