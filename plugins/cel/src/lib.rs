//! Rules in CEL without a build: the settings are the `spec` of a ValidatingAdmissionPolicy.
//!
//! `configure` refuses all that can be known before a review: mistakes of the syntax, names that lead
//! nowhere, results of the wrong type, and an expression that fails on each of a few images. An expression
//! that fails in a review is a malfunction, never a rule that does not apply.

use std::fmt;
use std::sync::Arc;

use cel_interpreter::{Context as Scope, Env, ExecutionError, IdedExpr, Value};
use image_reference::shorten;

use crate::contract::{Context, Decision, Image, Outcome, SettingsError};
use crate::document::Document;
use crate::settings::MESSAGE;

pub mod contract;
pub mod document;
pub mod functions;
pub mod load;
pub mod names;
pub mod settings;
pub mod shapes;
pub mod source;
pub mod words;

/// Limit of the words for a failure, in characters.
const FAILURE: usize = 300;

/// An expression that is ready to run.
#[derive(Debug)]
pub struct Expression {
    /// The place in the settings, for messages.
    pointer: String,
    /// The text, for messages.
    text: String,
    /// The expression.
    tree: IdedExpr,
}

/// An expression with a name or a key.
#[derive(Debug)]
struct Named {
    name: String,
    expression: Expression,
}

/// A rule.
#[derive(Debug)]
struct Rule {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    code: String,
}

/// A policy with its settings.
pub struct Policy {
    env: Arc<Env>,
    params: Box<dyn cel_interpreter::common::value::Val>,
    variables: Vec<Named>,
    conditions: Vec<Named>,
    rules: Vec<Rule>,
    annotations: Vec<Named>,
    warnings: Vec<String>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// The failure of an expression in a review.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The expression at this pointer failed.
    Failed(String, ExecutionError),
    /// The expression at this pointer gave another type than the one that is wanted.
    Type {
        /// The pointer.
        pointer: String,
        /// The type that is wanted.
        wanted: &'static str,
        /// The type of the value.
        found: String,
    },
}

impl Failure {
    /// Returns the pointer of the expression.
    fn pointer(&self) -> &str {
        match self {
            Failure::Failed(pointer, _) | Failure::Type { pointer, .. } => pointer,
        }
    }

    /// Returns the sentence without the place.
    fn words(&self) -> String {
        match self {
            Failure::Failed(_, error) => message(error),
            Failure::Type { wanted, found, .. } => format!("wanted {wanted}, found a value of type {found}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "settings{}: {}", self.pointer(), self.words())
    }
}

impl std::error::Error for Failure {}

/// Returns the words for the failure of an expression.
pub fn message(error: &ExecutionError) -> String {
    let text = match error {
        ExecutionError::NoSuchKey(key) => format!("there is no `{key}`: ask with `has` or `.?{key}` before"),
        ExecutionError::FunctionError { function, message } => format!("`{function}`: {message}"),
        ExecutionError::NoSuchOverload(overload) => {
            let types = overload.argument_types().join(", ");
            format!("`{}` does not take ({types})", overload.function())
        }
        other => other.to_string(),
    };
    // An error of a regular expression has several lines.
    let line: Vec<&str> = text.split_whitespace().collect();
    shorten(&line.join(" "), FAILURE).into_owned()
}

/// The values of `variables` that could not be made.
type Missing = Vec<(String, Failure)>;

impl Policy {
    /// Reads the settings.
    ///
    /// # Errors
    /// All mistakes, up to 32.
    pub fn read(settings: &str) -> Result<Self, Vec<SettingsError>> {
        let (settings, mistakes) = settings::read(settings);
        load::policy(settings, mistakes)
    }

    /// Returns the warnings about the settings.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Judges one image.
    ///
    /// # Errors
    /// The failure of an expression, if no rule that could be evaluated denies the image.
    pub fn judge(&self, image: &Image, context: &Context) -> Result<Decision, Failure> {
        let document = Document::new(image, context, self.params.as_ref());
        let mut scope = self.scope(&document);
        if let Some(name) = self.unmet(&scope)? {
            let reason = format!("match condition {} does not hold", shorten(name, FAILURE));
            return Ok(decision(Outcome::Abstain, "not-matched", reason));
        }
        let missing = self.variables(&mut scope);
        let mut denied: Option<Decision> = None;
        let mut failed = None;
        for rule in &self.rules {
            match truth(&rule.expression, &scope, &missing) {
                Ok(true) => {}
                Ok(false) => {
                    let reason = rule.reason(&scope);
                    match &mut denied {
                        None => denied = Some(decision(Outcome::Deny, &rule.code, reason)),
                        Some(first) => {
                            first.reason.push_str("; ");
                            first.reason.push_str(&reason);
                        }
                    }
                }
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        let mut decided = match (denied, failed) {
            (Some(denied), _) => denied,
            (None, Some(failure)) => return Err(failure),
            (None, None) => decision(Outcome::Allow, "valid", "every validation holds".to_owned()),
        };
        decided.reason = line(&decided.reason, MESSAGE);
        for annotation in &self.annotations {
            match annotation_value(&annotation.expression, &scope, &missing) {
                Ok(Some(value)) => decided.audit_annotations.push((annotation.name.clone(), value)),
                Ok(None) => {}
                // A denial does not become a malfunction.
                Err(failure) if decided.outcome != Outcome::Deny => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(decided)
    }

    /// Returns a scope with the variables that are always there.
    fn scope<'v>(&self, document: &'v Document<'_>) -> Scope<'v, 'v> {
        let mut scope = Scope::with_env(Arc::clone(&self.env));
        scope.set_variable_resolver(document);
        scope
    }

    /// Returns the name of a match condition that does not hold. As in Kubernetes, it counts more than one
    /// that fails.
    fn unmet(&self, scope: &Scope<'_, '_>) -> Result<Option<&str>, Failure> {
        let mut failed = None;
        for condition in &self.conditions {
            match truth(&condition.expression, scope, &Missing::new()) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(&condition.name)),
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Adds the values of `variables` to the scope. A value that could not be made fails only the expressions
    /// that need it.
    fn variables(&self, scope: &mut Scope<'_, '_>) -> Missing {
        let mut missing = Missing::new();
        for variable in &self.variables {
            let name = format!("variables.{}", variable.name);
            let value = variable.expression.value(scope, &missing).map(|value| value.into_owned());
            match value {
                Ok(value) => scope.add_variable_as_val(name, value),
                Err(failure) => missing.push((name, failure)),
            }
        }
        missing
    }
}

/// Describes the policy for the log.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.rules.len(), "validation"),
            (self.conditions.len(), "match condition"),
            (self.variables.len(), "variable"),
        ];
        let mut separator = "";
        for (count, name) in counts {
            if count > 0 {
                write!(f, "{separator}{count} {name}{}", if count == 1 { "" } else { "s" })?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl Expression {
    /// Evaluates the expression.
    fn value<'e, 'v>(
        &'e self,
        scope: &'e Scope<'_, 'v>,
        missing: &Missing,
    ) -> Result<cel_interpreter::common::value::CowVal<'e, 'v>, Failure> {
        Value::resolve_val(&self.tree, scope).map_err(|error| match &error {
            // `variables.NAME` without a value: the failure of the variable is the cause.
            ExecutionError::UndeclaredReference(name) if name.as_str() == "variables" => missing
                .iter()
                .find(|(name, _)| self.text.contains(name.as_str()))
                .or(missing.first())
                .map_or_else(
                    || Failure::Failed(self.pointer.clone(), error.clone()),
                    |(_, cause)| cause.clone(),
                ),
            _ => Failure::Failed(self.pointer.clone(), error),
        })
    }

    fn wrong_type(&self, wanted: &'static str, found: &str) -> Failure {
        Failure::Type { pointer: self.pointer.clone(), wanted, found: found.to_owned() }
    }
}

impl Rule {
    /// Returns the reason of a denial. As in Kubernetes, `message` counts where `messageExpression` gives no
    /// line.
    fn reason(&self, scope: &Scope<'_, '_>) -> String {
        let made = self.message_expression.as_ref().and_then(|made| text(made, scope, &Missing::new()).ok());
        made.filter(|made| !made.trim().is_empty() && !made.contains('\n'))
            .unwrap_or_else(|| self.message.clone())
    }
}

fn decision(outcome: Outcome, code: &str, reason: String) -> Decision {
    Decision { outcome, code: code.to_owned(), reason, audit_annotations: Vec::new(), warnings: Vec::new() }
}

/// Returns the beginning of a line that fits into so many bytes.
fn line(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Returns the value of an expression that has to be true or false.
fn truth(expression: &Expression, scope: &Scope<'_, '_>, missing: &Missing) -> Result<bool, Failure> {
    use cel_interpreter::common::types::CelBool;
    let value = expression.value(scope, missing)?;
    let truth = value.downcast_ref::<CelBool>().map(|value| *value.inner());
    truth.ok_or_else(|| expression.wrong_type("true or false", value.get_type().name()))
}

/// Returns the value of an expression that has to be a string.
fn text(expression: &Expression, scope: &Scope<'_, '_>, missing: &Missing) -> Result<String, Failure> {
    use cel_interpreter::common::types::CelString;
    let value = expression.value(scope, missing)?;
    let text = value.downcast_ref::<CelString<'_>>().map(|value| value.inner().to_owned());
    text.ok_or_else(|| expression.wrong_type("a string", value.get_type().name()))
}

/// Returns the value of an audit annotation. Returns None if there is none to write.
fn annotation_value(
    expression: &Expression,
    scope: &Scope<'_, '_>,
    missing: &Missing,
) -> Result<Option<String>, Failure> {
    use cel_interpreter::common::types::CelNull;
    if expression.value(scope, missing)?.downcast_ref::<CelNull>().is_some() {
        return Ok(None);
    }
    text(expression, scope, missing).map(|text| Some(line(&text, MESSAGE)))
}
