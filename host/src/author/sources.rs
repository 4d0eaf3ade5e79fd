//! Folders of sources: their language, their files, and the component that the language's toolchain makes of
//! them. Everything that is built lies in the folder `target` of the sources.

mod builds;
mod toolchain;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

pub use self::builds::Builds;
use super::build::{BuildError, encoded};
use crate::limits;
use crate::suite::BUILT;
use crate::text;

/// Folder below the sources for everything that is built.
const TARGET: &str = "target";
/// Name of the component in that folder.
const COMPONENT: &str = "policy.wasm";
/// Folders within folders of sources.
const DEPTH: usize = 16;

/// Language of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust, by Cargo.toml.
    Rust,
    /// Go, by go.mod.
    Go,
    /// JavaScript, by package.json or a file `*.js`.
    JavaScript,
    /// Python, by a file `*.py`.
    Python,
    /// C, by a file `*.c`.
    C,
}

/// Reason why there is no component of a folder of sources.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// The folder holds no language that is known.
    #[error(
        "{}: no sources of a policy: there is no Cargo.toml, go.mod, package.json, *.js, *.py or *.c",
        text::path(.0)
    )]
    NoLanguage(PathBuf),
    /// The file in which the policy begins cannot be chosen.
    #[error("{}: several files could be the policy: name it {expected}", text::path(folder))]
    Entry {
        /// The folder.
        folder: PathBuf,
        /// Names of which one must exist.
        expected: &'static str,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {error}", text::path(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The folder has more files than the limit.
    #[error("{}: {}", text::path(.0), limits::SOURCE_FILES.says("", limits::SOURCE_FILES.default))]
    Files(PathBuf),
    /// A program of the toolchain is missing.
    #[error("{}: `{program}` is not on the path: {remedy}", text::path(folder))]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The program.
        program: String,
        /// The command that installs it.
        remedy: &'static str,
    },
    /// A program of the toolchain has failed.
    #[error("{}: `{command}` failed ({status})\n{output}", text::path(folder))]
    Failed {
        /// The folder.
        folder: PathBuf,
        /// The program with its first arguments.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// End of the output of the program, indented.
        output: String,
    },
    /// The toolchain has made no module.
    #[error("{}: the build has made no WebAssembly: {remedy}", text::path(folder))]
    NoModule {
        /// The folder.
        folder: PathBuf,
        /// The next step.
        remedy: &'static str,
    },
    /// The module does not make a policy.
    #[error("{}: {error}", text::path(folder))]
    Build {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        error: Box<BuildError>,
    },
}

impl SourcesError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> SourcesError {
        let path = path.to_owned();
        move |error| SourcesError::Io { path, error }
    }
}

/// A folder of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    folder: PathBuf,
    language: Language,
}

/// Files and folders whose changes may change the component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Files, sorted.
    pub files: Vec<PathBuf>,
    /// Folders in which further files may appear.
    pub folders: Vec<PathBuf>,
}

impl Sources {
    /// Finds the language of a folder.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or holds no language that is known.
    pub fn of(folder: &Path) -> Result<Sources, SourcesError> {
        let mut names = Vec::new();
        let entries = fs::read_dir(folder).map_err(SourcesError::io(folder))?;
        for entry in entries.take(limits::SOURCE_FILES.size()) {
            names.push(entry.map_err(SourcesError::io(folder))?.file_name());
        }
        let named = |name: &str| names.iter().any(|found| found == name);
        let with = |extension: &str| {
            names.iter().any(|name| Path::new(name).extension().is_some_and(|found| found == extension))
        };
        let language = match () {
            () if named("Cargo.toml") => Language::Rust,
            () if named("go.mod") => Language::Go,
            () if named("package.json") || with("js") => Language::JavaScript,
            () if with("py") => Language::Python,
            () if with("c") => Language::C,
            () => return Err(SourcesError::NoLanguage(folder.to_owned())),
        };
        Ok(Sources { folder: folder.to_owned(), language })
    }

    /// Returns the language.
    pub fn language(&self) -> Language {
        self.language
    }

    /// Returns the path of the component that [`Sources::build`] writes.
    pub fn component(&self) -> PathBuf {
        component_of(&self.folder)
    }

    /// Runs the toolchain, and writes the component if it has changed. The component is checked when it is
    /// loaded.
    ///
    /// # Errors
    /// Returns an error if a tool is missing or fails, or if its module does not fit the contract.
    pub fn build(&self) -> Result<Vec<u8>, SourcesError> {
        let target = self.target();
        fs::create_dir_all(&target).map_err(SourcesError::io(&target))?;
        let module = toolchain::build(self)?;
        let component = encoded(module)
            .map_err(|error| SourcesError::Build { folder: self.folder.clone(), error: Box::new(error) })?;
        let path = self.component();
        // A watcher must not see a change where there is none.
        if fs::read(&path).is_ok_and(|before| before == component) {
            return Ok(component);
        }
        super::build::write(&path, &component).map_err(SourcesError::io(&path))?;
        Ok(component)
    }

    /// Returns the files and folders whose changes may change the component. Names that begin with `.` and
    /// folders of dependencies are left out.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be read or the files exceed their limit.
    pub fn watched(&self) -> Result<Watched, SourcesError> {
        let mut watched = Watched::default();
        self.walk(&self.folder, &mut watched, DEPTH)?;
        watched.files.extend(toolchain::other_files(self));
        watched.files.sort();
        watched.files.dedup();
        Ok(watched)
    }

    fn walk(&self, folder: &Path, watched: &mut Watched, depth: usize) -> Result<(), SourcesError> {
        watched.folders.push(folder.to_owned());
        for entry in fs::read_dir(folder).map_err(SourcesError::io(folder))? {
            let entry = entry.map_err(SourcesError::io(folder))?;
            let (name, path) = (entry.file_name(), entry.path());
            let is_source =
                !name.as_encoded_bytes().starts_with(b".") && !BUILT.iter().any(|other| name == *other);
            if !is_source {
                continue;
            }
            if watched.files.len() + watched.folders.len() >= limits::SOURCE_FILES.size() {
                return Err(SourcesError::Files(self.folder.clone()));
            }
            // A link to a folder is no folder of these sources.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => self.walk(&path, watched, depth - 1)?,
                Ok(kind) if kind.is_dir() => return Err(SourcesError::Files(self.folder.clone())),
                _ => watched.files.push(path),
            }
        }
        Ok(())
    }

    fn target(&self) -> PathBuf {
        self.folder.join(TARGET)
    }

    /// Returns the names of the files of the folder itself that have an extension, sorted.
    fn files_with(&self, extension: &str) -> Result<Vec<String>, SourcesError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(SourcesError::io(&self.folder))? {
            let entry = entry.map_err(SourcesError::io(&self.folder))?;
            let is_wanted = entry.path().extension().is_some_and(|found| found == extension);
            if let (true, Ok(name)) = (is_wanted, entry.file_name().into_string()) {
                names.push(name);
            }
            if names.len() > limits::SOURCE_FILES.size() {
                return Err(SourcesError::Files(self.folder.clone()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the file in which the policy begins: one of `usual`, or the only file with the extension.
    fn entry(&self, usual: &[&str], extension: &str, expected: &'static str) -> Result<String, SourcesError> {
        let names = self.files_with(extension)?;
        if let Some(name) = usual.iter().find(|name| names.iter().any(|found| found == *name)) {
            return Ok((*name).to_owned());
        }
        match names.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(SourcesError::Entry { folder: self.folder.clone(), expected }),
        }
    }
}

/// Returns the path of the component of a folder of sources.
fn component_of(folder: &Path) -> PathBuf {
    folder.join(TARGET).join(COMPONENT)
}
