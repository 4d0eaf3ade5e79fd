//! Evaluations in this process, by criterion: fresh instances of each policy, a verdict, growth, and two
//! threads.

use std::cell::Cell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion};
use host::author::bench::{CALLS, Question, Warm, fresh};
use host::evaluate::{self, Facts, Options};
use host::policy::{Policy, PolicySet};
use host::review::Review;
use host::review::verdict::{Decision, Malfunction, Verdict};
use serde_json::Value;

use crate::subjects::{Subject, compiler, review, set, three};
use crate::{Error, Row, median, microseconds};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// Criterion, and the folder of its results.
struct Bench {
    criterion: Criterion,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
        let criterion = Criterion::default()
            .without_plots()
            .sample_size(30)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .output_directory(&folder);
        Bench { criterion, folder }
    }

    /// Returns the median duration of `run`, in microseconds.
    fn time<T>(&mut self, group: &str, name: &str, mut run: impl FnMut() -> T) -> Result<f64, Error> {
        self.measure(group, name, |bencher| bencher.iter(|| black_box(run())))
    }

    /// Returns the median duration of a call of an instance that is reused, as often as in the largest
    /// review.
    fn time_warm(&mut self, group: &str, policy: &Policy, question: &Question) -> Result<f64, Error> {
        let mut failed = None;
        let time = self.measure(group, "warm", |bencher| {
            bencher.iter_custom(|calls| {
                warm_calls(policy, question, calls).unwrap_or_else(|malfunction| {
                    failed = Some(malfunction);
                    Duration::from_nanos(1)
                })
            });
        });
        failed.map_or(time, |malfunction| Err(malfunction.into()))
    }

    fn measure(&mut self, group: &str, name: &str, run: impl FnMut(&mut Bencher<'_>)) -> Result<f64, Error> {
        let mut measured = self.criterion.benchmark_group(group);
        measured.bench_function(BenchmarkId::from_parameter(name), run);
        measured.finish();
        let found = self.folder.join(group).join(name).join("new/estimates.json");
        let found: Value = serde_json::from_slice(&std::fs::read(found)?)?;
        let median = found.pointer("/median/point_estimate").and_then(Value::as_f64);
        Ok(median.ok_or("criterion left no median")? / 1e3)
    }
}

fn warm_calls(policy: &Policy, question: &Question, calls: u64) -> Result<Duration, Malfunction> {
    let mut time = Duration::ZERO;
    let mut left = usize::try_from(calls).unwrap_or(usize::MAX);
    while left > 0 {
        let mut instance = Warm::start(policy)?;
        // The first call is slower: its pages and caches are cold.
        black_box(instance.ask(question)?);
        let some = left.min(CALLS - 1);
        let started = Instant::now();
        for _ in 0..some {
            black_box(instance.ask(question)?);
        }
        time += started.elapsed();
        left -= some;
    }
    Ok(time)
}

pub(crate) fn rows() -> Result<Vec<Row>, Error> {
    let mut bench = Bench::new();
    let compiler = compiler()?;
    let mut rows = Vec::new();
    for (subject, goal) in [(Subject::trusted_registries()?, Some(5.0)), (Subject::pinned_images()?, None)] {
        let (configured, snapshot) = (subject.load(&compiler)?, subject.load_snapshot(&compiler)?);
        rows.extend(fresh_rows(&mut bench, &subject.name, &configured, snapshot, goal)?);
    }
    for guest in Subject::guests() {
        match guest {
            Ok(guest) => {
                let (configured, snapshot) = (guest.load(&compiler)?, guest.load_snapshot(&compiler)?);
                rows.extend(fresh_rows(&mut bench, &guest.name, &configured, snapshot, None)?);
            }
            Err(missing) => rows.push(Row::new(missing, "")),
        }
    }

    let three = set(three(&compiler)?)?;
    let verdict = bench.time("verdict", "2-images-x-3-policies", || evaluate(&three, &review(2)))?;
    rows.push(Row::new("verdict of 2 images x 3 policies", microseconds(verdict)));

    let subject = Subject::trusted_registries()?;
    let policy = subject.load_snapshot(&compiler)??;
    let one = set(vec![Arc::clone(&policy)])?;
    rows.extend(growth(&mut bench, "images", &[1, 4, 16, 64, 256], |count| {
        Ok((set(vec![Arc::clone(&policy)])?, review(count)))
    })?);
    rows.extend(growth(&mut bench, "policies", &[1, 10, 100, 1000], |count| {
        // Each policy has its own code and memory image, as different components have.
        let policies = (0..count).map(|_| subject.load(&compiler)).collect::<Result<_, _>>()?;
        Ok((set(policies)?, review(1)))
    })?);
    rows.push(threads(&one));
    Ok(rows)
}

/// Evaluates a review as a server does, with the policies' statistics.
fn evaluate(set: &PolicySet, review: &Review) -> Verdict {
    evaluate::evaluate(set, review, &Facts::default(), &Options::of(set)).recorded()
}

fn fresh_rows(
    bench: &mut Bench,
    name: &str,
    configured: &Policy,
    snapshot: Result<Arc<Policy>, String>,
    goal: Option<f64>,
) -> Result<Vec<Row>, Error> {
    let questions = Question::all_of(&review(1));
    let question = questions.first().ok_or("a review without an image")?;
    // Without this check a malfunction would be measured like a decision.
    let failed = Cell::new(None);
    let answered = |answer| match answer {
        Ok(decision) => drop::<Decision>(black_box(decision)),
        Err(malfunction) => failed.set(Some(Malfunction::into(malfunction))),
    };
    let group = name.replace([' ', ','], "-");
    let warm = bench.time_warm(&group, configured, question)?;
    let each_time = bench.time(&group, "configured", || answered(fresh(configured, question)))?;
    let row = |how: &str, time: f64| Row::new(format!("{name}: {how}"), microseconds(time));
    let mut rows = vec![
        row("warm call", warm),
        row("fresh, configured each time", each_time).ratio(each_time / warm, "warm"),
    ];
    rows.push(match snapshot {
        Ok(policy) => {
            let time = bench.time(&group, "snapshot", || answered(fresh(&policy, question)))?;
            let row = row("fresh, from the snapshot", time).ratio(time / warm, "warm");
            match goal {
                Some(most) => row.at_most(most),
                None => row,
            }
        }
        Err(why) => Row::new(format!("{name}: no snapshot: {why}"), ""),
    });
    match failed.take() {
        None => Ok(rows),
        Some(malfunction) => Err(malfunction),
    }
}

/// Measures an evaluation by the number of images or policies. The goal is a linear cost: for each no more
/// than for the first.
fn growth(
    bench: &mut Bench,
    what: &'static str,
    counts: &[usize],
    subject: impl Fn(usize) -> Result<(PolicySet, Review), Error>,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut first = f64::NAN;
    for &count in counts {
        let (set, review) = subject(count)?;
        let time = bench.time(what, &count.to_string(), || evaluate(&set, &review))? / count as f64;
        let row = Row::new(format!("{count} {what}, each"), microseconds(time));
        if first.is_nan() {
            first = time;
            rows.push(row);
        } else {
            let row = row.ratio(time / first, "each of one");
            rows.push(if Some(&count) == counts.last() {
                // The processor's caches hold fewer than a thousand policies.
                let linear = time / first <= 1.5;
                row.goal("linear (≤ 1.5)", linear)
            } else {
                row
            });
        }
    }
    Ok(rows)
}

/// Compares the throughput of two threads with that of one, in interleaved rounds.
fn threads(set: &PolicySet) -> Row {
    let review = review(2);
    let throughput = |threads: usize| -> f64 {
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let count: usize = std::thread::scope(|scope| {
            let work = || {
                let mut count = 0_usize;
                while !stop.load(Ordering::Relaxed) {
                    black_box(evaluate(set, &review));
                    count += 1;
                }
                count
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            std::thread::sleep(ROUND);
            stop.store(true, Ordering::Relaxed);
            workers.into_iter().map(|worker| worker.join().unwrap_or_default()).sum()
        });
        count as f64 / started.elapsed().as_secs_f64()
    };
    let ratios = (0..ROUNDS).map(|_| {
        let one = throughput(1);
        throughput(2) / one
    });
    let ratio = median(ratios.collect());
    Row::new("evaluate on two threads", "").ratio(ratio, "one thread").goal("≥ 1.8", ratio >= 1.8)
}
