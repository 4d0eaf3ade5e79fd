//! The contract in Rust, generated from `wit/`, and this policy behind it.

use std::sync::OnceLock;

use crate::{Answer, Mistake, Question, Settings, Word};
use bindings::exports::image_policy::host::policy::{
    Context, Decision, Guest, Image, Outcome, SettingsError,
};
use bindings::image_policy::host::log::{Level, log};
use bindings::image_policy::host::types::TextPosition;

pub(crate) mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "image-policy" });
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// The exports of the component.
#[derive(Debug)]
pub struct Policy;

impl Guest for Policy {
    fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
        let whole = |message| vec![SettingsError { pointer: String::new(), message, position: None }];
        let settings: Settings = serde_json::from_str(&settings).map_err(|error| whole(error.to_string()))?;
        settings.configure.run.act(write).map_err(whole)?;
        if !settings.configure.errors.is_empty() {
            let told = |Mistake { pointer, message, position }: &Mistake| SettingsError {
                pointer: pointer.clone(),
                message: message.clone(),
                position: position.map(|(line, column)| TextPosition { line, column }),
            };
            return Err(settings.configure.errors.iter().map(told).collect());
        }
        SETTINGS.set(settings).map_err(|_| whole("configure was called a second time".into()))
    }

    fn evaluate(image: Image, context: Context) -> Result<Decision, String> {
        let settings = SETTINGS.get().ok_or("evaluate was called before configure")?;
        let script = settings.script(&image.repository);
        script.act(write)?;
        let question = Question {
            image: format!(
                "{} = {} {} {:?} {:?}",
                image.original, image.registry, image.repository, image.tag, image.digest
            ),
            namespace: &context.namespace,
            annotations: &context.annotations,
        };
        let Answer { outcome, code, reason, annotations, warnings } = script.answer(&question);
        let outcome = match outcome {
            Word::Allow => Outcome::Allow,
            Word::Deny => Outcome::Deny,
            Word::Abstain => Outcome::Abstain,
        };
        Ok(Decision { outcome, code, reason, audit_annotations: annotations, warnings })
    }
}

fn write(line: &str) {
    log(Level::Info, line);
}

// Elsewhere a symbol with the name of a WIT function does not link, and nobody would call it.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the exported functions take raw pointers, as the canonical ABI has it")]
mod export {
    super::bindings::export!(Policy with_types_in super::bindings);
    use super::Policy;
}
