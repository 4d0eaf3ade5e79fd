//! What scrapers are told: counts of the whole process, and the page that they stand on.
//!
//! Counting costs a review some tens of nanoseconds: every counter is found by its place or by the name of its policy,
//! nothing is formatted, and nothing waits. All the rest is read when the page is asked for.

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
use crate::telemetry::counters::{Count, Times};

/// The statuses of requests that got no verdict.
pub const REJECTIONS: [u16; 4] = [400, 404, 405, 429];

/// What is counted at the door, since the process started.
pub struct Metrics {
    started: SystemTime,
    reviews: [Count; Disposition::ALL.len()],
    times: Times,
    rejected: [Count; REJECTIONS.len()],
    /// TLS handshakes that failed.
    pub handshakes_refused: Count,
    /// By the policies' names, so that a count goes on when a policy is loaded anew.
    policies: ArcSwap<HashMap<String, Arc<OfPolicy>>>,
}

/// What is counted of one policy.
#[derive(Default)]
struct OfPolicy {
    codes: Codes,
    /// Decisions with a code above the bound.
    others: [Count; 3],
    malfunctions: [Count; MalfunctionKind::ALL.len()],
}

/// A list that grows while it is read, in the order in which codes came up.
#[derive(Default)]
struct Codes(OnceLock<Box<Code>>);

struct Code {
    outcome: Outcome,
    name: String,
    count: Count,
    more: Codes,
}

impl Codes {
    fn iter(&self) -> impl Iterator<Item = &Code> {
        std::iter::successors(self.0.get(), |code| code.more.0.get()).map(Box::as_ref)
    }

    /// The count of a code; none where there are too many others.
    fn of(&self, outcome: Outcome, name: &str) -> Option<&Count> {
        let mut rest = self;
        for _ in 0..limits::CODES.size() {
            let new = || {
                Box::new(Code {
                    outcome,
                    name: name.to_owned(),
                    count: Count::default(),
                    more: Codes::default(),
                })
            };
            // Another thread may be first with another one.
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
            times: Times::default(),
            rejected: Default::default(),
            handshakes_refused: Count::default(),
            policies: ArcSwap::default(),
        }
    }
}

impl Metrics {
    /// Counts a review that `set` judged.
    pub fn reviewed(&self, set: &PolicySet, took: Duration, verdict: &Verdict) {
        let counts = Disposition::ALL.iter().zip(&self.reviews);
        for (_, count) in counts.filter(|(disposition, _)| **disposition == verdict.disposition) {
            count.add();
        }
        self.times.took(took);
        let policies = self.policies.load();
        for said in verdict.images.iter().flat_map(|image| &image.judged.said) {
            match policies.get(&said.policy) {
                Some(policy) => policy.said(said),
                None => self.meet(set, &said.policy).said(said),
            }
        }
    }

    /// A request was answered with an error status.
    pub fn rejected(&self, code: u16) {
        let place = REJECTIONS.iter().position(|rejection| *rejection == code);
        if let Some(count) = place.and_then(|place| self.rejected.get(place)) {
            count.add();
        }
    }

    /// Begins to count a policy. Those that are in force no more are forgotten when there are many of them.
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

    /// Adds all that is counted here to the page, of policies those in force.
    pub fn show(&self, page: &mut Page, set: &PolicySet) {
        for (disposition, count) in Disposition::ALL.iter().zip(&self.reviews) {
            page.count(&REVIEWS, &[disposition.name(), disposition.decided_by().name()], count.now());
        }
        page.times(&REVIEW_SECONDS, &[], &self.times);
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
            // From the beginning, so that a scraper sees the first one too.
            if let Some(kind) = json!(kind).as_str() {
                page.count(&MALFUNCTIONS, &[name, kind], count.now());
            }
        }
    }
}

/// What codes above the bound are counted as. No policy's code is told apart from it.
const OTHER: &str = "other";
