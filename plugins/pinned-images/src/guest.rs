//! The contract in Rust, generated from `wit/`, and this policy behind it.

use std::sync::OnceLock;

use image_pattern::settings::Mistake;

use crate::Rules;
use bindings::exports::image_policy::host::policy::{Context, Decision, Guest, Image, SettingsError};
use bindings::image_policy::host::log::{Level, log};

pub(crate) mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "image-policy" });
}

/// What `configure` leaves behind: nothing that lives in one instance only.
static RULES: OnceLock<Rules> = OnceLock::new();

/// What the component exports.
#[derive(Debug)]
pub struct Policy;

impl Guest for Policy {
    fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
        let told = |Mistake { pointer, message }| SettingsError { pointer, message };
        let rules =
            Rules::parse(&settings).map_err(|mistakes| mistakes.into_iter().map(told).collect::<Vec<_>>())?;
        log(Level::Info, &rules.to_string());
        let twice =
            |_| Mistake { pointer: String::new(), message: "configure was called a second time".into() };
        RULES.set(rules).map_err(|again| vec![told(twice(again))])
    }

    fn evaluate(image: Image, _: Context) -> Result<Decision, String> {
        RULES
            .get()
            .map(|rules| rules.judge(&image))
            .ok_or_else(|| "evaluate was called before configure".into())
    }
}

// Elsewhere a symbol with the name of a WIT function does not link, and nobody would call it.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the exported functions take raw pointers, as the canonical ABI has it")]
mod export {
    super::bindings::export!(Policy with_types_in super::bindings);
    use super::Policy;
}
