//! The contract in Rust, generated from `wit/`.

pub use bindings::image_policy::host::types::{
    Context, Decision, Image, Outcome, SettingsError, TextPosition,
};

/// The bindings that wit-bindgen makes of the world `image-policy`.
#[expect(missing_docs, reason = "generated: the documentation is in wit/")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "image-policy",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

impl From<(u32, u32)> for TextPosition {
    fn from((line, column): (u32, u32)) -> Self {
        Self { line, column }
    }
}

/// The component.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, unreachable_pub, reason = "generated: the exported functions take raw pointers")]
mod export {
    use std::sync::OnceLock;

    use super::bindings;
    use super::bindings::exports::image_policy::host::policy::Guest;
    use super::bindings::image_policy::host::log::{Level, log};
    use super::{Context, Decision, Image, SettingsError};
    use crate::Policy;

    /// The result of `configure`: nothing in it may live in one instance only.
    static POLICY: OnceLock<Policy> = OnceLock::new();

    struct Component;

    impl Guest for Component {
        fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
            let policy = Policy::read(&settings)?;
            log(Level::Info, &policy.to_string());
            for warning in policy.warnings() {
                log(Level::Warn, warning);
            }
            POLICY.set(policy).map_err(|_| {
                vec![SettingsError {
                    pointer: String::new(),
                    message: "configure was called a second time".to_owned(),
                    position: None,
                }]
            })
        }

        fn evaluate(image: Image, context: Context) -> Result<Decision, String> {
            let policy = POLICY.get().ok_or("evaluate was called before configure")?;
            policy.judge(&image, &context).map_err(|error| error.to_string())
        }
    }

    bindings::export!(Component with_types_in bindings);
}
