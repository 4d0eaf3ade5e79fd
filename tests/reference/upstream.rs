//! The Go program that reads references.

use anyhow::Result;
use serde::Deserialize;

use crate::go::Program;

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
pub(crate) struct Upstream(Program);

impl Upstream {
    /// Builds the program.
    pub(crate) fn build() -> Result<Upstream> {
        Ok(Upstream(Program::build("reference-upstream")?))
    }

    /// Returns the strings in the tests of upstream, among them its tables of references.
    pub(crate) fn tables(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_slice(&self.0.over("tables", MODULE, "")?)?)
    }

    /// Returns upstream's fields of each of `references`. None stands for a rejected one.
    pub(crate) fn read(&self, references: &[String]) -> Result<Vec<Option<Fields>>> {
        let input: Vec<_> = references.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let read: Vec<Line> = self.0.answers(&[], &input)?;
        Ok(read.into_iter().map(|Line { error, fields }| error.is_none().then_some(fields)).collect())
    }
}
