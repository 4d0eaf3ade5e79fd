//! `host inspect`

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Exit, Failure, Format, compiler, exit, read, say, say_json, settings, with_progress};
use crate::config::PolicyLimits;
use crate::limits;
use crate::policy::{Component, LoadError, Policy, World};
use crate::review::verdict::LogLine;
use crate::text;

/// Describe a policy, and tell whether it accepts its settings
///
/// The description has the policy's world, imports, size and digest, and tells whether its instances start
/// from a snapshot.
///
/// Without MODULE, list all limits of the host and of policies.
///
/// Exit status: 0 done, 2 usage, or the host would not load the policy. Everything that is known of the
/// policy is printed in any case.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The policy
    #[arg(value_name = "MODULE")]
    module: Option<PathBuf>,
    /// Settings of the policy, as YAML or JSON
    #[arg(long, value_name = "FILE", requires = "module")]
    settings: Option<PathBuf>,
    /// `json` has the same content for scripts
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "module")]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(inspect(&arguments))
}

fn inspect(arguments: &Arguments) -> Result<Exit, Failure> {
    let Some(module) = &arguments.module else {
        say(limits::columns().trim_end())?;
        return Ok(Exit::Yes);
    };
    let failed = |error: &dyn Display| Failure::broken(format_args!("{}: {error}", text::path(module)));
    let component = Component::new(read(module, limits::MODULE.default)?);
    let settings = settings(arguments.settings.as_deref())?;
    let world = World::of(&component.bytes).map_err(|error| failed(&error))?;
    let compiler = compiler(Exit::Broken)?;
    let until = Instant::now() + Duration::from_secs(3600);
    let loaded = with_progress("compiling", &[&text::path(module)], || {
        compiler.load(&component, &settings, &PolicyLimits::default(), until).inspect(|policy| {
            if policy.snapshot().is_none() {
                compiler.snapshot(policy, &component.bytes);
            }
        })
    });
    let error = loaded.as_ref().err().map(|error| match (error, &arguments.settings) {
        (LoadError::Settings(_), None) => format!("{error} (give it settings with --settings FILE)"),
        _ => error.to_string(),
    });
    let description = Description::of(&component, &world, loaded.as_deref().ok(), error.clone());
    match arguments.format {
        Format::Text => say(&description)?,
        Format::Json => say_json(&description)?,
    }
    match error {
        None => Ok(Exit::Yes),
        Some(error) => Err(failed(&error)),
    }
}

/// A policy, as far as it is known. The keys are in alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Description<'a> {
    /// Size of the component.
    bytes: usize,
    digest: &'a str,
    /// The reason why the host would not load the policy.
    error: Option<String>,
    exports: &'a [String],
    imports: &'a [String],
    /// Lines that the policy logged while it was configured. None if it does not load, as with the two
    /// fields below.
    log: Option<&'a [LogLine]>,
    native_bytes: Option<usize>,
    pure: bool,
    snapshot: Option<String>,
}

impl<'a> Description<'a> {
    fn of(
        component: &'a Component,
        world: &'a World,
        policy: Option<&'a Policy>,
        error: Option<String>,
    ) -> Description<'a> {
        let snapshot = policy.and_then(Policy::snapshot).map(|snapshot| match snapshot {
            Ok(()) => "yes".to_owned(),
            Err(why) => format!("no: {why}"),
        });
        Description {
            bytes: component.bytes.len(),
            digest: &component.digest,
            error,
            exports: &world.exports,
            imports: &world.imports,
            log: policy.map(Policy::load_log),
            native_bytes: policy.map(Policy::native_bytes),
            pure: world.is_pure(),
            snapshot,
        }
    }
}

impl Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNKNOWN: &str = "unknown (it does not load)";
        let list = |names: &[String]| match names {
            [] => "nothing".to_owned(),
            names => names.join("\n            "),
        };
        let native_bytes = self.native_bytes.map_or(UNKNOWN.to_owned(), |bytes| bytes.to_string());
        let pure = match self.pure {
            true => "yes: it can see nothing but the image, the context and its settings",
            false => "no: it asks for something that this host does not grant",
        };
        writeln!(f, "digest      {}", self.digest)?;
        writeln!(f, "bytes       {}", self.bytes)?;
        writeln!(f, "native code {native_bytes}")?;
        writeln!(f, "exports     {}", list(self.exports))?;
        writeln!(f, "imports     {}", list(self.imports))?;
        writeln!(f, "pure        {pure}")?;
        write!(f, "snapshot    {}", self.snapshot.as_deref().unwrap_or(UNKNOWN))?;
        for line in self.log.unwrap_or_default() {
            write!(f, "\nlog         {}", line.message)?;
        }
        Ok(())
    }
}
