//! The contract in Rust, generated from `wit/`, and the macro that makes a policy component of a set of
//! rules.

pub use bindings::image_policy::host::types::{
    Context, Decision, Image, Outcome, SettingsError, TextPosition,
};

/// The bindings that wit-bindgen makes of the world `image-policy`.
#[expect(missing_docs, reason = "generated: the documentation is in wit/")]
pub mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "image-policy", pub_export_macro: true });
}

impl Image {
    /// Returns the fields that are compared.
    pub fn reference(&self) -> image_reference::Reference<'_> {
        image_reference::Reference {
            registry: &self.registry,
            repository: &self.repository,
            tag: self.tag.as_deref(),
            digest: self.digest.as_deref(),
        }
    }
}

impl SettingsError {
    /// Returns an error that concerns the whole value at `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), position: None }
    }
}

/// A policy with its settings. Its text (`Display`) is logged when it is loaded.
pub trait Policy: Sized + std::fmt::Display {
    /// Reads the settings, or returns every mistake in them.
    fn parse(settings: &str) -> Result<Self, Vec<SettingsError>>;

    /// Returns warnings about these settings, a line each. The host shows them when the policy is loaded.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Judges one image.
    fn judge(&self, image: &Image, context: &Context) -> Decision;
}

/// Makes the crate a policy component of a type that is a [`Policy`].
///
/// On other targets than wasm32 the macro does nothing: a symbol with the name of a WIT function does not
/// link there.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[expect(unsafe_code, reason = "the exported functions take raw pointers, as the canonical ABI has \
            it")]
        mod export {
            use std::sync::OnceLock;

            use $crate::contract::bindings;
            use $crate::contract::bindings::exports::image_policy::host::policy::Guest;
            use $crate::contract::bindings::image_policy::host::log::{Level, log};
            use $crate::contract::{Context, Decision, Image, Policy, SettingsError};

            /// The result of `configure`: nothing in it may live in one instance only.
            static POLICY: OnceLock<$policy> = OnceLock::new();

            struct Component;

            impl Guest for Component {
                fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
                    let policy = <$policy>::parse(&settings)?;
                    log(Level::Info, &policy.to_string());
                    for warning in policy.warnings() {
                        log(Level::Warn, &warning);
                    }
                    POLICY.set(policy).map_err(|_| {
                        vec![SettingsError::new("", "configure was called a second time")]
                    })
                }

                fn evaluate(image: Image, context: Context) -> Result<Decision, String> {
                    let policy = POLICY.get().ok_or("evaluate was called before configure")?;
                    Ok(policy.judge(&image, &context))
                }
            }

            bindings::export!(Component with_types_in bindings);
        }
    };
}
