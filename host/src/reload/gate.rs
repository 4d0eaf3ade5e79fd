//! Decides whether a candidate may take the place of the set in force. host.yaml names the conditions: suites that the
//! candidate must pass, and a replay of the last reviews, which the candidate and the set in force both judge.
//!
//! The gate runs on the reload's thread and on one of its own, at a low priority and within a budget. The webhook only
//! keeps its last reviews in memory ([`Recent`]); after a start the decision log fills them up. Evaluations of the gate count neither in the metrics of a policy nor in
//! the time that a policy is expected to take.

mod differences;
mod recent;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::differences::{Differences, Example, Found};
pub use self::recent::Recent;
use crate::config::{self, Config, HostLimits, OnDifference};
use crate::evaluate::{Instances, evaluate_aside};
use crate::limits;
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::verdict::Verdict;
use crate::suite::{self, Case, SuiteError};
use crate::telemetry::answered::ReviewId;
use crate::telemetry::decision_log::{ReadLimits, Records};
use crate::text;

/// How much further than the reload a candidate gives way to reviews (nice(2)).
const NICE: i32 = 10;
/// Pause before suites that could not be run are run again, in budgets: they take a tenth of the time at most.
const PAUSES: u32 = 9;
/// Cases that fail of which the reason is told.
const CASES: usize = 3;

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// It is put in force.
    Swap(Differences),
    /// It waits until someone approves it, for this reason.
    Hold(Differences, String),
    /// It is not put in force, for this reason.
    Refuse(String),
}

/// Judges candidates.
#[derive(Default)]
pub struct Gate {
    config: Option<config::Gate>,
    recent: Arc<Recent>,
    /// The folder of the decision log.
    log: Option<PathBuf>,
    /// Whether the decision log may hold reviews that belong into memory.
    unread: bool,
    trial: Option<Trial>,
    /// The time at which suites that could not be run are run again.
    retry: Option<Instant>,
}

/// The result for a candidate, which is kept: the reload asks for it again as long as the candidate waits.
struct Trial {
    of: Subject,
    /// The cases of its suites that fail.
    failed: Option<String>,
    differences: Differences,
}

/// All that a trial depends on.
#[derive(PartialEq)]
struct Subject {
    candidate: String,
    current: Option<String>,
    config: config::Gate,
    /// The suites' files, with their size and when they were changed.
    fixtures: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Gate {
    /// Where the door puts its reviews.
    pub fn recent(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    /// Follows a configuration. Without a `gate` in it every candidate is put in force.
    pub fn configure(&mut self, config: &Config) {
        let replay = |gate: &Option<config::Gate>| gate.as_ref().map_or(0, |gate| gate.replay);
        let log = config.decision_log.as_ref().map(|log| &log.directory);
        if replay(&config.gate) != replay(&self.config) {
            self.recent.keep(replay(&config.gate));
            self.unread |= replay(&config.gate) > replay(&self.config);
        }
        if log != self.log.as_ref() {
            self.log = log.cloned();
            self.unread = true;
        }
        self.config = config.gate.clone();
    }

    /// Whether it may keep a candidate from being put in force.
    pub fn asks(&self) -> bool {
        self.config.is_some()
    }

    /// Whether it tries candidates on reviews.
    pub fn compares(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.replay > 0)
    }

    /// The folders whose files it judges by.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.config.as_ref().map(|config| suite::folders(&config.suites)).unwrap_or_default()
    }

    /// Returns why no candidate could be judged by its suites as they are now. Nothing is read but the names of their files,
    /// so this can be told before a change comes.
    pub fn trouble(&self) -> Option<String> {
        fixtures(&self.config.as_ref()?.suites).err()
    }

    /// Takes the time at which a candidate whose suites could not be run is to be judged again although no file has
    /// changed. A reload that judges nothing then sets no other: a file is wrong, and its change is an event.
    pub fn take_retry(&mut self) -> Option<Instant> {
        self.retry.take()
    }

    /// Rules on a candidate that would take the place of `current`; of nothing, where that denies everything because there was
    /// no other: then its suites alone count. It is asked again at every hint as long as a candidate waits.
    pub fn judge(&mut self, candidate: &PolicySet, current: Option<&PolicySet>) -> Ruling {
        let before = self.trial.take();
        self.retry = None;
        let Some(config) = self.config.clone() else { return Ruling::Swap(Differences::default()) };
        let tried = fixtures(&config.suites).and_then(|fixtures| {
            let of = Subject {
                candidate: candidate.digest().to_owned(),
                current: current.map(|current| current.digest().to_owned()),
                config: config.clone(),
                fixtures,
            };
            match before.filter(|trial| trial.of == of) {
                Some(trial) => Ok(trial),
                None => {
                    if current.is_some() {
                        self.read_log(config.replay);
                    }
                    Trial::new(of, &self.recent, candidate, current)
                }
            }
        });
        match tried {
            Ok(trial) => self.trial.insert(trial).ruling(),
            // What kept it from being judged may be over next time, so nothing of it is remembered.
            Err(why) => {
                self.retry = Some(Instant::now() + config.budget * PAUSES);
                Ruling::Refuse(format!("{why}; it is tried again"))
            }
        }
    }

    /// Fills the reviews in memory up from the decision log, which has those of the processes before this one. A log that
    /// cannot be opened is tried again with the next candidate.
    fn read_log(&mut self, replay: usize) {
        let Some(folder) = self.log.as_deref().filter(|_| self.unread && replay > 0) else { return };
        let read = aside(|| logged(folder, replay)).and_then(|read| read.map_err(|error| error.to_string()));
        match read {
            Ok(reviews) => {
                tracing::info!("gate: the decision log has {} reviews for the replay", reviews.len());
                self.recent.fill(reviews);
                self.unread = false;
            }
            Err(why) => {
                let folder = text::path(folder);
                tracing::warn!(
                    "gate: the replay is without the reviews of the decision log in {folder}: {why}"
                );
            }
        }
    }
}

/// Returns the newest reviews of a decision log, the newest first, as many as memory may hold.
fn logged(folder: &Path, most: usize) -> io::Result<Vec<(ReviewId, Arc<Review>)>> {
    let records = Records::open(folder, ReadLimits::default())?;
    let reviews = records.filter_map(|record| Some((record.id, Arc::new(record.review()?))));
    let mut bytes = 0;
    let within = reviews.take(most).take_while(|(_, review)| {
        bytes += recent::bytes(review);
        bytes <= limits::RECENT_BYTES.size()
    });
    Ok(within.collect())
}

impl Trial {
    fn new(
        of: Subject,
        recent: &Recent,
        candidate: &PolicySet,
        current: Option<&PolicySet>,
    ) -> Result<Trial, String> {
        let budget = of.config.budget;
        let failed =
            aside(|| failing(of.fixtures.iter().map(|(path, ..)| path.as_path()), candidate, budget))??;
        let differences = match (&failed, current) {
            (None, Some(current)) => {
                let reviews = recent.newest();
                aside(|| compare(&reviews, candidate, current, budget))?
            }
            _ => Differences::default(),
        };
        Ok(Trial { of, failed, differences })
    }

    fn ruling(&self) -> Ruling {
        let differences = self.differences.clone();
        if let Some(why) = &self.failed {
            return Ruling::Refuse(why.clone());
        }
        let why = match self.of.config.on_difference {
            OnDifference::Hold if !differences.is_empty() => format!("it decides otherwise: {differences}"),
            OnDifference::Hold if differences.tell_nothing() => format!(
                "whether it decides otherwise is not known, since none of the reviews that it was tried on was judged in time: \
                 {differences}"
            ),
            _ => return Ruling::Swap(differences),
        };
        Ruling::Hold(differences, why)
    }
}

/// The suites' files.
fn fixtures(suites: &[PathBuf]) -> Result<Vec<(PathBuf, u64, Option<SystemTime>)>, String> {
    let found = suite::find(suites, true).map_err(cannot_run)?;
    let files = found.into_iter().flat_map(|suite| suite.fixtures).map(|path| {
        let file =
            std::fs::metadata(&path).map_err(|error| SuiteError::Read { path: path.clone(), error })?;
        Ok((path, file.len(), file.modified().ok()))
    });
    let files: Vec<_> = files.collect::<Result<_, SuiteError>>().map_err(cannot_run)?;
    if files.is_empty() && !suites.is_empty() {
        let folders: Vec<_> = suites.iter().map(|folder| text::path(folder)).collect();
        return Err(cannot_run(format!("there is no fixture in {}", folders.join(", "))));
    }
    Ok(files)
}

fn cannot_run(why: impl fmt::Display) -> String {
    format!("its suites cannot be run: {why}")
}

/// Runs the cases of suites on a set. Returns which of them fail, if any does.
fn failing<'a>(
    fixtures: impl Iterator<Item = &'a Path>,
    set: &PolicySet,
    budget: Duration,
) -> Result<Option<String>, String> {
    let until = Instant::now() + budget;
    let (mut run, mut failed) = (0, Vec::new());
    let in_time = || match Instant::now() < until {
        true => Ok(()),
        false => Err(limits::GATE_BUDGET.says_of(budget)),
    };
    for path in fixtures {
        // Reading takes its time too.
        in_time()?;
        let case = Case::read(path, &set.limits).map_err(cannot_run)?;
        let lines = case.run_until(set, until);
        in_time()?;
        run += 1;
        if let Some(line) = lines.first() {
            failed.push(format!("{}: {line}", text::path(path)));
        }
    }
    if failed.is_empty() {
        return Ok(None);
    }
    let more = failed.len().saturating_sub(CASES);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let told: Vec<_> = failed.iter().take(CASES).map(String::as_str).collect();
    Ok(Some(format!("{} of {run} cases of its suites fail: {}{more}", failed.len(), told.join("; "))))
}

/// Judges reviews by both sets, each but once however often it was asked, the newest first.
fn compare(
    reviews: &[Arc<Review>],
    candidate: &PolicySet,
    current: &PolicySet,
    budget: Duration,
) -> Differences {
    let until = Instant::now() + budget;
    let mut places: HashMap<_, usize> = HashMap::new();
    let mut distinct: Vec<(&Review, u64)> = Vec::new();
    for review in reviews {
        let Review { namespace, annotations, images } = &**review;
        let place = *places.entry((namespace, annotations, images)).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some((_, times)) => *times += 1,
            None => distinct.push((review, 1)),
        }
    }
    let mut differences = Differences::default();
    for (review, times) in distinct {
        // As the server would: what is over a bound is refused before a policy is asked.
        let judge =
            |set: &PolicySet| match review.within(&set.limits).and_then(|()| fits(review, &set.limits)) {
                Ok(()) => evaluate_aside(set, review, Instances::Shared, until),
                Err(reason) => Verdict::refuse(&set.rules, &set.generation(), &reason),
            };
        let (before, after) = (judge(current), judge(candidate));
        // What was cut short says nothing.
        if Instant::now() >= until {
            differences.left_out += times;
            continue;
        }
        differences.add(review, times, (&current.rules, &before), (&candidate.rules, &after));
    }
    differences
}

/// Checks the body that an apiserver would send of a review against its bound; the one that came is not kept.
fn fits(review: &Review, limits: &HostLimits) -> Result<(), String> {
    match review.body_bytes() > limits.body {
        true => Err(limits::BODY.says("", limits.body)),
        false => Ok(()),
    }
}

/// Does something on a thread that gives way to all others.
fn aside<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("gate".to_owned()).spawn_scoped(scope, || {
            // Without it it takes more from others, and still not much. On Linux this is of the thread.
            let _ = rustix::process::nice(NICE);
            act()
        });
        let thread = thread.map_err(|error| format!("there is no thread to judge it on: {error}"))?;
        thread.join().map_err(|_| PANICKED.to_owned())
    })
}

const PANICKED: &str = "judging it panicked: please report this, with the message in the log";
