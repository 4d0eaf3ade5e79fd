//! Requests that were no ImageReview. Repeated ones are a problem: with a wrong `server:` in a kubeconfig and
//! `defaultAllow: true`, every pod is admitted, and the mistake shows nowhere else.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::problem::{Problem, Subject};

/// Number of rejected requests at which they are a problem. A person who tries the host with curl makes one
/// or two.
const REPEATED: u64 = 3;

/// Time without a rejected request after which the earlier ones no longer count.
const QUIET: Duration = Duration::from_secs(5 * 60);

/// The recent rejected requests.
#[derive(Default)]
pub struct Rejections(Mutex<Option<Run>>);

/// Rejected requests with less than [`QUIET`] between any two.
struct Run {
    count: u64,
    since: SystemTime,
    last: Instant,
    /// The last request and the reason of its rejection, on one line.
    example: String,
}

impl Run {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < QUIET
    }
}

impl Rejections {
    /// Records a rejected request. `example` is a line of limited length: the request, its peer and the
    /// reason.
    pub fn record(&self, example: &str) {
        self.record_at(example, Instant::now());
    }

    fn record_at(&self, example: &str, now: Instant) {
        let mut current = self.0.lock();
        let run = current.take().filter(|run| run.is_recent(now));
        let (count, since) = run.map_or((0, SystemTime::now()), |run| (run.count, run.since));
        let example = example.to_owned();
        *current = Some(Run { count: count.saturating_add(1), since, last: now, example });
    }

    /// Returns the problem if there are at least `REPEATED` recent rejected requests.
    pub fn problem(&self) -> Option<Problem> {
        self.problem_at(Instant::now())
    }

    fn problem_at(&self, now: Instant) -> Option<Problem> {
        let current = self.0.lock();
        let run = current.as_ref().filter(|run| run.count >= REPEATED && run.is_recent(now))?;
        let (count, since) = (run.count, humantime::format_rfc3339_seconds(run.since));
        let example = &run.example;
        let what = format!("{count} requests since {since} were no ImageReview, the last one: {example}");
        Some(Problem::new(Subject::Requests, what).with_remedy(format!(
            "check `server` in the apiserver's kubeconfig and which other clients are configured to ask this \
             host; without further ones this ends after {} minutes",
            QUIET.as_secs() / 60
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_requests_are_a_problem_while_they_repeat() {
        let rejections = Rejections::default();
        let began = Instant::now();
        for _ in 0..2 {
            rejections.record_at("GET /favicon.ico", began);
            assert_eq!(rejections.problem_at(began), None, "a single request or two");
        }
        rejections.record_at("POST /validate", began);
        let problem = rejections.problem_at(began).unwrap().to_string();
        assert!(problem.starts_with("requests: 3 requests since "), "{problem}");
        assert!(problem.contains("the last one: POST /validate ("), "{problem}");
        let end = began + QUIET;
        assert!(rejections.problem_at(end - Duration::from_secs(1)).is_some());
        assert_eq!(rejections.problem_at(end), None, "no further one came");
        rejections.record_at("POST /validate", end);
        assert_eq!(rejections.problem_at(end), None, "the count begins again");
    }
}
