//! The gate decides whether a candidate may replace the set in force. host.yaml names the conditions: suites
//! that the candidate must pass, and a replay of the last reviews, which both the candidate and the set in
//! force judge.
//!
//! The gate runs on the reload's thread and on a thread of its own, at a low priority and within a time
//! budget. The webhook only keeps its last reviews in memory ([`Recent`]); after a start, older reviews are
//! added from the decision log. Evaluations of the gate count neither in the metrics of a policy nor in its
//! expected duration.

mod recent;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::recent::Recent;
use crate::config::{self, Config, OnDifference, PolicyConfig};
use crate::evaluate::{Options, evaluate_again};
use crate::isolate;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::differences::{Compared, Differences};
use crate::suite::{self, SuiteError};
use crate::telemetry::answered::ReviewId;
use crate::telemetry::decision_log::{ReadLimits, Records};
use crate::text;

/// Priority reduction of a trial, in addition to that of the reload (nice(2)).
const NICE: i32 = 10;
/// Pause before a retry of suites that could not be run, in budgets, so that the suites take at most a tenth
/// of the time.
const PAUSES: u32 = 9;
/// Number of failed cases whose reason is reported.
const CASES: usize = 3;

/// Reason why no candidate can be judged now.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A suite that cannot be read.
    #[error("its suites cannot be run: {0}")]
    Suite(#[from] SuiteError),
    /// Suites without a case that any policies can judge, in these folders.
    #[error("its suites cannot be run: there is no case for the policies of this host in {}", .0.join(", "))]
    NoFixture(Vec<String>),
    /// Suites that take longer than the budget.
    #[error("{}", limits::GATE_BUDGET.says_of(*.0))]
    OverBudget(Duration),
    /// A machine that provides no more threads.
    #[error("there is no thread to judge it on: {0}")]
    NoThread(io::Error),
    /// A defect of the host.
    #[error("judging it panicked: please report this, with the message in the log")]
    Panicked,
}

impl GateError {
    fn no_fixture(suites: &[PathBuf]) -> GateError {
        GateError::NoFixture(suites.iter().map(|folder| text::path(folder)).collect())
    }
}

/// The gate's ruling on a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// The candidate comes into force.
    Swap(Differences),
    /// The candidate waits until someone approves it, for this reason.
    Hold(Differences, String),
    /// The candidate is rejected, for this reason.
    Reject(String),
}

/// The gate: its configuration, its reviews and its last trial.
#[derive(Default)]
pub struct Gate {
    config: Option<config::Gate>,
    recent: Arc<Recent>,
    /// The settings files of the policies. In a folder of suites they are no fixtures.
    settings: BTreeSet<PathBuf>,
    /// The folder of the decision log.
    log: Option<PathBuf>,
    /// Whether the decision log may hold reviews that are missing in memory.
    unread: bool,
    trial: Option<Trial>,
    /// Time of the next retry of suites that could not be run.
    retry: Option<Instant>,
    /// The last trial whose suites could not be run.
    failed: Option<Failed>,
}

/// The result of trying a candidate. The gate keeps it, since the reload asks for it on every pass while the
/// candidate is pending.
struct Trial {
    of: TrialInputs,
    /// The failed cases of the suites.
    failed: Option<String>,
    differences: Differences,
}

/// All that a trial depends on.
#[derive(Clone, PartialEq)]
struct TrialInputs {
    candidate: String,
    current: Option<String>,
    config: config::Gate,
    /// The files of the suites, with size and modification time.
    fixtures: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Gate {
    /// Returns the recent reviews, to which the webhook adds.
    pub fn recent(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    /// Applies a configuration. Without a `gate` section every candidate comes into force.
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
        self.settings = config.policies.iter().flat_map(PolicyConfig::files_of_settings).collect();
        self.config = config.gate.clone();
    }

    /// Returns whether the gate may keep a candidate from coming into force.
    pub fn asks(&self) -> bool {
        self.config.is_some()
    }

    /// Returns whether differences hold a candidate.
    pub fn holds(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.on_difference == OnDifference::Hold)
    }

    /// Returns whether the gate replays reviews.
    pub fn compares(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.replay > 0)
    }

    /// Returns the folders of the suites' files.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.config.as_ref().map(|config| suite::folders(&config.suites)).unwrap_or_default()
    }

    /// Returns why the suites, as they are now, could not judge any candidate. Reads only the names and
    /// metadata of their files, so that the problem is reported before a change comes.
    pub fn trouble(&self) -> Option<GateError> {
        fixtures(&self.config.as_ref()?.suites, &self.settings).err()
    }

    /// Takes the time at which a candidate whose suites could not be run is to be judged again without a
    /// change of files. A reload that judges no candidate sets no new time: it waits for a wrong file to
    /// change, and the change is an event.
    pub fn take_retry(&mut self) -> Option<Instant> {
        self.retry.take()
    }

    /// Decides whether `candidate` may replace `current`. `current` is None while the host denies everything
    /// because it had no other set; then only the suites count. The reload calls this on every pass while the
    /// candidate is pending.
    pub fn judge(&mut self, candidate: &PolicySet, current: Option<&PolicySet>) -> Ruling {
        let before = self.trial.take();
        self.retry = None;
        let Some(config) = self.config.clone() else { return Ruling::Swap(Differences::default()) };
        let reject = |why: &GateError| Ruling::Reject(format!("{why}; it is tried again"));
        let of = match fixtures(&config.suites, &self.settings) {
            Ok(fixtures) => TrialInputs {
                candidate: candidate.digest().to_owned(),
                current: current.map(|current| current.digest().to_owned()),
                config: config.clone(),
                fixtures,
            },
            Err(why) => {
                self.retry = Some(Instant::now() + config.budget * PAUSES);
                return reject(&why);
            }
        };
        if let Some(failed) =
            self.failed.as_ref().filter(|failed| failed.of == of && Instant::now() < failed.again)
        {
            self.retry = Some(failed.again);
            return reject(&failed.why);
        }
        self.failed = None;
        let tried = match before.filter(|trial| trial.of == of) {
            Some(trial) => Ok(trial),
            None => {
                if current.is_some() {
                    self.read_log(config.replay);
                }
                Trial::new(of.clone(), &self.recent, candidate, current)
            }
        };
        match tried {
            Ok(trial) => self.trial.insert(trial).ruling(),
            // The next trial may succeed, so nothing of a failed one is kept but the reason.
            Err(why) => {
                let again = Instant::now() + config.budget * PAUSES;
                self.retry = Some(again);
                let ruling = reject(&why);
                self.failed = Some(Failed { of, why, again });
                ruling
            }
        }
    }

    /// Adds older reviews from the decision log, which has those of earlier processes. A log that cannot be
    /// opened is tried again with the next candidate.
    fn read_log(&mut self, replay: usize) {
        let Some(folder) = self.log.as_deref().filter(|_| self.unread && replay > 0) else { return };
        let why = match aside(|| logged(folder, replay)) {
            Ok(Ok(reviews)) => {
                tracing::info!("gate: the decision log has {} reviews for the replay", reviews.len());
                self.recent.fill(reviews);
                self.unread = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let folder = text::path(folder);
        tracing::warn!("gate: the replay is without the reviews of the decision log in {folder}: {why}");
    }
}

/// Returns the newest reviews of a decision log, newest first, up to the number and size that memory may
/// hold.
fn logged(folder: &Path, most: usize) -> io::Result<Vec<(ReviewId, Arc<Review>)>> {
    let records = Records::open(folder, ReadLimits::default())?;
    let reviews = records.filter_map(|record| Some((record.id, Arc::new(record.review()?))));
    let mut bytes = 0;
    let within = reviews.take(most).take_while(|(_, review)| {
        bytes += review.memory();
        bytes <= limits::RECENT_BYTES.size()
    });
    Ok(within.collect())
}

/// A trial whose suites could not be run.
struct Failed {
    of: TrialInputs,
    why: GateError,
    /// Time before which the same trial is not repeated.
    again: Instant,
}

impl Trial {
    fn new(
        of: TrialInputs,
        recent: &Recent,
        candidate: &PolicySet,
        current: Option<&PolicySet>,
    ) -> Result<Trial, GateError> {
        let budget = of.config.budget;
        let files: Vec<_> = of.fixtures.iter().map(|(path, ..)| path.clone()).collect();
        let failed = aside(|| failing(&files, candidate, &of.config))??;
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
            return Ruling::Reject(why.clone());
        }
        let why = match self.of.config.on_difference {
            OnDifference::Hold if !differences.is_empty() => format!("it decides otherwise: {differences}"),
            OnDifference::Hold if differences.tell_nothing() => format!(
                "whether it decides otherwise is not known, since none of the reviews that it was tried on \
                    was judged in time: {differences}"
            ),
            _ => return Ruling::Swap(differences),
        };
        Ruling::Hold(differences, why)
    }
}

/// Returns the files of the suites without those of `settings`, with size and modification time.
fn fixtures(
    suites: &[PathBuf],
    settings: &BTreeSet<PathBuf>,
) -> Result<Vec<(PathBuf, u64, Option<SystemTime>)>, GateError> {
    let found = suite::find(suites, true)?;
    let settings: BTreeSet<_> = settings.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let is_of_suite = |path: &PathBuf| {
        settings.is_empty() || !path.canonicalize().is_ok_and(|path| settings.contains(&path))
    };
    let files = found.into_iter().flat_map(|found| found.files).filter(is_of_suite).map(|path| {
        let file =
            std::fs::metadata(&path).map_err(|error| SuiteError::Read { path: path.clone(), error })?;
        Ok((path, file.len(), file.modified().ok()))
    });
    let files: Vec<_> = files.collect::<Result<_, SuiteError>>()?;
    if files.is_empty() && !suites.is_empty() {
        return Err(GateError::no_fixture(suites));
    }
    Ok(files)
}

/// Runs the cases of the suites on a set. Returns a description of the failed cases, or None if every case
/// passes.
fn failing(files: &[PathBuf], set: &PolicySet, config: &config::Gate) -> Result<Option<String>, GateError> {
    let budget = config.budget;
    let until = Instant::now() + budget;
    let (mut run, mut failed) = (0, Vec::new());
    let in_time = || match Instant::now() < until {
        true => Ok(()),
        false => Err(GateError::OverBudget(budget)),
    };
    let cases = suite::cases_for(files, set, || Instant::now() < until)?;
    let cases = cases.ok_or(GateError::OverBudget(budget))?;
    if cases.is_empty() && !files.is_empty() {
        return Err(GateError::no_fixture(&config.suites));
    }
    for case in cases {
        let report = case.run_until(set, until);
        in_time()?;
        run += 1;
        if let Some(line) = report.summary() {
            failed.push(format!("{}: {line}", case.id));
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

/// Judges each distinct review once by both sets, newest first. Repeated reviews count as often as they
/// occurred.
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
        let judge = |set: &PolicySet| {
            let verdict = evaluate_again(set, review, &Options::of(set).at_latest(until));
            Compared::of(&set.rules, &verdict)
        };
        let (before, after) = (judge(current), judge(candidate));
        // A verdict that may have been cut short proves nothing.
        if Instant::now() >= until {
            differences.left_out += times;
            continue;
        }
        differences.add(review, times, &before, &after, limits::EXAMPLES.size());
    }
    differences
}

/// Runs `act` on a thread of lower priority.
fn aside<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, GateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("gate".to_owned()).spawn_scoped(scope, || {
            isolate::lower_priority(NICE);
            act()
        });
        thread.map_err(GateError::NoThread)?.join().map_err(|_| GateError::Panicked)
    })
}
