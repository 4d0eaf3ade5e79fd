//! The Go program that reads references.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");
const MODULE: &str = "github.com/distribution/reference";

/// The fields of a reference in normal form.
#[derive(Debug, Deserialize)]
pub(crate) struct Fields {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    error: Option<String>,
    #[serde(flatten)]
    fields: Fields,
}

/// The built program.
pub(crate) struct Upstream(PathBuf);

impl Upstream {
    /// Builds the program, with the versions of go.mod and go.sum.
    pub(crate) fn build() -> Result<Upstream> {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference-upstream");
        run(go(&["build", "-o"]).arg(&program).arg("."))?;
        Ok(Upstream(program))
    }

    /// Returns the strings in the tests of upstream, among them its tables of references.
    pub(crate) fn tables(&self) -> Result<Vec<String>> {
        let folder = run(&mut go(&["list", "-m", "-f", "{{.Dir}}", MODULE]))?;
        let folder = String::from_utf8(folder)?;
        let tables = run(Command::new(&self.0).arg("tables").arg(folder.trim()))?;
        Ok(serde_json::from_slice(&tables)?)
    }

    /// Returns upstream's fields of each of `references`. None stands for a rejected one.
    pub(crate) fn read(&self, references: &[String]) -> Result<Vec<Option<Fields>>> {
        let mut child = Command::new(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        let lines: Vec<_> = references.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let writing = std::thread::spawn(move || input.write_all((lines.join("\n") + "\n").as_bytes()));
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "upstream.go failed: {}", output.status);
        writing.join().ok().context("writing the references panicked")??;
        let read: Vec<_> = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                let Line { error, fields } = serde_json::from_slice(line)?;
                Ok(error.is_none().then_some(fields))
            })
            .collect::<Result<_>>()?;
        ensure!(read.len() == references.len(), "{} lines for {} references", read.len(), references.len());
        Ok(read)
    }
}

fn go(arguments: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(arguments).current_dir(PACKAGE);
    command
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| {
        format!("{command:?} does not start: Go 1.26 or later is needed (https://go.dev/dl)")
    })?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): it needs a Go module proxy or its cache",
        output.status
    );
    Ok(output.stdout)
}
