//! Keys of the cache's entries: digests of everything that compiled code was made from.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::config::PolicyLimits;
use crate::policy::sandbox::engine::Engine;
use crate::policy::sandbox::native::digest;

/// Makes the keys of one build of the program. Builds share no entry, so a build with a mended compiler
/// compiles again everything that a faulty one made.
pub(super) struct Keys {
    build: String,
}

impl Keys {
    /// Returns the keys for code that `program` compiles for `engine`.
    pub(super) fn of(engine: &Engine, program: &Path) -> Keys {
        let file = match std::fs::metadata(program) {
            Ok(file) => format!("{} {} {} {}", file.len(), file.mtime(), file.mtime_nsec(), file.ino()),
            // Unique, so that no code of another build is used.
            Err(_) => format!("{:?} {}", SystemTime::now(), std::process::id()),
        };
        let build = format!("{} {:016x} {file}", env!("CARGO_PKG_VERSION"), engine.compatibility());
        Keys { build }
    }

    /// Returns keys of their own for the verbs of authors.
    pub(super) fn for_author(self) -> Keys {
        Keys { build: format!("author {}", self.build) }
    }

    /// Returns the identity of the build.
    pub(super) fn build(&self) -> &str {
        &self.build
    }

    /// Returns the key of the code of a component, by the component's digest.
    pub(super) fn compiled(&self, component: &str) -> String {
        digest(format!("compiled\n{}\n{component}", self.build).as_bytes())
    }

    /// Returns the key of the snapshot of a component with these settings and limits.
    pub(super) fn configured(&self, component: &str, settings: &str, limits: &PolicyLimits) -> String {
        let limits = serde_json::to_string(limits).unwrap_or_default();
        digest(format!("configured\n{}\n{component}\n{limits}\n{settings}", self.build).as_bytes())
    }
}
