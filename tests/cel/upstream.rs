//! The Go program: cel-go, and the tests of cel-spec.

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::go::{self, Program};

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
pub(crate) struct Upstream(Program);

impl Upstream {
    /// Builds the program.
    pub(crate) fn build() -> Result<Upstream> {
        Ok(Upstream(Program::build("cel-upstream")?))
    }

    /// Returns the tests of cel-spec that have no messages of a user.
    pub(crate) fn conformance(&self) -> Result<Vec<Test>> {
        go::lines(&self.0.over("conformance", "cel.dev/expr", "tests/simple/testdata")?)
    }

    /// Evaluates expressions, each with its variables.
    pub(crate) fn evaluate(&self, inputs: &[Value]) -> Result<Vec<Answer>> {
        let input: Vec<_> = inputs.iter().map(Value::to_string).collect();
        self.0.answers(&["evaluate"], &input)
    }
}
