//! What a policy costs: the time of an evaluation in each way that an instance can start, and what it uses meanwhile.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::config::PolicyLimits;
use crate::image::Image;
use crate::limits;
use crate::policy::{Component, Context, Engine, Instance, LoadError, Policy, Preparer, Purpose};
use crate::review::Review;
use crate::review::verdict::{Decision, Malfunction};
use crate::text;

/// Evaluations of each kind, at least and at most, however long they take.
const LEAST: usize = 10;
const MOST: usize = 20_000;
/// Evaluations of one kind before it is the next one's turn, so that a busy moment of the machine meets all.
const ROUND: usize = 50;
/// Instances that are looked at to see how many pages one touches; what else the thread does touches more.
const TOUCHES: usize = 20;
/// Linux pages where policies run.
const PAGE: u64 = 4096;
/// Whatever compiling may take, the process that compiles has its own bounds.
const PATIENCE: Duration = Duration::from_secs(3600);

/// References of all forms, for who brings no fixtures.
const TYPICAL: [&str; 6] = [
    "nginx",
    "registry.k8s.io/pause:3.10",
    "ghcr.io/acme/team/application:v1.2.3",
    "registry.example:5000/team/application:v1.2.3-rc.1",
    "quay.io/acme/agent@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "docker.io/library/postgres:17@sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210",
];

/// One image of a review, as a policy is asked about it.
pub struct Question {
    image: Image,
    review: Arc<Review>,
}

impl Question {
    /// One for each image of a review that is a reference.
    pub fn all_of(review: &Review) -> Vec<Question> {
        let review = Arc::new(review.clone());
        let images = review.images.iter().filter_map(|image| Image::parse(image).ok());
        images.map(|image| Question { image, review: Arc::clone(&review) }).collect()
    }

    /// A handful of typical ones.
    pub fn typical() -> Vec<Question> {
        let images = TYPICAL.map(str::to_owned).to_vec();
        Question::all_of(&Review { namespace: "default".to_owned(), annotations: Vec::new(), images })
    }
}

/// Calls of one instance: as many images as a review may have. Some toolchains need more memory with each.
pub const CALLS: usize = limits::IMAGES.size();

/// Asks a fresh instance.
///
/// # Errors
/// It malfunctions.
pub fn fresh(policy: &Policy, question: &Question) -> Result<Decision, Malfunction> {
    Warm::start(policy)?.ask(question)
}

/// An instance that is asked more than once, which the host does only within a review.
pub struct Warm {
    instance: Instance,
    deadline: Duration,
}

impl Warm {
    /// Starts it.
    ///
    /// # Errors
    /// It malfunctions.
    pub fn start(policy: &Policy) -> Result<Warm, Malfunction> {
        let deadline = policy.limits().deadline;
        Ok(Warm { instance: policy.start(deadline)?, deadline })
    }

    /// Asks it.
    ///
    /// # Errors
    /// It malfunctions, and is of no use any more.
    pub fn ask(&mut self, question: &Question) -> Result<Decision, Malfunction> {
        let Question { image, review } = question;
        let context = Context::new(&review.namespace, &review.annotations);
        self.instance.evaluate(image, &context, self.deadline)
    }
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Images that were asked about, over and over.
    pub images: usize,
    /// A fresh instance that is given its settings.
    pub configured: Times,
    /// A fresh instance of the configured snapshot, or why there is none.
    pub snapshot: Result<Times, String>,
    /// A call of an instance that was asked before: what no start can be faster than.
    pub warm: Times,
    /// Instructions that it takes, as wasmtime counts fuel.
    pub instructions: Instructions,
    /// What an instance that was configured and asked uses of memory.
    pub memory: Memory,
    /// The file, in bytes.
    pub component_bytes: usize,
    /// What it is compiled to, in bytes.
    pub native_bytes: usize,
    /// Compiling it, in a process of its own.
    pub compile: Duration,
    /// Loading what was compiled before, its first instance included.
    pub load: Duration,
}

/// Times of many evaluations.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How many.
    pub evaluations: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Of a hundred, ninety-nine took no longer.
    pub p99: Duration,
}

/// Instructions, of the images the median and the most.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Instructions {
    /// To start and be configured.
    pub start: u64,
    /// To evaluate an image.
    pub evaluate: u64,
    /// To evaluate the image that takes most.
    pub evaluate_most: u64,
}

/// Memory of one instance.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The size of its linear memories, in bytes.
    pub linear_bytes: usize,
    /// The pages that it touches, in bytes: counted as the page faults of an instance whose memory nobody had before
    /// (the host's own pages of it are among them). None where the system does not count.
    pub touched_bytes: Option<u64>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The policy cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What it says cannot be relied on, so that its times mean nothing.
    #[error("{}", .0.join("\n"))]
    Unsound(Vec<String>),
}

/// Measures a component with its settings, asking all `questions` (at least one), for about `time` in each kind.
///
/// # Errors
/// It cannot be loaded; it malfunctions; or a decision depends on how its instance started.
pub fn bench(
    preparer: &Preparer,
    component: &Component,
    settings: &Value,
    questions: &[Question],
    time: Duration,
) -> Result<Report, BenchError> {
    let limits = PolicyLimits::default();
    let load = || {
        let started = Instant::now();
        let policy = preparer.load(component, settings, &limits, Instant::now() + PATIENCE)?;
        Ok::<_, LoadError>((policy, started.elapsed()))
    };
    let (configured, compile) = load()?;
    let (snapshot, load) = load()?;
    preparer.snapshot(&snapshot, &component.bytes);
    let snapshot = match snapshot.snapshot() {
        Some(Ok(())) => Ok(snapshot),
        Some(Err(why)) => Err(why.to_owned()),
        None => Err("the host could not take it".to_owned()),
    };
    unsound(&configured, snapshot.as_deref().ok(), questions)?;

    let mut warm_instance = Warm::start(&configured).map_err(malfunctions)?;
    let mut samples = [(); 3].map(|()| Vec::new());
    let [configured_samples, snapshot_samples, warm_samples] = &mut samples;
    let started = Instant::now();
    let all = time * 3;
    let mut each = questions.iter().cycle();
    while configured_samples.len() < LEAST || (started.elapsed() < all && configured_samples.len() < MOST) {
        // A slow policy has its few rounds too.
        let spent = started.elapsed();
        let left = || started.elapsed() < (spent + time / 4).min(all);
        for (count, question) in each.by_ref().take(ROUND).enumerate() {
            if count >= LEAST && !left() {
                break;
            }
            configured_samples.push(timed(|| fresh(&configured, question))?);
            if let Ok(snapshot) = &snapshot {
                snapshot_samples.push(timed(|| fresh(snapshot, question))?);
            }
        }
        // Apart from the others, whose instances take what it needs out of the processor's caches.
        if warm_samples.len() % (CALLS / ROUND * ROUND) == 0 {
            warm_instance = Warm::start(&configured).map_err(malfunctions)?;
        }
        for question in each.by_ref().take(ROUND) {
            warm_samples.push(timed(|| warm_instance.ask(question))?);
        }
    }

    // In this process: its own has shown that compiling it keeps within bounds.
    let engine = Engine::new(Purpose::Count).map_err(|error| LoadError::Unprepared(error.to_string()))?;
    let counting = Policy::compile(&engine, &component.bytes, settings, &limits)?;
    Ok(Report {
        images: questions.len(),
        configured: times(configured_samples),
        snapshot: snapshot.map(|_| times(snapshot_samples)),
        warm: times(warm_samples),
        instructions: instructions(&counting, questions).map_err(malfunctions)?,
        memory: memory(&counting, questions).map_err(malfunctions)?,
        component_bytes: component.bytes.len(),
        native_bytes: configured.native_bytes(),
        compile,
        load,
    })
}

fn malfunctions(malfunction: Malfunction) -> BenchError {
    BenchError::Unsound(vec![malfunction.to_string()])
}

/// Fails on malfunctions, and where it depends on the instance what is decided.
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
                "{image}: a fresh instance said {}, and {how} {}",
                in_words(&decision),
                in_words(&other)
            )),
            Err(malfunction) => lines.push(format!("{image}: {how}: {malfunction}")),
        };
        if let Some(snapshot) = snapshot {
            compare("one that began from the snapshot", fresh(snapshot, question));
        }
        compare("one that was asked before", warm.ask(question));
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

fn times(samples: &mut [Duration]) -> Times {
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

/// Of this thread, those that needed no disk (proc_pid_stat(5), field 10).
fn page_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(7)?.parse().ok()
}
