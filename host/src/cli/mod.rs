//! The command line: one file a verb. Only this module prints.

mod approve;
mod bench;
mod build;
mod color;
mod completions;
mod exit;
mod help;
mod inspect;
mod interrupt;
mod log;
mod man;
mod review;
mod rollback;
mod schema;
mod serve;
mod status;
mod terminal;
mod test;

use std::fmt::Display;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ColorChoice, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::exit::{Exit, Failure, exit};
use self::terminal::{say, say_json, tell, with_progress};
use crate::config::yaml;
use crate::config::{Config, ConfigError, PolicyConfig, PolicyName};
use crate::limits;
use crate::policy::{COMPILE, Cache, Compiler, Engine, PolicySet, Purpose, serve_request};
use crate::problem::Problem;
use crate::reload::{Done, Fallback, assemble};
use crate::serve::control::{self, Answer, Request};
use crate::serve::status::warnings;
use crate::text;

/// A policy host for container images in Kubernetes: the backend of the kube-apiserver's ImagePolicyWebhook,
/// with policies that are WebAssembly components.
#[derive(Parser)]
#[command(name = "host", version, max_term_width = 110)]
struct Arguments {
    /// Colours; `auto` is for terminals, and respects NO_COLOR, CLICOLOR and CLICOLOR_FORCE
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true, display_order = 100)]
    color: ColorChoice,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Arguments),
    Status(status::Arguments),
    Rollback(rollback::Arguments),
    Approve(approve::Arguments),
    Review(review::Arguments),
    Test(test::Arguments),
    Build(build::Arguments),
    Inspect(inspect::Arguments),
    Bench(bench::Arguments),
    Schema(schema::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// The form of a verb's output.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Parses the arguments and runs the verb.
pub fn run() -> ExitCode {
    // Checked before arguments are parsed, because it is no verb for people.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == COMPILE) {
        return exit(compile());
    }
    color::set(color::of_arguments(std::env::args_os()));
    let matches = help::command().get_matches();
    let Arguments { color, verb } =
        Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    color::set(color);
    match verb {
        Verb::Serve(arguments) => serve::run(arguments),
        Verb::Status(arguments) => status::run(arguments),
        Verb::Rollback(arguments) => rollback::run(arguments),
        Verb::Approve(arguments) => approve::run(arguments),
        Verb::Review(arguments) => interrupt::run(|| review::run(arguments)),
        Verb::Test(arguments) => interrupt::run(|| test::run(arguments)),
        Verb::Build(arguments) => interrupt::run(|| build::run(arguments)),
        Verb::Inspect(arguments) => interrupt::run(|| inspect::run(arguments)),
        Verb::Bench(arguments) => interrupt::run(|| bench::run(arguments)),
        Verb::Schema(arguments) => schema::run(arguments),
        Verb::Completions(arguments) => completions::run(&arguments),
        Verb::Man(arguments) => man::run(&arguments),
    }
}

/// Compiles a component, as the child process that the host starts.
fn compile() -> Result<Exit, Failure> {
    let failed = |error| {
        let message = "is a verb of the host's own child processes, which read a request from standard input";
        Failure::broken(format_args!("`{COMPILE}` {message}: {error}"))
    };
    serve_request(io::stdin().lock(), io::stdout().lock()).map_err(failed)?;
    Ok(Exit::Yes)
}

/// Returns the failure for a broken host.yaml or settings file. A terminal gets the lines of the file too.
fn broken_config(error: ConfigError) -> Failure {
    match io::stderr().is_terminal() {
        true => Failure::broken(error.with_excerpts()),
        false => Failure::broken(error),
    }
}

/// The form of a running host's response.
#[derive(clap::Args)]
struct Output {
    /// `json` has the same content for scripts
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Output {
    fn is_json(&self) -> bool {
        self.json || matches!(self.format, Format::Json)
    }
}

/// The running host that gets the request, by its state directory, which holds its control socket.
#[derive(clap::Args)]
struct RunningHost {
    /// host.yaml of the running host [default: host.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory of the running host, if its host.yaml cannot be read
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
}

impl RunningHost {
    fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        if let Some(folder) = &self.state {
            return control::ask(folder, request).map_err(Failure::broken);
        }
        let path = self.config.as_deref().unwrap_or(Path::new("host.yaml"));
        let config = Config::read(path).map_err(|error| {
            Failure::broken(format_args!("{error}\n--state DIR names a host whose host.yaml cannot be read"))
        })?;
        match &config.state_directory {
            Some(folder) => control::ask_host(folder, config.admin_listen, request).map_err(Failure::broken),
            None => Err(Failure::broken(format_args!(
                "{}: a host without `stateDirectory` has no control socket: set it, and restart the host",
                text::path(path)
            ))),
        }
    }

    /// Sends an order to the host, and prints the result.
    fn order(&self, request: &Request, output: &Output) -> Result<Exit, Failure> {
        match self.ask(request)? {
            Answer::Done(done) if output.is_json() => say_json(&done)?,
            Answer::Done(Done { generation, message }) => {
                say(format_args!("generation {generation}: {message}"))?
            }
            Answer::Refused(why) => return Err(Failure::new(Exit::No, why)),
            other @ Answer::Status(_) => {
                return Err(another_answer(&other));
            }
        }
        Ok(Exit::Yes)
    }
}

/// Returns the failure for an answer of another kind than the request asks for.
fn another_answer(answer: &Answer) -> Failure {
    Failure::broken(format_args!("the host sent another response: {answer:?}"))
}

/// Returns the name of a file for messages.
fn named(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { text::path(path) }
}

/// Reads a file, a pipe, or standard input (`-`), up to `bytes` bytes.
fn read(path: &Path, bytes: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn Display| Failure::broken(format_args!("{}: {error}", named(path)));
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = std::fs::File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed(&format!("{error}: put it there, or name another file")),
            _ => failed(&error),
        });
        Box::new(file?)
    };
    let mut content = Vec::new();
    reader.take(bytes + 1).read_to_end(&mut content).map_err(|error| failed(&error))?;
    if content.len() as u64 > bytes {
        return Err(failed(&format!("it is larger than {} MiB", bytes >> 20)));
    }
    Ok(content)
}

/// One policy from the command line instead of a host.yaml.
#[derive(clap::Args)]
struct OnePolicy {
    /// Policy that judges, instead of those of a host.yaml
    #[arg(long, value_name = "FILE.wasm", conflicts_with = "config")]
    policy: Option<PathBuf>,
    /// Settings of the policy, as YAML or JSON
    #[arg(long, value_name = "FILE", requires = "policy")]
    settings: Option<PathBuf>,
}

impl OnePolicy {
    /// Returns a configuration with this policy alone. Returns None without `--policy`.
    fn config(&self) -> Result<Option<Config>, Failure> {
        let Some(module) = &self.policy else { return Ok(None) };
        let stem = module.file_stem().unwrap_or_default().to_string_lossy();
        let name = PolicyName::nearest(&stem).map_or_else(|| PolicyName::try_from("policy"), Ok);
        let name = name.map_err(Failure::broken)?;
        let mut policy = PolicyConfig::bare(name, module.clone());
        if let Some(path) = &self.settings {
            let bytes = read(path, limits::SETTINGS_FILE.default)?;
            let added = policy.add_settings(path, &bytes, &Config::default());
            added.map_err(broken_config)?;
        }
        Ok(Some(Config::for_policies(vec![policy])))
    }
}

/// Returns the settings in a file, or an empty object without one.
fn settings(path: Option<&Path>) -> Result<Value, Failure> {
    let Some(path) = path else { return Ok(json!({})) };
    Ok(parse_yaml(path, &read(path, limits::SETTINGS_FILE.default)?)?.value)
}

fn parse_yaml(path: &Path, bytes: &[u8]) -> Result<yaml::Document, Failure> {
    yaml::Document::parse(bytes).map_err(|error| {
        let lines: Vec<_> =
            error.problems.iter().map(|problem| format!("{}:{problem}", named(path))).collect();
        Failure::broken(lines.join("\n"))
    })
}

/// Returns the compiler for verbs that run policies. Its caches are in the user's cache folder, so each
/// component is compiled once, and an edited component only where it has changed. `exit` is the status of a
/// failure.
fn compiler(exit: Exit) -> Result<Compiler, Failure> {
    author_compiler(Snapshots::None, exit)
}

/// Returns a compiler for an author, who waits. An edited component is compiled again only where it has
/// changed.
fn author_compiler(snapshots: Snapshots, exit: Exit) -> Result<Compiler, Failure> {
    let failed = |message: &dyn Display| Failure::new(exit, message);
    let no_folder = |error| failed(&format_args!("there is no folder to compile in: {error}"));
    let cache = user_cache("", limits::CACHE).map_err(no_folder)?;
    let functions = user_cache("functions", limits::FUNCTION_CACHE).map_err(no_folder)?;
    let engine = Engine::new(Purpose::Serve { policies: 0 }).map_err(|error| failed(&error))?;
    let snapshots = snapshots == Snapshots::Taken;
    Compiler::for_author(engine, cache, functions, Compiler::this_program(), snapshots)
        .map_err(|error| failed(&format_args!("policies cannot be compiled on this machine: {error}")))
}

/// Opens a folder in the user's cache folder as a cache, or makes a temporary one.
fn user_cache(folder: &str, limit: limits::Limit) -> io::Result<Cache> {
    let path = Cache::user_folder().map(|cache| cache.join(folder));
    let cache = path.and_then(|path| Cache::open(&path, limit.default).ok());
    cache.map_or_else(|| Cache::temporary(limit.default), Ok)
}

/// Whether policies start from snapshots of their configured state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshots {
    /// Only from those in the cache.
    None,
    /// The snapshots are taken while the policies already judge.
    Taken,
}

/// Returns a compiler that knows no policy and compiles as the server does, into a temporary folder.
fn server_compiler(exit: Exit) -> Result<Compiler, Failure> {
    let failed = |message: &dyn Display| Failure::new(exit, message);
    let engine = Engine::new(Purpose::Serve { policies: 1 }).map_err(|error| failed(&error))?;
    let cache = Cache::temporary(limits::CACHE.default);
    let cache = cache.map_err(|error| failed(&format_args!("there is no folder to compile in: {error}")))?;
    Compiler::new(engine, cache, Compiler::this_program(), false)
        .map_err(|error| failed(&format_args!("policies cannot be compiled on this machine: {error}")))
}

/// Loads every policy of `config`. Prints each warning to standard error. The failure has a line for each
/// policy that cannot be loaded.
fn load(config: &Config, exit: Exit) -> Result<PolicySet, Failure> {
    let compiler = compiler(exit)?;
    let names: Vec<_> = config.policies.iter().map(|policy| policy.name.as_str()).collect();
    let candidate = with_progress("compiling", &names, || {
        assemble(&compiler, config, Fallback::None, &mut Default::default())
    });
    let candidate = candidate.map_err(|problem| Failure::new(exit, problem))?;
    if candidate.problems.is_empty() {
        for warning in warnings(&candidate.set) {
            tell(&format!("warning: {warning}"));
        }
        return Ok(candidate.set);
    }
    let problems: Vec<_> = candidate.problems.iter().map(Problem::to_string).collect();
    Err(Failure::new(exit, problems.join("\n")))
}
