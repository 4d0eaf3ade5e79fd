//! The Go program: cel-go, and the tests of cel-spec.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// The result of an expression: a value with its type, or the stage that failed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) value: Option<Value>,
    #[serde(default)]
    pub(crate) failed: Option<String>,
    #[serde(default)]
    pub(crate) error: String,
}

/// A conformance test.
#[derive(Debug, Deserialize)]
pub(crate) struct Test {
    /// File, section and name.
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) container: String,
    pub(crate) macros: bool,
    pub(crate) bindings: Map<String, Value>,
    pub(crate) expected: Answer,
}

/// The built program.
pub(crate) struct Upstream(PathBuf);

impl Upstream {
    /// Builds the program, with the versions of go.mod and go.sum.
    pub(crate) fn build() -> Result<Upstream> {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cel-upstream");
        run(go(&["build", "-o"]).arg(&program).arg("."))?;
        Ok(Upstream(program))
    }

    /// Returns the tests of cel-spec that have no messages of a user.
    pub(crate) fn conformance(&self) -> Result<Vec<Test>> {
        let folder = String::from_utf8(run(&mut go(&["list", "-m", "-f", "{{.Dir}}", "cel.dev/expr"]))?)?;
        let folder = Path::new(folder.trim()).join("tests/simple/testdata");
        lines(&run(Command::new(&self.0).arg("conformance").arg(folder))?)
    }

    /// Evaluates expressions, each with its variables.
    pub(crate) fn evaluate(&self, inputs: &[Value]) -> Result<Vec<Answer>> {
        let mut child =
            Command::new(&self.0).arg("evaluate").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        let text: String = inputs.iter().map(|line| format!("{line}\n")).collect();
        let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "upstream.go failed: {}", output.status);
        writing.join().ok().context("writing the expressions panicked")??;
        let answers: Vec<Answer> = lines(&output.stdout)?;
        ensure!(answers.len() == inputs.len(), "{} lines for {}", answers.len(), inputs.len());
        Ok(answers)
    }
}

fn lines<T: DeserializeOwned>(output: &[u8]) -> Result<Vec<T>> {
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
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
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}
