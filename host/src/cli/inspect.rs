//! `host inspect`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Failure, Format, exit, preparer, read, say, settings};
use crate::config::PolicyLimits;
use crate::limits;
use crate::policy::{Component, LoadError, Policy, World};
use crate::text;

const BROKEN: u8 = 2;

/// Tell what a policy is: its world, imports, size and digest, whether it takes its settings, and whether instances
/// start from a snapshot
///
/// Without MODULE, list all limits of the host and of policies.
///
/// Exit status: 0 told, 2 usage, or the host would not load the policy; what can be told of it is told all the same.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The policy
    #[arg(value_name = "MODULE")]
    module: Option<PathBuf>,
    /// Settings of the policy, as YAML or JSON
    #[arg(long, value_name = "FILE", requires = "module")]
    settings: Option<PathBuf>,
    /// `json` carries the same for scripts
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "module")]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(inspect(&arguments))
}

fn inspect(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Some(module) = &arguments.module else {
        say(limits::columns().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(BROKEN, format!("{}: {error}", text::path(module)));
    let component = Component::new(read(module, limits::MODULE.default)?);
    let settings = settings(arguments.settings.as_deref())?;
    let world = World::of(&component.bytes).map_err(|error| failed(&error))?;
    let preparer = preparer().map_err(|message| Failure::new(BROKEN, message))?;
    let until = Instant::now() + Duration::from_secs(3600);
    let loaded = preparer.load(&component, &settings, &PolicyLimits::default(), until).inspect(|policy| {
        if policy.snapshot().is_none() {
            preparer.snapshot(policy, &component.bytes);
        }
    });
    let error = loaded.as_ref().err().map(|error| match (error, &arguments.settings) {
        (LoadError::Settings(_), None) => format!("{error} (give it settings with --settings FILE)"),
        _ => error.to_string(),
    });
    let told = told(&component, &world, loaded.as_deref().ok(), error.as_deref());
    match arguments.format {
        Format::Text => say(in_text(&told))?,
        Format::Json => say(format_args!("{told:#}"))?,
    }
    match error {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(failed(&error)),
    }
}

fn told(component: &Component, world: &World, policy: Option<&Policy>, error: Option<&str>) -> Value {
    let snapshot = policy.and_then(Policy::snapshot).map(|snapshot| match snapshot {
        Ok(()) => "yes".to_owned(),
        Err(why) => format!("no: {why}"),
    });
    json!({
        "digest": component.digest,
        "bytes": component.bytes.len(),
        "exports": world.exports,
        "imports": world.imports,
        "pure": world.is_pure(),
        "nativeBytes": policy.map(Policy::native_bytes),
        "snapshot": snapshot,
        "log": policy.map(Policy::load_log),
        "error": error,
    })
}

fn in_text(told: &Value) -> String {
    let text = |key: &str| match told.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "unknown (it does not load)".to_owned(),
        Some(other) => other.to_string(),
    };
    let list = |key: &str| {
        let items = told.get(key).and_then(Value::as_array).into_iter().flatten();
        let items: Vec<_> = items.filter_map(Value::as_str).collect();
        if items.is_empty() { "nothing".to_owned() } else { items.join("\n            ") }
    };
    let pure = if told.get("pure") == Some(&Value::Bool(true)) {
        "yes: it can see nothing but the image, the context and its settings"
    } else {
        "no: it asks for something that this host does not grant"
    };
    let mut lines = vec![
        format!("digest      {}", text("digest")),
        format!("bytes       {}", text("bytes")),
        format!("native code {}", text("nativeBytes")),
        format!("exports     {}", list("exports")),
        format!("imports     {}", list("imports")),
        format!("pure        {pure}"),
        format!("snapshot    {}", text("snapshot")),
    ];
    let log = told.get("log").and_then(Value::as_array).into_iter().flatten();
    lines.extend(
        log.filter_map(|line| line.get("message"))
            .filter_map(Value::as_str)
            .map(|line| format!("log         {line}")),
    );
    lines.join("\n")
}
