//! Metrics for scrapers: the counters of the process, and the page that shows them.
//!
//! Counting costs a review some tens of nanoseconds: every counter is found by its index or by the name of
//! its policy, nothing is formatted, and nothing waits. All other metrics are read when the page is
//! requested.

mod page;
mod process;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::json;

pub use self::page::{CONTENT_TYPE, Page};
pub use self::table::*;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::verdict::{Disposition, Malfunction, MalfunctionKind, Outcome, Said, Verdict};
use crate::telemetry::counters::{Counter, Histogram};

/// The status codes of responses to requests without a verdict.
pub const REJECTIONS: [u16; 4] = [400, 404, 405, 429];

/// The counters of the webhook since the process started.
pub struct Metrics {
    started: SystemTime,
    reviews: [Counter; Disposition::ALL.len()],
    durations: Histogram,
    rejected: [Counter; REJECTIONS.len()],
    /// The failed TLS handshakes.
    pub handshakes_refused: Counter,
    /// Counters by policy name, so that a counter continues when a policy is reloaded.
    policies: ArcSwap<HashMap<String, Arc<OfPolicy>>>,
}

/// The counters of a policy.
#[derive(Default)]
struct OfPolicy {
    codes: Codes,
    /// Decisions with a code over the limit, by outcome.
    others: [Counter; 3],
    malfunctions: [Counter; MalfunctionKind::ALL.len()],
}

/// An append-only list of codes, in the order of their first use. The list may grow while it is read.
#[derive(Default)]
struct Codes(OnceLock<Box<Code>>);

struct Code {
    outcome: Outcome,
    name: String,
    count: Counter,
    more: Codes,
}

impl Codes {
    fn iter(&self) -> impl Iterator<Item = &Code> {
        std::iter::successors(self.0.get(), |code| code.more.0.get()).map(Box::as_ref)
    }

    /// Returns the counter of a code. Returns None if the list is full of other codes.
    fn of(&self, outcome: Outcome, name: &str) -> Option<&Counter> {
        let mut rest = self;
        for _ in 0..limits::CODES.size() {
            let new = || {
                Box::new(Code {
                    outcome,
                    name: name.to_owned(),
                    count: Counter::default(),
                    more: Codes::default(),
                })
            };
            // Another thread may be first to append, with a different code.
            let code = rest.0.get_or_init(new);
            if code.outcome == outcome && code.name == name {
                return Some(&code.count);
            }
            rest = &code.more;
        }
        None
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            started: SystemTime::now(),
            reviews: Default::default(),
            durations: Histogram::default(),
            rejected: Default::default(),
            handshakes_refused: Counter::default(),
            policies: ArcSwap::default(),
        }
    }
}

impl Metrics {
    /// Counts a review that `set` evaluated, and its decisions.
    pub fn reviewed(&self, set: &PolicySet, took: Duration, verdict: &Verdict) {
        let counts = Disposition::ALL.iter().zip(&self.reviews);
        for (_, count) in counts.filter(|(disposition, _)| **disposition == verdict.disposition) {
            count.add();
        }
        self.durations.record(took);
        let policies = self.policies.load();
        for said in verdict.images.iter().flat_map(|image| &image.judged.said) {
            match policies.get(&said.policy) {
                Some(policy) => policy.said(said),
                None => self.meet(set, &said.policy).said(said),
            }
        }
    }

    /// Counts a request that was rejected with status `code`.
    pub fn rejected(&self, code: u16) {
        let place = REJECTIONS.iter().position(|rejection| *rejection == code);
        if let Some(count) = place.and_then(|place| self.rejected.get(place)) {
            count.add();
        }
    }

    /// Adds counters for a policy. At twice the limit of policies, drops the counters of policies that are no
    /// longer in force.
    fn meet(&self, set: &PolicySet, name: &str) -> Arc<OfPolicy> {
        let met = Arc::<OfPolicy>::default();
        self.policies.rcu(|policies| {
            let mut policies = HashMap::clone(policies);
            if policies.len() >= set.limits.policies.saturating_mul(2) {
                forget(&mut policies, set);
            }
            policies.entry(name.to_owned()).or_insert_with(|| Arc::clone(&met));
            policies
        });
        self.policies.load().get(name).map_or(met, Arc::clone)
    }

    /// Adds all counters to the page; of the policies, those in force.
    pub fn show(&self, page: &mut Page, set: &PolicySet) {
        for (disposition, count) in Disposition::ALL.iter().zip(&self.reviews) {
            page.count(&REVIEWS, &[disposition.name(), disposition.decided_by().name()], count.now());
        }
        page.histogram(&REVIEW_SECONDS, &[], &self.durations);
        for (code, count) in REJECTIONS.iter().zip(&self.rejected) {
            page.count(&REJECTED, &[&code.to_string()], count.now());
        }
        page.count(&HANDSHAKES, &[], self.handshakes_refused.now());
        let (policies, none) = (self.policies.load(), OfPolicy::default());
        for entry in &set.policies {
            let name = entry.name.as_str();
            policies.get(name).map_or(&none, |policy| policy).show(page, name);
        }
        page.count(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.number(&STARTED, &[], started.as_secs_f64());
        process::show(page);
    }
}

fn forget(policies: &mut HashMap<String, Arc<OfPolicy>>, set: &PolicySet) {
    policies.retain(|name, _| set.policies.iter().any(|entry| entry.name.as_str() == name));
}

impl OfPolicy {
    fn said(&self, said: &Said) {
        match &said.judgement {
            Ok(decision) => self.decided(decision.outcome, &decision.code),
            Err(malfunction) => self.failed(malfunction),
        }
    }

    fn decided(&self, outcome: Outcome, code: &str) {
        let count = if code == OTHER { None } else { self.codes.of(outcome, code) };
        if let Some(count) = count.or_else(|| self.others.get(outcome as usize)) {
            count.add();
        }
    }

    fn failed(&self, malfunction: &Malfunction) {
        if let Some(count) = self.malfunctions.get(malfunction.kind() as usize) {
            count.add();
        }
    }

    fn show(&self, page: &mut Page, name: &str) {
        for Code { outcome, name: code, count, .. } in self.codes.iter() {
            page.count(&DECISIONS, &[name, &outcome.to_string(), code], count.now());
        }
        for (outcome, count) in [Outcome::Allow, Outcome::Deny, Outcome::Abstain].iter().zip(&self.others) {
            if count.now() > 0 {
                page.count(&DECISIONS, &[name, &outcome.to_string(), OTHER], count.now());
            }
        }
        for (kind, count) in MalfunctionKind::ALL.iter().zip(&self.malfunctions) {
            // Shown from the beginning, at 0, so that a scraper sees the first increase too.
            if let Some(kind) = json!(kind).as_str() {
                page.count(&MALFUNCTIONS, &[name, kind], count.now());
            }
        }
    }
}

/// The code that stands for all codes over the limit. A policy's own code `other` is counted with them.
const OTHER: &str = "other";
