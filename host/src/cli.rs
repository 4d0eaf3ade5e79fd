//! The command line: one file a verb. Only here is anything printed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod build;
mod review;
mod schema;
mod serve;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, PolicyConfig, PolicyName};
use crate::policy::{Engine, PolicySet};
use crate::reload::{Before, assemble};
use crate::yaml;

/// A policy host for container images in Kubernetes: the backend of the kube-apiserver's ImagePolicyWebhook, with
/// policies that are WebAssembly components.
#[derive(Parser)]
#[command(name = "host", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Arguments),
    Review(review::Arguments),
    Test(test::Arguments),
    Build(build::Arguments),
    Schema(schema::Arguments),
}

/// Parses the arguments and runs the verb.
pub fn run() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Serve(arguments) => serve::run(arguments),
        Verb::Review(arguments) => review::run(arguments),
        Verb::Test(arguments) => test::run(arguments),
        Verb::Build(arguments) => build::run(arguments),
        Verb::Schema(arguments) => schema::run(arguments),
    }
}

/// Something that the caller has to put right. The status is the verb's own.
struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    fn new(status: u8, message: impl std::fmt::Display) -> Failure {
        Failure { status, message: message.to_string() }
    }
}

/// The exit code of a verb that may fail, after its message.
fn exit(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|Failure { status, message }| {
        for line in message.lines() {
            eprintln!("host: {line}");
        }
        ExitCode::from(status)
    })
}

/// One policy from the command line instead of a host.yaml.
#[derive(clap::Args)]
struct OnePolicy {
    /// A policy to judge by, instead of those of a host.yaml
    #[arg(long, value_name = "FILE.wasm", conflicts_with = "config")]
    policy: Option<PathBuf>,
    /// Settings of the policy, as YAML or JSON
    #[arg(long, value_name = "FILE", requires = "policy")]
    settings: Option<PathBuf>,
}

impl OnePolicy {
    /// A configuration that holds the policy alone; none where none was given.
    fn config(&self, status: u8) -> Result<Option<Config>, Failure> {
        let Some(module) = &self.policy else { return Ok(None) };
        let stem = module.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
        let name: String =
            stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
        let name = PolicyName::try_from(name.trim_matches('-')).or_else(|_| PolicyName::try_from("policy"));
        let name = name.map_err(|error| Failure::new(status, error))?;
        let mut policy = PolicyConfig::bare(name, module.clone());
        if let Some(path) = &self.settings {
            let bytes = std::fs::read(path)
                .map_err(|error| Failure::new(status, format!("{}: {error}", path.display())))?;
            let document = yaml::Document::parse(&bytes)
                .map_err(|error| Failure::new(status, format!("{}:{error}", path.display())))?;
            policy.settings = document.value;
        }
        Ok(Some(Config::for_policies(vec![policy])))
    }
}

/// Loads every policy of `config`; each one that cannot be loaded is told.
fn load(config: &Config, status: u8) -> Result<PolicySet, Failure> {
    let engine = Engine::new().map_err(|error| Failure::new(status, error))?;
    let candidate = assemble(&engine, config, Before::Nothing, &mut Default::default())
        .map_err(|problem| Failure::new(status, problem))?;
    if candidate.problems.is_empty() {
        return Ok(candidate.set);
    }
    let problems: Vec<_> = candidate.problems.iter().map(ToString::to_string).collect();
    Err(Failure::new(status, problems.join("\n")))
}
