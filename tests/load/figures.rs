//! The figures of a load: responses, their generations, latencies and failures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Maximum number of failures that are kept as examples.
const EXAMPLES: usize = 5;

/// The reason for which a review has no correct response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection: no server listens, or the connection is closed before the handshake.
    Connect,
    /// No TLS: one side rejects the other.
    Handshake,
    /// The connection ended between the request and the end of its response.
    Broken,
    /// No response within [`PATIENCE`](crate::client::PATIENCE).
    Late,
    /// Another HTTP status than 200.
    Status(u16),
    /// A response that no generation gives, or that the named generation does not give.
    Wrong,
    /// A response of an older generation than one that had responded before the request.
    WentBack,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Connect => f.write_str("no connection"),
            Kind::Handshake => f.write_str("no TLS"),
            Kind::Broken => f.write_str("connection broken"),
            Kind::Late => f.write_str("no answer in time"),
            Kind::Status(status) => write!(f, "status {status}"),
            Kind::Wrong => f.write_str("wrong answer"),
            Kind::WentBack => f.write_str("older generation"),
        }
    }
}

/// A review without a correct response.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kind of the failure.
    pub kind: Kind,
    /// The observation, in words.
    pub what: String,
}

/// A correct response.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The number of the generation.
    pub generation: u64,
    /// The verdict.
    pub allowed: bool,
}

/// The figures of a span of time.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Number of correct responses.
    pub answers: u64,
    /// Number of correct responses that allow.
    pub allowed: u64,
    /// The lowest and the highest number of a generation that responded.
    pub generations: Option<(u64, u64)>,
    /// Number of failed reviews, by kind.
    pub failures: BTreeMap<Kind, u64>,
    /// Descriptions of some failures.
    pub examples: Vec<String>,
    /// Latencies of the correct responses, in microseconds.
    latencies: Vec<u32>,
}

impl Figures {
    /// Counts a review and its duration `time`.
    pub fn count(&mut self, outcome: Result<Answer, Failure>, time: Duration) {
        match outcome {
            Ok(answer) => {
                self.answers += 1;
                self.allowed += u64::from(answer.allowed);
                let (least, greatest) = self.generations.unwrap_or((answer.generation, answer.generation));
                self.generations = Some((least.min(answer.generation), greatest.max(answer.generation)));
                self.latencies.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
            }
            Err(failure) => {
                *self.failures.entry(failure.kind).or_default() += 1;
                if self.examples.len() < EXAMPLES {
                    self.examples.push(format!("{}: {}", failure.kind, failure.what));
                }
            }
        }
    }

    /// Returns the number of failed reviews.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Returns the sum of these figures and those of another span.
    #[must_use]
    pub fn and(mut self, other: Figures) -> Figures {
        self.answers += other.answers;
        self.allowed += other.allowed;
        self.generations = match (self.generations, other.generations) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, another) => one.or(another),
        };
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        self.latencies.extend(other.latencies);
        self
    }

    /// Returns the latencies of the correct responses.
    pub fn latency(&self) -> Latency {
        Latency::of(self.latencies.clone())
    }

    /// Describes the failures in one line.
    pub fn failures(&self) -> String {
        if self.failures.is_empty() {
            return "none failed".to_owned();
        }
        let counts: Vec<_> = self.failures.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        counts.join(", ")
    }
}

/// Quantiles of durations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The maximum.
    pub max: Duration,
}

impl Latency {
    /// Returns the quantiles of durations in microseconds.
    pub fn of(mut times: Vec<u32>) -> Latency {
        times.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            Duration::from_micros(times.get(rank).copied().unwrap_or_default().into())
        };
        Latency { p50: quantile(50), p99: quantile(99), max: quantile(100) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50, self.p99, self.max].map(|time| time.as_secs_f64() * 1e3);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.1} ms")
    }
}
