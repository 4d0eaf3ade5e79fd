//! Cache of compiled code in a folder: for `host serve` in the state directory, for other verbs in the user's
//! cache folder, otherwise in a temporary one. The key of an entry is the digest of everything that its code
//! was made from.
//!
//! An entry is a line with the format and the digest of the content, followed by the content. Entries are
//! written by renaming and compared with their digest when they are read. An entry that is damaged, truncated
//! or of another format counts as absent, and its content is compiled again.

use std::fs::{FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fs::{Access, Privacy, PrivateFolder, UNFINISHED};
use crate::limits;
use crate::policy::sandbox::native::digest;
use crate::text;
use parking_lot::Mutex;

const FORMAT: &str = "image-policy-host cache 1";

/// Folder of entries, limited in bytes.
pub struct Cache {
    folder: PrivateFolder,
    bytes: AtomicU64,
    /// Reason why nothing can be added at present.
    trouble: Mutex<Option<String>>,
    /// Folder of a temporary cache, to be deleted when the compiler is dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Cache {
    /// Opens a folder for entries of at most `bytes` bytes together. Makes the folder (mode 0700) if it does
    /// not exist.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be made or written, or if another user owns it or can look into
    /// it: its content is executed.
    pub fn open(folder: &Path, bytes: u64) -> io::Result<Cache> {
        Cache::of(PrivateFolder::open(folder, Privacy::Closed)?, bytes)
    }

    /// Returns the folder for the verbs that people run, by the XDG base directory specification.
    pub fn user_folder() -> Option<PathBuf> {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
        Some(base.join("image-policy-host"))
    }

    fn of(folder: PrivateFolder, bytes: u64) -> io::Result<Cache> {
        let cache =
            Cache { folder, bytes: AtomicU64::new(bytes), trouble: Mutex::new(None), temporary: None };
        cache.tidy()?;
        Ok(cache)
    }

    /// Makes a cache in a temporary folder, which is deleted with the process.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be made.
    pub fn temporary(bytes: u64) -> io::Result<Cache> {
        let owned = Permissions::from_mode(0o700);
        let folder =
            tempfile::Builder::new().prefix("image-policy-host-cache-").permissions(owned).tempdir()?;
        let mut cache = Cache::of(PrivateFolder::made(folder.path())?, bytes)?;
        cache.temporary = Some(folder);
        Ok(cache)
    }

    /// Returns the reason why newly compiled code is not kept. Returns None if it is kept.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Takes the folder of a temporary cache, which is deleted when the returned value is dropped.
    pub(in crate::policy) fn take_temporary(&mut self) -> Option<tempfile::TempDir> {
        self.temporary.take()
    }

    /// Limits the cache to `bytes` bytes from the next entry on.
    pub(in crate::policy) fn limit(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the content of an entry, as it was put. Returns None if the entry is absent, damaged or over
    /// the limit.
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
        // The oldest entries are removed first. An error makes this entry look older than it is.
        let now = FileTimes::new().set_modified(SystemTime::now());
        let _ = file.set_times(now);
        Some(content)
    }

    /// Writes an entry. A failure does no harm now, and [`Cache::trouble`] reports it.
    pub(in crate::policy) fn put(&self, key: &str, content: &[u8]) {
        let kept = self.write(key, content).and_then(|()| self.tidy());
        let trouble = kept.err().map(|error| {
            format!(
                "{}: what is compiled cannot be kept there, so it is compiled again at the next start: {}",
                text::path(self.folder.path()),
                text::without_path(&error.to_string())
            )
        });
        *self.trouble.lock() = trouble;
    }

    /// Returns the names of the entries.
    pub(super) fn names(&self) -> Vec<String> {
        self.folder.names().unwrap_or_default()
    }

    /// Removes an entry.
    pub(super) fn remove(&self, key: &str) {
        let _ = self.folder.remove(key);
    }

    fn write(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let (bytes, limit) = (content.len() as u64 + HEADING, self.bytes.load(Ordering::Relaxed));
        if bytes > limit {
            // The entry would push out all others, and could not be read back.
            let key = limits::CACHE.key().unwrap_or_default();
            return Err(io::Error::other(format!(
                "an entry has {bytes} bytes, the limit is {limit} ({key})"
            )));
        }
        self.folder.replace(key, &[heading(content).as_bytes(), b"\n", content])
    }

    /// Removes the least recently used entries until the others fit, and the files that a process left
    /// unfinished when it was killed.
    fn tidy(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut entries = Vec::new();
        for name in self.folder.names()? {
            // Another process may have removed the file meanwhile.
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

/// Allowance for the first line of an entry, in bytes; the line is shorter.
const HEADING: u64 = 256;
/// Seconds after which the process that wrote an unfinished file counts as ended.
const ABANDONED: u64 = 3600;

fn heading(content: &[u8]) -> String {
    format!("{FORMAT} {}", digest(content))
}
