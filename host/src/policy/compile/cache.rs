//! What was prepared once, kept in a folder: compiled code under the digest of all that it was made of.
//!
//! An entry is a line with the format and the digest of what follows, then that. It is written by renaming and compared
//! with its digest when it is read: one that is damaged, cut short or of another format counts as absent, and what it
//! held is prepared anew.

use std::fs::{FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fs::{Access, Privacy, PrivateFolder, UNFINISHED};
use crate::limits;
use crate::policy::sandbox::native::digest;
use crate::text;

const FORMAT: &str = "image-policy-host cache 1";

/// A folder of entries, bounded in bytes.
pub struct Cache {
    folder: PrivateFolder,
    bytes: AtomicU64,
    /// Why nothing can be added, while that is so.
    trouble: Mutex<Option<String>>,
    /// The folder, where it is to go when nobody prepares any more.
    temporary: Option<tempfile::TempDir>,
}

impl Cache {
    /// Opens a folder, making it (mode 0700) where it does not exist, for entries of so many bytes together.
    ///
    /// # Errors
    /// It cannot be made or written, or someone else owns it or can look into it: what is in there is executed.
    pub fn open(folder: &Path, bytes: u64) -> io::Result<Cache> {
        Cache::of(PrivateFolder::open(folder, Privacy::Closed)?, bytes)
    }

    fn of(folder: PrivateFolder, bytes: u64) -> io::Result<Cache> {
        let cache =
            Cache { folder, bytes: AtomicU64::new(bytes), trouble: Mutex::new(None), temporary: None };
        cache.tidy()?;
        Ok(cache)
    }

    /// A folder that goes with the process.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn temporary(bytes: u64) -> io::Result<Cache> {
        let owned = Permissions::from_mode(0o700);
        let folder =
            tempfile::Builder::new().prefix("image-policy-host-cache-").permissions(owned).tempdir()?;
        let mut cache = Cache::of(PrivateFolder::made(folder.path())?, bytes)?;
        cache.temporary = Some(folder);
        Ok(cache)
    }

    /// Why what is prepared now is not kept; none while it is.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder of a temporary cache, which goes when this is dropped.
    pub(in crate::policy) fn take_temporary(&mut self) -> Option<tempfile::TempDir> {
        self.temporary.take()
    }

    /// Keeps so many bytes from the next entry on.
    pub(in crate::policy) fn limit(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The content of an entry, as it was put.
    pub(in crate::policy) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let file = self.folder.file(key, Access::Read).ok()?;
        let most = self.bytes.load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        (&file).take(most.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > most {
            return None;
        }
        let end = bytes.iter().take(256).position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let content = bytes.split_off(end);
        if bytes.trim_ascii_end() != heading(&content).as_bytes() {
            let path = self.folder.path().join(key);
            tracing::warn!("{}: damaged, or of another version: it is compiled again", text::path(&path));
            return None;
        }
        // The oldest go first; an error makes this one look older than it is.
        let now = FileTimes::new().set_modified(SystemTime::now());
        let _ = file.set_times(now);
        Some(content)
    }

    /// Keeps an entry. That this fails is told by [`Cache::trouble`] and does no harm now.
    pub(in crate::policy) fn put(&self, key: &str, content: &[u8]) {
        let kept = self.write(key, content).and_then(|()| self.tidy());
        let trouble = kept.err().map(|error| {
            format!(
                "{}: what is compiled cannot be kept there, so it is compiled again at the next start: {}",
                text::path(self.folder.path()),
                text::without_path(&error.to_string())
            )
        });
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn write(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let (bytes, limit) = (content.len() as u64 + HEADING, self.bytes.load(Ordering::Relaxed));
        if bytes > limit {
            // It would push out all others, and not be read back.
            let key = limits::CACHE.key().unwrap_or_default();
            return Err(io::Error::other(format!(
                "an entry has {bytes} bytes, the limit is {limit} ({key})"
            )));
        }
        self.folder.replace(key, &[heading(content).as_bytes(), b"\n", content])
    }

    /// Removes the entries that were not used for longest until the others fit, and what a process left that was
    /// killed while it wrote.
    fn tidy(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut entries = Vec::new();
        for name in self.folder.names()? {
            // Another process may have removed it meanwhile.
            let Ok(stat) = self.folder.stat(&name) else { continue };
            let modified = u64::try_from(stat.st_mtime).unwrap_or_default();
            if !name.starts_with(UNFINISHED) {
                let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                entries.push(((modified, stat.st_mtime_nsec), bytes, name));
            } else if now.saturating_sub(modified) > ABANDONED {
                let _ = self.folder.remove(&name);
            }
        }
        let limit = self.bytes.load(Ordering::Relaxed);
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        entries.sort();
        for (_, bytes, name) in entries {
            if total <= limit {
                break;
            }
            let _ = self.folder.remove(&name);
            total -= bytes;
        }
        Ok(())
    }
}

/// More than the first line of an entry has.
const HEADING: u64 = 256;
/// Seconds after which the process that wrote an unfinished file counts as gone.
const ABANDONED: u64 = 3600;

fn heading(content: &[u8]) -> String {
    format!("{FORMAT} {}", digest(content))
}
