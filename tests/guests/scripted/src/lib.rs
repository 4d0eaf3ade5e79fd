//! A policy whose behaviour is its settings, so that a test of the host is data.
//!
//! ```yaml
//! configure:                  # what `configure` does: everything that an image's script may say, and
//!   errors: [{ pointer: /images, message: wrong, position: [1, 2] }]
//! images:                     # by repository; `*` for all others; without that they are abstained from
//!   team/app: { outcome: allow, reason: fine }
//!   team/bad: { trap: the message that is logged first }
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;

use image_policy::{Context, Decision, Image, Malfunction, Mistakes, Outcome, Policy, TextPosition};
use image_policy::{log, policy};
use serde::Deserialize;

/// The settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    configure: Configure,
    images: BTreeMap<String, Script>,
}

/// The script of `configure`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Configure {
    /// Mistakes in the settings.
    errors: Vec<Mistake>,
    /// First of all.
    run: Script,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mistake {
    pointer: String,
    message: String,
    /// Line and column in the text at the pointer.
    #[serde(default)]
    position: Option<(u32, u32)>,
}

/// The script of `evaluate`, in this order.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Script {
    /// Lines to log; `log_times` over.
    log: Vec<String>,
    log_times: u32,
    /// A log line of this many bytes.
    log_bytes: usize,
    /// Goes on for ever.
    spin: bool,
    /// Asks for memory until it is refused, and then traps as an allocator does.
    allocate: bool,
    /// Calls itself until the stack is used up.
    recurse: bool,
    /// Logs this and traps.
    trap: Option<String>,
    /// Traps without a word.
    abort: bool,
    /// Answers with this error.
    error: Option<String>,
    outcome: Word,
    code: String,
    reason: String,
    /// The reason over and over, up to this many bytes.
    reason_bytes: usize,
    annotations: Vec<(String, String)>,
    warnings: Vec<String>,
    /// The warnings this many times over.
    warnings_times: usize,
    /// Denies from this call of the instance on, and says in the reason which call it is.
    deny_from_call: Option<u32>,
    /// The outcome in these namespaces.
    namespaces: BTreeMap<String, Word>,
    /// The outcome where there is an annotation of this key, and its value goes into the reason.
    annotation: Option<(String, Word)>,
    /// Puts what it was given into the reason.
    echo: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            log: Vec::new(),
            log_times: 1,
            log_bytes: 0,
            spin: false,
            allocate: false,
            recurse: false,
            trap: None,
            abort: false,
            error: None,
            outcome: Word::Abstain,
            code: "scripted".to_owned(),
            reason: String::new(),
            reason_bytes: 0,
            annotations: Vec::new(),
            warnings: Vec::new(),
            warnings_times: 1,
            deny_from_call: None,
            namespaces: BTreeMap::new(),
            annotation: None,
            echo: false,
        }
    }
}

/// An outcome.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
    Abstain,
}

policy!(Settings);

impl Policy for Settings {
    fn evaluate(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction> {
        let script = self.script(&image.repository);
        script.act()?;
        Ok(script.answer(image, context))
    }

    fn check(&self, mistakes: &mut Mistakes) {
        if let Err(message) = self.configure.run.act() {
            mistakes.add("", message);
            return;
        }
        for Mistake { pointer, message, position } in &self.configure.errors {
            match *position {
                Some((line, column)) => {
                    mistakes.add_in_text(pointer, TextPosition { line, column }, message);
                }
                None => mistakes.add(pointer, message),
            }
        }
    }
}

thread_local! {
    /// How often `evaluate` was called: what a policy must not keep.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Settings {
    /// Returns the script of a repository.
    fn script(&self, repository: &str) -> Script {
        self.images.get(repository).or_else(|| self.images.get("*")).cloned().unwrap_or_default()
    }
}

impl Script {
    /// Runs the steps before an answer.
    fn act(&self) -> Result<(), &str> {
        for _ in 0..self.log_times {
            self.log.iter().for_each(|line| log::info!("{line}"));
        }
        if self.log_bytes > 0 {
            log::info!("{}", "x".repeat(self.log_bytes));
        }
        if self.spin {
            loop {
                std::hint::spin_loop();
            }
        }
        if self.allocate {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            loop {
                kept.push(vec![1; 1 << 20]);
            }
        }
        if self.recurse {
            deeper(std::hint::black_box(0));
        }
        if let Some(last) = &self.trap {
            log::info!("{last}");
        }
        if self.abort || self.trap.is_some() {
            std::process::abort();
        }
        self.error.as_deref().map_or(Ok(()), Err)
    }

    fn answer(self, image: &Image, context: &Context) -> Decision {
        let calls = CALLS.with(|calls| {
            calls.set(calls.get().saturating_add(1));
            calls.get()
        });
        let Script { mut outcome, code, mut reason, annotations, warnings, .. } = self;
        if let Some(word) = self.namespaces.get(&context.namespace) {
            outcome = *word;
        }
        if let Some((key, word)) = &self.annotation
            && let Some(value) = context.annotation(key)
        {
            (outcome, reason) = (*word, format!("{key} is {value}"));
        }
        if let Some(first) = self.deny_from_call {
            reason = format!("call {calls}");
            if calls >= first {
                outcome = Word::Deny;
            }
        }
        if self.echo {
            let Image { original, registry, repository, tag, digest } = image;
            let Context { namespace, annotations } = context;
            reason = format!(
                "{original} = {registry} {repository} {tag:?} {digest:?} in {namespace} with {annotations:?}"
            );
        }
        if self.reason_bytes > 0 {
            reason = reason.chars().cycle().take(self.reason_bytes).collect();
        }
        let times = warnings.len().saturating_mul(self.warnings_times);
        let warnings = warnings.into_iter().cycle().take(times).collect();
        let outcome = match outcome {
            Word::Allow => Outcome::Allow,
            Word::Deny => Outcome::Deny,
            Word::Abstain => Outcome::Abstain,
        };
        Decision { outcome, code, reason, audit_annotations: annotations, warnings }
    }
}

/// Needs a frame of stack for each call: what it returns is used after it.
#[inline(never)]
fn deeper(depth: u64) -> u64 {
    if depth == u64::MAX {
        return 0;
    }
    std::hint::black_box(deeper(std::hint::black_box(depth.wrapping_add(1)))).wrapping_add(depth)
}
