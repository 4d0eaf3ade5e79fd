//! The state directory, which outlives the process: the last generations and their components.
//!
//! ```text
//! generations/NUMBER.json   a generation: its content, its time and its cause
//! components/DIGEST.wasm    the components that generations name
//! cache/                    compiled code, see `policy::Cache`
//! lock                      held by the host that serves from here, with its process id
//! ```
//!
//! Files are written under another name and then renamed, a component before the generation that names it. So
//! every generation is complete whenever the process ends. The newest one has the last good version of each
//! policy. A swap does not wait until its files would survive a loss of power.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::record::{Damage, Record, RecordError, Summary, parse};
use crate::fs::{Access, FileError, Privacy, PrivateFolder, UNFINISHED};
use crate::limits;
use crate::policy::Component;
use crate::text;

/// Error that makes a state directory unusable.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A state directory from which another host serves.
    #[error(
        "{0}: another host serves with this state directory ({1}): stop it first, or give each host a \
         `stateDirectory` of its own"
    )]
    InUse(String, String),
    /// A state directory that cannot be read or written, or that another user can write.
    #[error(transparent)]
    Unusable(#[from] io::Error),
}

/// A folder that only this user can write and only this host uses.
pub struct StateDirectory {
    path: PathBuf,
    folder: PrivateFolder,
    generations: PrivateFolder,
    components: PrivateFolder,
    lock: Lock,
    /// The components of each recorded generation.
    recorded: BTreeMap<u64, BTreeSet<String>>,
    /// The summaries that were read, until [`StateDirectory::take_summaries`].
    summaries: Vec<Summary>,
    newest: Option<Record>,
    damaged: Vec<Damaged>,
    /// Components that are not written yet.
    unwritten: Vec<Component>,
    /// Whether the newest generation is not recorded yet.
    unrecorded: bool,
    /// The parts that the record of the newest generation leaves out.
    left_out: Option<&'static str>,
    /// Files that a loss of power may still damage.
    unsynced: BTreeSet<Place>,
}

/// A file of one of the folders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Generation(u64),
    /// A component, by its digest.
    Component(String),
}

/// A generation whose record is damaged.
pub struct Damaged {
    /// Number of the generation.
    pub number: u64,
    /// The damage.
    pub why: RecordError,
}

const GENERATIONS: &str = "generations";
const COMPONENTS: &str = "components";

impl StateDirectory {
    /// Opens the folder, and creates it (mode 0700) if it does not exist.
    ///
    /// # Errors
    /// Returns an error if another host uses the folder, if it cannot be created or written, if it belongs to
    /// another user, or if other users can write it: its content decides which code runs.
    pub fn open(path: &Path) -> Result<StateDirectory, StateError> {
        let folder = PrivateFolder::open(path, Privacy::Closed).map_err(io::Error::from)?;
        let within = |name| folder.folder(name, Privacy::Closed).map_err(io::Error::from);
        let lock = Lock::take(&folder)?;
        let (generations, components) = (within(GENERATIONS)?, within(COMPONENTS)?);
        for folder in [&generations, &components] {
            // A process that was killed while writing leaves unfinished files.
            for unfinished in folder.names()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
                // On a read-only file system the unfinished file does no harm.
                let _ = folder.remove(unfinished);
            }
        }
        let mut state = StateDirectory {
            path: path.to_owned(),
            folder,
            generations,
            components,
            lock,
            recorded: BTreeMap::new(),
            summaries: Vec::new(),
            newest: None,
            damaged: Vec::new(),
            unwritten: Vec::new(),
            unrecorded: false,
            left_out: None,
            unsynced: BTreeSet::new(),
        };
        state.read()?;
        Ok(state)
    }

    fn read(&mut self) -> io::Result<()> {
        let names = self.generations.names()?;
        let number = |name: &String| name.strip_suffix(".json")?.parse::<u64>().ok();
        let numbers: BTreeSet<u64> = names.iter().filter_map(number).collect();
        for number in numbers {
            match self.record(number) {
                Ok(record) => {
                    self.recorded.insert(number, record.components());
                    self.summaries.push(record.summary.clone());
                    self.newest = Some(record);
                }
                Err(why) => {
                    self.damaged.push(Damaged { number, why });
                    self.recorded.insert(number, BTreeSet::new());
                }
            }
        }
        Ok(())
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the process that serves from a folder, or None if no host does.
    pub fn served_by(path: &Path) -> Option<String> {
        Lock::holder(path)
    }

    /// Returns why another host could serve from this folder too, and why this host might not be found.
    /// Returns None if the folder and its lock are in place.
    pub fn trouble(&self) -> Option<String> {
        let is_sound = self.folder.stands() && self.lock.holds(&self.folder);
        (!is_sound).then(|| {
            format!(
                "{}: it was removed or replaced while this host serves from it, so another host can use it \
                    at the same time, `host status` may not find this one, and what was in force before may \
                    be lost for the next start",
                text::path(&self.path)
            )
        })
    }

    /// Returns which parts the record of the newest generation leaves out to stay below the size limit of a
    /// record.
    pub fn left_out(&self) -> Option<String> {
        let number = self.newest.as_ref()?.summary.publication.number;
        self.left_out.map(|what| {
            format!(
                "the record of generation {number} leaves out {what}: with them it would be over its bound"
            )
        })
    }

    /// Returns the folder of the generations.
    fn generations(&self) -> PathBuf {
        self.path.join(GENERATIONS)
    }

    /// Returns the folder for compiled code.
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// Takes the summaries of the generations that were found, oldest first.
    pub(super) fn take_summaries(&mut self) -> Vec<Summary> {
        std::mem::take(&mut self.summaries)
    }

    /// Returns the generations with damaged records, oldest first.
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// Returns the last generation if its record is damaged. The policy set in force at that time, a rollback
    /// and a held candidate are then unknown.
    pub fn damaged_latest(&self) -> Option<u64> {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.summary.publication.number);
        let mut damaged = self.damaged.iter().rev().map(|damaged| damaged.number);
        damaged.find(|number| is_number(*number)).filter(|number| *number > newest)
    }

    /// Returns the newest generation that can be read.
    pub fn newest(&self) -> Option<&Record> {
        self.newest.as_ref()
    }

    /// Returns the number of the next generation, which is higher than any recorded one, including damaged
    /// ones.
    pub fn next_number(&self) -> u64 {
        // The newest one may not be written yet.
        let newest = self.newest.iter().map(|record| record.summary.publication.number);
        let numbers = newest.chain(self.recorded.keys().copied()).filter(|number| is_number(*number));
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// Reads a recorded generation.
    ///
    /// # Errors
    /// Returns an error if no generation has this number, or if its record is damaged.
    pub fn record(&self, number: u64) -> Result<Record, RecordError> {
        let name = generation(number);
        let path = || text::path(&self.generations().join(&name));
        if !is_number(number) {
            return Err(RecordError::NoNumber(path()));
        }
        let bytes = self.generations.read(&name, limits::RECORD.default).map_err(|error| match error {
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                RecordError::NotRecorded(number)
            }
            error => RecordError::Unreadable(number, path(), error),
        })?;
        parse(&bytes, number).map_err(|damage| RecordError::Damaged(number, path(), damage))
    }

    /// Reads a component. Returns None if it is missing or damaged.
    pub fn component(&self, digest: &str) -> Option<Component> {
        let bytes = self.components.read(&component_name(digest), limits::MODULE.max()).ok()?;
        let component = Component::new(bytes);
        (component.digest == digest).then_some(component)
    }

    /// Records the generation that comes into force. `components` holds those of its components that earlier
    /// generations do not have. The record outlives the process; [`StateDirectory::sync`] waits for the
    /// disk, and retries writes that failed.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written. Earlier records stay.
    pub fn append(&mut self, record: Record, components: Vec<Component>) -> io::Result<()> {
        self.unwritten.extend(components);
        self.newest = Some(record);
        self.unrecorded = true;
        self.write_newest()
    }

    /// Changes the data recorded beside the content of the newest generation.
    ///
    /// # Errors
    /// Returns an error under the conditions of [`StateDirectory::append`].
    pub fn update_latest(&mut self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let Some(newest) = &mut self.newest else { return Ok(()) };
        let before = newest.clone();
        change(newest);
        self.unrecorded |= *newest != before;
        self.write_newest()
    }

    /// Writes the pending files, waits until all files are on the disk, and removes the oldest generations
    /// and the components that no generation names.
    ///
    /// # Errors
    /// Returns an error under the conditions of [`StateDirectory::append`].
    pub fn sync(&mut self) -> io::Result<()> {
        self.write_newest()?;
        if self.unsynced.is_empty() {
            return Ok(());
        }
        for place in &self.unsynced {
            let file = match place {
                Place::Generation(number) => self.generations.file(&generation(*number), Access::Read),
                Place::Component(digest) => self.components.file(&component_name(digest), Access::Read),
            };
            if_there(file.map_err(io::Error::from).and_then(|file| file.sync_all()))?;
        }
        self.components.sync()?;
        self.generations.sync()?;
        self.unsynced.clear();
        self.prune()
    }

    fn write_newest(&mut self) -> io::Result<()> {
        let Some(newest) = self.newest.as_ref().filter(|_| self.unrecorded) else { return Ok(()) };
        let (number, named) = (newest.summary.publication.number, newest.components());
        self.unwritten.retain(|component| named.contains(&component.digest));
        while let Some(component) = self.unwritten.last() {
            let name = component_name(&component.digest);
            // A damaged file would be no good version, so it is replaced.
            if !self.components.read(&name, limits::MODULE.max()).is_ok_and(|kept| *kept == *component.bytes)
            {
                self.components.replace(&name, &[&*component.bytes])?;
                self.unsynced.insert(Place::Component(component.digest.clone()));
            }
            self.unwritten.pop();
        }
        let (bytes, left_out) = readable(newest)?;
        self.generations.replace(&generation(number), &[&bytes])?;
        self.left_out = left_out;
        self.unsynced.insert(Place::Generation(number));
        self.recorded.insert(number, named);
        self.unrecorded = false;
        Ok(())
    }

    fn prune(&mut self) -> io::Result<()> {
        while self.recorded.len() > limits::GENERATIONS.size()
            && let Some(oldest) = self.least()
        {
            if_there(self.generations.remove(&generation(oldest)))?;
            self.recorded.remove(&oldest);
        }
        let named: BTreeSet<String> =
            self.recorded.values().flatten().map(|digest| component_name(digest)).collect();
        for name in self.components.names()?.iter().filter(|name| !named.contains(*name)) {
            self.components.remove(name)?;
        }
        Ok(())
    }

    /// Returns the generation to remove first: a damaged one, or else the oldest, but never the newest that
    /// can be read.
    fn least(&self) -> Option<u64> {
        let newest = self.newest.as_ref().map(|newest| newest.summary.publication.number);
        let damaged: BTreeSet<u64> = self.damaged.iter().map(|damaged| damaged.number).collect();
        let others = self.recorded.keys().copied().filter(|number| Some(*number) != newest);
        others.min_by_key(|number| (!damaged.contains(number), *number))
    }
}

fn generation(number: u64) -> String {
    format!("{number}.json")
}

fn component_name(digest: &str) -> String {
    // The digest was read from a file, so it must not lead out of the folder.
    let digest: String = digest.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{digest}.wasm")
}

/// Returns the bytes of a record, and the parts left out of it. A record that could not be read back is not
/// written: the next start would treat it as damaged, and forget a rollback with it.
fn readable(record: &Record) -> io::Result<(Vec<u8>, Option<&'static str>)> {
    let number = record.summary.publication.number;
    let bytes = serde_json::to_vec(record)?;
    if parse(&bytes, number).is_ok() {
        return Ok((bytes, None));
    }
    let mut smaller = record.clone();
    smaller.summary.problems.clear();
    smaller.summary.changes.clear();
    smaller.summary.differences = None;
    if let Some(held) = &mut smaller.held {
        held.changes.clear();
    }
    for policy in &mut smaller.content.policies {
        if let Err(why) = &mut policy.loaded {
            *why = text::truncate(why.as_str(), LEFT_OF_ERROR).into();
        }
    }
    let bytes = serde_json::to_vec(&smaller)?;
    let unreadable = |damage: Damage| {
        io::Error::other(format!("its record could not be read back, so it is not written: {damage}"))
    };
    parse(&bytes, number).map_err(unreadable)?;
    Ok((bytes, Some("its problems, changes and differences")))
}

/// Length of a load error in a shortened record, in bytes.
const LEFT_OF_ERROR: usize = 64;

/// Returns whether a generation can have this number. Higher numbers are ignored in the count: a file with
/// the highest number of all would leave none for later generations.
pub(crate) fn is_number(number: u64) -> bool {
    // JSON readers keep integers below 2^53 exactly: enough for 1,000 generations a second for 285,000 years.
    number < 1 << 53
}

/// Ignores the error that a file does not exist: a file that someone removed needs no more work.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{HostLimits, PolicyName, Rules};
    use crate::policy::manifest::{Cause, Change, Content, PolicyContent, Publication, Version};
    use crate::review::differences::Differences;

    fn record(number: u64, components: &[&Component]) -> Record {
        let policies = components.iter().enumerate().map(|(index, component)| PolicyContent {
            name: PolicyName::try_from(format!("p{index}")).unwrap(),
            placement: Default::default(),
            message: None,
            loaded: Ok(Version {
                component: component.digest.clone(),
                settings: serde_json::json!({ "allow": ["x"] }),
                limits: Default::default(),
                grants: Default::default(),
            }),
        });
        let published = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
        Record {
            summary: Summary {
                publication: Publication { number, published, cause: Cause::RolledBack { to: 3 } },
                digest: "abc".to_owned(),
                pinned: true,
                whole: true,
                changes: vec![Change { policy: None, what: vec!["rules".to_owned()] }],
                differences: Some(Differences::default()),
                problems: Vec::new(),
            },
            content: Content {
                rules: Rules::default(),
                limits: HostLimits { concurrent_reviews: 63, ..HostLimits::default() },
                policies: policies.collect(),
            },
            remembered: Vec::new(),
            held: None,
        }
    }

    #[test]
    fn what_is_recorded_is_found_again_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let [old, new] = [b"old", b"new"].map(|bytes| Component::new(bytes.to_vec()));

        let mut state = StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!((state.newest(), state.next_number()), (None, 1));
        state.append(record(1, &[&old]), vec![old.clone()]).unwrap();
        state.append(record(2, &[&old, &new]), vec![new.clone()]).unwrap();
        let unfinished = path.join(COMPONENTS).join(format!("{UNFINISHED}1"));
        fs::write(&unfinished, "half").unwrap();
        drop(state);

        let state = StateDirectory::open(&path).unwrap();
        assert!(!unfinished.exists());
        assert_eq!((state.newest(), state.next_number()), (Some(&record(2, &[&old, &new])), 3));
        assert_eq!(state.record(1).unwrap(), record(1, &[&old]));
        assert_eq!(state.component(&new.digest), Some(new.clone()));
        fs::write(path.join(COMPONENTS).join(component_name(&new.digest)), "other").unwrap();
        assert_eq!(state.component(&new.digest), None);
        fs::write(path.join(GENERATIONS).join(generation(2)), "{").unwrap();
        drop(state);

        let state = StateDirectory::open(&path).unwrap();
        assert_eq!((state.newest(), state.next_number()), (Some(&record(1, &[&old])), 3));
        assert!(state.record(2).unwrap_err().to_string().contains("its record is damaged"));
        assert!(state.record(7).unwrap_err().to_string().contains("is not recorded"));
    }

    #[test]
    fn a_folder_is_of_one_host() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let error = StateDirectory::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(state);
        StateDirectory::open(folder.path()).unwrap();
    }
}
