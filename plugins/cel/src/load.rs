//! From settings to a policy: each expression is parsed, its names are checked, and it is run on images of
//! all kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use cel_interpreter::common::ast::Expr;
use cel_interpreter::{ExecutionError, IdedExpr};
use serde_json::Value;

use crate::contract::{Context, Image, SettingsError, TextPosition};
use crate::document::{Document, of_json};
use crate::names::{self, Names, Scope};
use crate::settings::{self, MESSAGE, MISTAKES, Settings, Text, error};
use crate::source::{self, Parsed};
use crate::{Expression, Failure, Named, Policy, Rule, annotation_value, functions, text, truth};

/// Words of an expression in the reason of a denial, in characters.
const QUOTED: usize = 200;

/// An expression and all that is known of it.
struct Checked<'a> {
    parsed: Parsed,
    names: Names<'a>,
}

/// The value that an expression has to have.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    Truth,
    Text,
    TextOrNull,
}

struct Loader {
    mistakes: Vec<SettingsError>,
    warnings: Vec<String>,
}

/// Makes a policy of its settings.
///
/// # Errors
/// The mistakes of the settings, and those of the expressions, up to 32.
pub fn policy(settings: Settings, mistakes: Vec<SettingsError>) -> Result<Policy, Vec<SettingsError>> {
    let env = functions::environment().map_err(|found| vec![error("", &found.to_string(), None)])?;
    let mut loader = Loader { mistakes, warnings: Vec::new() };
    let params = settings.params.clone();
    let mut checks: BTreeMap<String, (Checked<'_>, Wanted)> = BTreeMap::new();
    let mut scope = Scope { params: params.as_ref(), variables: None };
    for condition in &settings.conditions {
        loader.check(&condition.expression, Wanted::Truth, &scope, &mut checks);
    }
    let mut known = BTreeMap::new();
    for variable in &settings.variables {
        scope.variables = Some(known.clone());
        let shape = loader.check(&variable.expression, Wanted::Any, &scope, &mut checks);
        known.insert(variable.name.clone(), shape);
    }
    scope.variables = Some(known);
    for rule in &settings.validations {
        loader.check(&rule.expression, Wanted::Truth, &scope, &mut checks);
        if let Some(message) = &rule.message_expression {
            loader.check(message, Wanted::Text, &scope, &mut checks);
        }
    }
    for annotation in &settings.annotations {
        loader.check(&annotation.expression, Wanted::TextOrNull, &scope, &mut checks);
    }
    let mut policy = Policy {
        env: Arc::new(env),
        params: of_json(params.as_ref().unwrap_or(&Value::Null)),
        variables: named(&settings.variables, &checks),
        conditions: named(&settings.conditions, &checks),
        rules: rules(&settings, &checks),
        annotations: named(&settings.annotations, &checks),
        warnings: Vec::new(),
    };
    // An expression that uses a wrong variable would fail for it.
    if policy.variables.len() == settings.variables.len() {
        loader.run(&policy, &checks);
    }
    if !loader.mistakes.is_empty() {
        loader.mistakes.truncate(MISTAKES);
        return Err(loader.mistakes);
    }
    if !settings.ignored.is_empty() {
        let ignored = settings.ignored.join(", ");
        loader.warnings.push(format!("ignored, since host.yaml says where a policy applies: {ignored}"));
    }
    policy.warnings = loader.warnings;
    Ok(policy)
}

fn expression(text: &Text, checks: &BTreeMap<String, (Checked<'_>, Wanted)>) -> Option<Expression> {
    let mut tree = checks.get(&text.pointer)?.0.parsed.tree.clone();
    names::order(&mut tree);
    Some(Expression { pointer: text.pointer.clone(), text: text.text.clone(), tree })
}

fn named(entries: &[settings::Named], checks: &BTreeMap<String, (Checked<'_>, Wanted)>) -> Vec<Named> {
    let named = entries.iter().filter_map(|entry| {
        Some(Named { name: entry.name.clone(), expression: expression(&entry.expression, checks)? })
    });
    named.collect()
}

fn rules(settings: &Settings, checks: &BTreeMap<String, (Checked<'_>, Wanted)>) -> Vec<Rule> {
    let rules = settings.validations.iter().filter_map(|rule| {
        let quoted: Vec<&str> = rule.expression.text.split_whitespace().collect();
        let quoted = image_reference::shorten(&quoted.join(" "), QUOTED).into_owned();
        Some(Rule {
            expression: expression(&rule.expression, checks)?,
            message: rule.message.clone().unwrap_or_else(|| format!("failed expression: {quoted}")),
            message_expression: match &rule.message_expression {
                Some(message) => Some(expression(message, checks)?),
                None => None,
            },
            code: rule.code.clone(),
        })
    });
    rules.collect()
}

impl Loader {
    fn mistake(&mut self, pointer: &str, message: &str, position: Option<TextPosition>) {
        self.mistakes.push(error(pointer, message, position));
    }

    /// Parses an expression and checks its names. Returns the fields of its value.
    fn check<'a>(
        &mut self,
        text: &Text,
        wanted: Wanted,
        scope: &Scope<'a>,
        checks: &mut BTreeMap<String, (Checked<'a>, Wanted)>,
    ) -> crate::shapes::Shape<'a> {
        let parsed = match source::parse(&text.text) {
            Ok(parsed) => parsed,
            Err(faults) => {
                for fault in faults {
                    self.mistake(&text.pointer, &fault.message, fault.position);
                }
                return crate::shapes::Shape::Any;
            }
        };
        let names = names::check(&parsed.tree, scope);
        for (node, message) in &names.mistakes {
            self.mistake(&text.pointer, message, parsed.position(*node));
        }
        let shape = names.shape;
        if names.mistakes.is_empty() {
            checks.insert(text.pointer.clone(), (Checked { parsed, names }, wanted));
        }
        shape
    }

    /// Runs every expression on the samples. An expression that fails on all of them, or has a value of the
    /// wrong type on one, is a mistake.
    fn run(&mut self, policy: &Policy, checks: &BTreeMap<String, (Checked<'_>, Wanted)>) {
        let texts = checks.values().flat_map(|(checked, _)| &checked.names.texts);
        let samples = samples(texts.map(String::as_str));
        let mut failures: BTreeMap<&str, Vec<Failure>> = BTreeMap::new();
        let mut runs = 0_usize;
        for (image, context) in &samples {
            runs = runs.saturating_add(1);
            let document = Document::new(image, context, policy.params.as_ref());
            let mut scope = policy.scope(&document);
            let missing = policy.variables(&mut scope);
            for (_, failure) in &missing {
                push(&mut failures, checks, failure);
            }
            for expression in policy.expressions() {
                let Some((_, wanted)) = checks.get(&expression.pointer) else { continue };
                let result = match wanted {
                    Wanted::Any => continue,
                    Wanted::Truth => truth(expression, &scope, &missing).map(drop),
                    Wanted::Text => text(expression, &scope, &missing).map(drop),
                    Wanted::TextOrNull => annotation_value(expression, &scope, &missing).map(drop),
                };
                // The failure of a variable is that of the variable alone.
                if let Err(failure) = result
                    && failure.pointer() == expression.pointer
                {
                    push(&mut failures, checks, &failure);
                }
            }
        }
        for (pointer, failures) in failures {
            let Some((checked, _)) = checks.get(pointer) else { continue };
            self.judge(pointer, checked, &failures, runs);
        }
    }

    /// Reports the failures of an expression on the samples.
    fn judge(&mut self, pointer: &str, checked: &Checked<'_>, failures: &[Failure], runs: usize) {
        let position = |failure: &Failure| match failure {
            Failure::Failed(_, found) => place(&checked.parsed, found),
            Failure::Type { .. } => None,
        };
        if let Some(wrong) = failures.iter().find(|failure| matches!(failure, Failure::Type { .. })) {
            self.mistake(pointer, &wrong.words(), None);
        } else if failures.len() >= runs {
            let is_data = |failure: &&Failure| matches!(failure, Failure::Failed(_, found) if is_data(found));
            let first = failures.iter().find(|failure| !is_data(failure)).or(failures.first());
            let Some(first) = first else { return };
            let lacks_key = matches!(first, Failure::Failed(_, ExecutionError::NoSuchKey(_)));
            if is_data(&first) && (checked.names.has_keys || !lacks_key) {
                let words = first.words();
                self.warnings
                    .push(format!("settings{pointer} fails on each of {runs} sample images: {words}"));
            } else {
                self.mistake(
                    pointer,
                    &format!("it fails on every image: {}", first.words()),
                    position(first),
                );
            }
        }
    }
}

/// Notes a failure.
fn push<'c>(
    failures: &mut BTreeMap<&'c str, Vec<Failure>>,
    checks: &'c BTreeMap<String, (Checked<'_>, Wanted)>,
    failure: &Failure,
) {
    if let Some((pointer, _)) = checks.get_key_value(failure.pointer()) {
        failures.entry(pointer).or_default().push(failure.clone());
    }
}

/// Returns whether another image, review or value of `params` may avert a failure.
fn is_data(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::NoSuchKey(_)
            | ExecutionError::IndexOutOfBounds(_)
            | ExecutionError::DivisionByZero(_)
            | ExecutionError::RemainderByZero(_)
            | ExecutionError::FunctionError { .. }
    )
}

/// Returns the place of the first call that may have failed in this way.
fn place(parsed: &Parsed, error: &ExecutionError) -> Option<TextPosition> {
    let function = match error {
        ExecutionError::NoSuchOverload(overload) => overload.function(),
        ExecutionError::FunctionError { function, .. } => function,
        ExecutionError::NoSuchKey(key) => key,
        _ => return None,
    };
    let mut first: Option<u64> = None;
    visit(&parsed.tree, &mut |tree| {
        let fits = match &tree.expr {
            Expr::Call(call) => call.func_name == function,
            Expr::Select(select) => select.field == function,
            _ => false,
        };
        if fits {
            first = Some(first.map_or(tree.id, |first| first.min(tree.id)));
        }
    });
    parsed.position(first?)
}

/// Visits the calls and selections of a tree, those of comprehensions too.
fn visit(tree: &IdedExpr, on: &mut impl FnMut(&IdedExpr)) {
    on(tree);
    match &tree.expr {
        Expr::Select(select) => visit(&select.operand, on),
        Expr::Call(call) => {
            if let Some(target) = &call.target {
                visit(target, on);
            }
            call.args.iter().for_each(|argument| visit(argument, on));
        }
        Expr::List(list) => list.elements.iter().for_each(|element| visit(element, on)),
        Expr::Comprehension(comprehension) => {
            visit(&comprehension.iter_range, on);
            visit(&comprehension.loop_step, on);
        }
        _ => {}
    }
}

impl Policy {
    /// Returns all expressions but those of `variables`.
    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let named = self.conditions.iter().chain(&self.annotations).map(|named| &named.expression);
        let rules = self
            .rules
            .iter()
            .flat_map(|rule| std::iter::once(&rule.expression).chain(rule.message_expression.as_ref()));
        named.chain(rules)
    }
}

/// Returns images of all kinds: with a tag, a digest, both, and of a review without a namespace. Every
/// annotation that a policy names is there in one.
fn samples<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<(Image, Context)> {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let mut annotations: Vec<(String, String)> = texts
        .filter(|text| text.contains("image-policy.k8s.io/") && text.len() <= MESSAGE)
        .map(|key| (key.to_owned(), "true".to_owned()))
        .collect();
    annotations.sort();
    annotations.dedup();
    let of =
        |original: &str, registry: &str, repository: &str, tag: Option<&str>, digest: Option<&String>| {
            Image {
                original: original.to_owned(),
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                tag: tag.map(str::to_owned),
                digest: digest.cloned(),
            }
        };
    let context = |namespace: &str, annotations| Context { namespace: namespace.to_owned(), annotations };
    let pinned = format!("ghcr.io/acme/app@{digest}");
    let both = format!("localhost:5000/app:2@{digest}");
    vec![
        (of("nginx", "docker.io", "library/nginx", Some("latest"), None), context("default", Vec::new())),
        (
            of("ghcr.io/acme/app:v1.2.3", "ghcr.io", "acme/app", Some("v1.2.3"), None),
            context("shop", annotations),
        ),
        (of(&pinned, "ghcr.io", "acme/app", None, Some(&digest)), context("default", Vec::new())),
        (of(&both, "localhost:5000", "app", Some("2"), Some(&digest)), context("", Vec::new())),
    ]
}

#[cfg(test)]
mod tests {
    use super::samples;

    #[test]
    fn the_samples_are_as_the_host_parses_them() {
        for (image, _) in samples(std::iter::empty()) {
            let parsed = image_reference::Image::parse(&image.original).unwrap();
            assert_eq!((parsed.registry, parsed.repository), (image.registry, image.repository));
            assert_eq!((parsed.tag, parsed.digest), (image.tag, image.digest));
        }
    }
}
