//! A Go program in the folder of a test's package: its build, with the versions of go.mod, and its answers to
//! lines on its standard input. Packages whose tests need such a program include this file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

/// The built program.
pub(crate) struct Program(PathBuf);

impl Program {
    /// Builds the program, with the versions of go.mod and go.sum.
    pub(crate) fn build(name: &str) -> Result<Program> {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        run(go(&["build", "-o"]).arg(&program).arg("."))?;
        Ok(Program(program))
    }

    /// Runs the program over the folder of a module, and returns its output.
    pub(crate) fn over(&self, argument: &str, module: &str, folder: &str) -> Result<Vec<u8>> {
        let sources = String::from_utf8(run(&mut go(&["list", "-m", "-f", "{{.Dir}}", module]))?)?;
        run(Command::new(&self.0).arg(argument).arg(Path::new(sources.trim()).join(folder)))
    }

    /// Returns the program's answers to the lines of its standard input, one for each.
    pub(crate) fn answers<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
        input: &[String],
    ) -> Result<Vec<T>> {
        let mut command = Command::new(&self.0);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let text: String = input.iter().map(|line| format!("{line}\n")).collect();
        let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "upstream.go failed: {}", output.status);
        writing.join().ok().context("writing the lines panicked")??;
        let answers = lines(&output.stdout)?;
        ensure!(answers.len() == input.len(), "{} answers to {} lines", answers.len(), input.len());
        Ok(answers)
    }
}

/// Reads JSON values, one a line.
pub(crate) fn lines<T: DeserializeOwned>(output: &[u8]) -> Result<Vec<T>> {
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
}

fn go(arguments: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
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
