//! Folders that no other user of the machine can exchange, and the files in them.
//!
//! A folder is opened component by component from the root. Each component is checked on its open descriptor,
//! as sshd does under `StrictModes` (sshd_config(5)), and the folder is used only through its descriptor. A
//! later rename of a parent therefore has no effect.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;

use super::FileError;
use crate::text;

/// Who else may read a private folder, and who may write its parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// A folder whose content is executed or put in force. Only this user may enter the folder, and no other
    /// user but root may write a parent.
    Closed,
    /// A folder for records. Others may read the folder, and a group may write a parent that root owns:
    /// Ubuntu's `/var/log` belongs to the group `syslog`. Such a group can remove the folder but not choose
    /// what is written.
    Readable,
}

/// The reason why a folder is not private.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A system call failed.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// The path names no folder.
    #[error("{0} is no folder: remove it, or name another folder")]
    NoFolder(String),
    /// A folder or a symbolic link on the way belongs to another user.
    #[error(
        "{path} belongs to another user (uid {uid}), who can exchange its content: use `chown {wanted} \
            {path}`, or name another folder"
    )]
    Foreign {
        /// The folder or link.
        path: String,
        /// Its owner.
        uid: u32,
        /// The user of this process.
        wanted: u32,
    },
    /// Other users can write a folder on the way.
    #[error(
        "others can write {path} (mode {mode:04o}) and so exchange its content: use `chmod {remedy} {path}`, \
            or name another folder"
    )]
    Writable {
        /// The folder.
        path: String,
        /// Its permission bits.
        mode: RawMode,
        /// The argument of chmod(1) that corrects the mode.
        remedy: &'static str,
    },
    /// The path leads over too many symbolic links.
    #[error("{0}: too many symbolic links")]
    Links(String),
}

impl From<FolderError> for io::Error {
    fn from(error: FolderError) -> io::Error {
        match error {
            FolderError::Io(_, error) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// An open folder that belongs to this user.
#[derive(Debug)]
pub struct PrivateFolder {
    folder: OwnedFd,
    path: PathBuf,
}

/// How a file of a private folder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading. The file must exist.
    Read,
    /// Reading and writing. A missing file is created with mode 0600.
    Write,
    /// Reading, and writing at the end. A missing file is created with mode 0600.
    Append,
}

/// Limit of symbolic links followed on one path, the same as Linux's (path_resolution(7)).
const LINKS: usize = 40;
/// Prefix of the name of a file that is still being written.
pub const UNFINISHED: &str = ".unfinished-";
/// Permission bits that let others change an entry.
const OTHERS_WRITE: RawMode = 0o022;
const STICKY: RawMode = 0o1000;
/// Opens a folder as a place only. On Linux this needs no permission to read the folder.
#[cfg(target_os = "linux")]
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const PLACE: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl PrivateFolder {
    /// Opens a folder, and creates it and its missing parents with mode 0700. If others may only read a
    /// folder of [`Privacy::Closed`], its mode becomes 0700.
    ///
    /// # Errors
    /// Returns the first component that another user owns or can write, or that is no folder.
    pub fn open(path: &Path, privacy: Privacy) -> Result<PrivateFolder, FolderError> {
        let shown = |at: &Path, error: io::Error| FolderError::Io(text::path(at), error);
        let absolute = std::path::absolute(path).map_err(|error| shown(path, error))?;
        let parent = Walk::from_root(&absolute, privacy)?.follow()?;
        let folder = rustix::fs::openat(
            &parent,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| shown(path, error.into()))?;
        let opened = PrivateFolder { folder, path: path.to_owned() };
        opened.close_to_others(privacy)?;
        Ok(opened)
    }

    /// Opens a folder that this process has just created under a name of its own choice. The parents are not
    /// checked: everyone may be able to write a container's temporary folder, even without the sticky bit.
    ///
    /// # Errors
    /// Returns an error if another user owns the folder or can write it.
    pub fn made(path: &Path) -> Result<PrivateFolder, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| FolderError::Io(text::path(path), error.into()))?;
        let opened = PrivateFolder { folder, path: path.to_owned() };
        opened.close_to_others(Privacy::Closed)?;
        Ok(opened)
    }

    /// Opens a subfolder, and creates it with mode 0700 if it is missing.
    ///
    /// # Errors
    /// Returns an error under the conditions of [`PrivateFolder::open`].
    pub fn folder(&self, name: &str, privacy: Privacy) -> Result<PrivateFolder, FolderError> {
        let path = self.path.join(name);
        let shown = |error: Errno| match error {
            Errno::NOTDIR | Errno::LOOP => FolderError::NoFolder(text::path(&path)),
            error => FolderError::Io(text::path(&path), error.into()),
        };
        make(&self.folder, OsStr::new(name)).map_err(shown)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, name, flags, Mode::empty()).map_err(shown)?;
        let opened = PrivateFolder { folder, path: path.clone() };
        opened.close_to_others(privacy)?;
        Ok(opened)
    }

    /// Checks the owner and the mode of the folder itself, and removes the permissions of others from a
    /// closed folder.
    fn close_to_others(&self, privacy: Privacy) -> Result<(), FolderError> {
        let shown = text::path(&self.path);
        let stat =
            rustix::fs::fstat(&self.folder).map_err(|error| FolderError::Io(shown.clone(), error.into()))?;
        let (uid, wanted) = (stat.st_uid, rustix::process::geteuid().as_raw());
        if uid != wanted {
            return Err(FolderError::Foreign { path: shown, uid, wanted });
        }
        let mode = stat.st_mode & 0o7777;
        if mode & forbidden(&stat) != 0 {
            return Err(FolderError::Writable { path: shown, mode, remedy: "0700" });
        }
        if privacy == Privacy::Closed && mode & 0o077 != 0 {
            match rustix::fs::fchmod(&self.folder, Mode::RWXU) {
                // Some file systems have no modes to change, and a read-only one cannot be written. Others
                // cannot write the folder in either case.
                Ok(()) | Err(Errno::ROFS | Errno::PERM | Errno::NOTSUP) => {}
                Err(error) => return Err(FolderError::Io(shown, error.into())),
            }
        }
        Ok(())
    }

    /// Returns the path under which the folder was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a path through the descriptor (proc(5)), for system calls that take no descriptor. Elsewhere
    /// than on Linux it is the path under which the folder was opened.
    pub fn by_descriptor(&self, name: &str) -> PathBuf {
        if !cfg!(target_os = "linux") {
            return self.path.join(name);
        }
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }

    /// Opens a regular file of this user that nobody else can write and that has no other name.
    ///
    /// # Errors
    /// Returns the system's error, or the reason why the file does not belong to this user alone.
    pub fn file(&self, name: &str, access: Access) -> Result<File, FileError> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR | OFlags::CREATE,
            Access::Append => OFlags::RDWR | OFlags::APPEND | OFlags::CREATE,
        };
        // A pipe without a peer must not block the host.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::LOOP) => {
                return Err(FileError::Insecure("it is a symbolic link: remove it".to_owned()));
            }
            Err(Errno::NXIO | Errno::ISDIR) => return Err(FileError::Irregular),
            Err(error) => return Err(FileError::Unreadable(error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        check_file(&stat)?;
        Ok(File::from(file))
    }

    /// Reads a whole file of this folder.
    ///
    /// # Errors
    /// Returns an error under the conditions of [`PrivateFolder::file`], or if the file has more than `most`
    /// bytes.
    pub fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, FileError> {
        let file = self.file(name, Access::Read)?;
        let length = file.metadata()?.len();
        if length > most {
            return Err(FileError::TooLarge(length, most));
        }
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 {
            length if length > most => Err(FileError::TooLarge(length, most)),
            _ => Ok(bytes),
        }
    }

    /// Replaces a whole file: a reader sees either the old content or the new content.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. The old file stays.
    pub fn replace(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let (unfinished, mut file) = self.unfinished()?;
        let written = parts
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| self.rename(&unfinished, name));
        if written.is_err() {
            // The next start removes an abandoned file too.
            let _ = self.remove(&unfinished);
        }
        written
    }

    fn unfinished(&self) -> io::Result<(String, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{UNFINISHED}{}-{number}", std::process::id());
            match rustix::fs::openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok((name, File::from(file))),
                // A process with the same id, for example in another container, left this file.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Renames a file of this folder.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    /// Removes a file of this folder.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// Returns the metadata of an entry. Symbolic links are not followed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn stat(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Returns the names of all entries except folders. Names that are not UTF-8 are skipped: this program
    /// creates none.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            if entry.file_type() == FileType::Directory {
                continue;
            }
            if let Ok(name) = entry.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Waits until the names of the folder's files are on disk.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    /// Returns whether the path under which the folder was opened still leads to the same folder.
    pub fn stands(&self) -> bool {
        let here = rustix::fs::fstat(&self.folder);
        let there = rustix::fs::stat(&self.path);
        matches!((here, there), (Ok(here), Ok(there)) if is_same(&here, &there))
    }

    /// Returns whether a name in this folder still leads to an open file.
    pub fn leads_to(&self, name: &str, file: &File) -> bool {
        let (here, there) = (rustix::fs::fstat(file), self.stat(name));
        matches!((here, there), (Ok(here), Ok(there)) if is_same(&here, &there))
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn check_file(stat: &Stat) -> Result<(), FileError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::Irregular);
    }
    let mode = stat.st_mode & 0o7777;
    let why = if stat.st_uid != rustix::process::geteuid().as_raw() {
        format!("it belongs to another user (uid {}): remove it", stat.st_uid)
    } else if mode & forbidden(stat) != 0 {
        format!("it can be written by others (mode {mode:04o}): remove it, or use `chmod 0600`")
    } else if stat.st_nlink > 1 {
        format!("it has {} names (hard links), so it may be another program's file: remove it", stat.st_nlink)
    } else {
        return Ok(());
    };
    Err(FileError::Insecure(why))
}

/// A walk from the root to a folder.
struct Walk {
    /// The folder that was reached.
    folder: OwnedFd,
    /// Its path, for messages.
    path: PathBuf,
    /// The names that remain.
    names: VecDeque<OsString>,
    links: usize,
    privacy: Privacy,
}

impl Walk {
    fn from_root(path: &Path, privacy: Privacy) -> Result<Walk, FolderError> {
        Ok(Walk { folder: root()?, path: PathBuf::from("/"), names: names(path), links: 0, privacy })
    }

    fn follow(mut self) -> Result<OwnedFd, FolderError> {
        while let Some(name) = self.names.pop_front() {
            self.check_parent()?;
            self.step(&name)?;
        }
        Ok(self.folder)
    }

    /// Checks that no other user can exchange the entries of the folder that was reached.
    fn check_parent(&self) -> Result<(), FolderError> {
        let shown = || text::path(&self.path);
        let stat = rustix::fs::fstat(&self.folder).map_err(|error| FolderError::Io(shown(), error.into()))?;
        check_owner(&stat, shown)?;
        let mode = stat.st_mode & 0o7777;
        let group_of_root = self.privacy == Privacy::Readable && stat.st_uid == 0;
        let forbidden = if group_of_root { 0o002 } else { forbidden(&stat) };
        // With the sticky bit only the owner of an entry can rename or remove it, and that owner is checked
        // as well.
        if mode & forbidden != 0 && mode & STICKY == 0 {
            return Err(FolderError::Writable { path: shown(), mode, remedy: "go-w" });
        }
        Ok(())
    }

    fn step(&mut self, name: &OsStr) -> Result<(), FolderError> {
        let at = self.path.join(name);
        let failed = |error: Errno| match error {
            Errno::NOTDIR => FolderError::NoFolder(text::path(&at)),
            error => FolderError::Io(text::path(&at), error.into()),
        };
        if name != ".." {
            make(&self.folder, name).map_err(failed)?;
        }
        let stat = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        check_owner(&stat, || text::path(&at)).or_else(|error| match self.names.is_empty() {
            // The folder itself is checked once it is open, with a message of its own.
            true if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(()),
            _ => Err(error),
        })?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = PLACE | OFlags::NOFOLLOW;
                self.folder = rustix::fs::openat(&self.folder, name, flags, Mode::empty()).map_err(failed)?;
                if name == ".." {
                    self.path.pop();
                } else {
                    self.path = at;
                }
            }
            FileType::Symlink => {
                self.links += 1;
                if self.links > LINKS {
                    return Err(FolderError::Links(text::path(&at)));
                }
                let target = rustix::fs::readlinkat(&self.folder, name, Vec::new()).map_err(failed)?;
                let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    self.folder = root()?;
                    self.path = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    self.names.push_front(name);
                }
            }
            _ => return Err(FolderError::NoFolder(text::path(&at))),
        }
        Ok(())
    }
}

fn root() -> Result<OwnedFd, FolderError> {
    rustix::fs::open("/", PLACE, Mode::empty()).map_err(|error| FolderError::Io("/".to_owned(), error.into()))
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// Creates a folder with mode 0700 unless an entry of the name exists.
fn make(folder: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // A read-only file system may report an error for an existing entry, too.
        Err(error) => match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(()),
            Err(_) => Err(error),
        },
    }
}

/// Returns the permission bits that let another user change an entry. A group whose number is the owner's is
/// the owner's private group: with it, Debian and Ubuntu make people's folders group-writable. Root's group
/// does not count as private, since containers run other users in it.
fn forbidden(stat: &Stat) -> RawMode {
    if stat.st_gid == stat.st_uid && stat.st_uid != 0 { 0o002 } else { OTHERS_WRITE }
}

/// Checks that root or this user owns an entry.
fn check_owner(stat: &Stat, path: impl FnOnce() -> String) -> Result<(), FolderError> {
    let (uid, wanted) = (stat.st_uid, rustix::process::geteuid().as_raw());
    if uid == 0 || uid == wanted {
        return Ok(());
    }
    Err(FolderError::Foreign { path: path(), uid, wanted })
}
