//! The code behind [`policy!`](crate::policy!): not for use by hand.

pub use alloc::string::String as Text;
pub use alloc::vec::Vec as List;

pub use crate::settings::no_settings;
use crate::{Context, Decision, Image, Malfunction, Mistakes, Policy};

/// The type of a function that reads settings.
pub type Read<P> = fn(&str) -> Result<P, Mistakes>;

/// The type of a function that judges.
pub type Judge<P> = fn(&P, &Image, &Context) -> Result<Decision, Malfunction>;

/// Reads the settings of a policy and checks them, and calls [`Policy::loaded`] if they are sound.
///
/// # Errors
/// Returns the mistakes.
pub fn read<P: Policy>(json: &str) -> Result<P, Mistakes> {
    let policy: P = crate::settings::read(json)?;
    let mut mistakes = Mistakes::default();
    policy.check(&mut mistakes);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    policy.loaded();
    Ok(policy)
}

#[cfg(target_arch = "wasm32")]
pub use wasm::{Guest, Slot, bindings, configure, evaluate, log, wit};

#[cfg(target_arch = "wasm32")]
mod wasm {
    //! The contract's functions, over a policy in a static.

    use std::sync::OnceLock;

    pub use self::bindings::exports::image_policy::host::policy::Guest;
    pub use self::bindings::image_policy::host::types as wit;
    use super::{Judge, Read, Text};
    use crate::log::Level;
    use crate::{Context, Decision, Image, Malfunction, Mistakes, Outcome, TextPosition};

    /// The bindings that wit-bindgen makes of the world `image-policy`.
    #[expect(missing_docs, reason = "generated: the documentation is in wit/")]
    pub mod bindings {
        wit_bindgen::generate!({ path: "wit", world: "image-policy", pub_export_macro: true });
    }

    /// The place of the policy that `configure` has read.
    pub type Slot<P> = OnceLock<P>;

    /// Reads the settings into the slot.
    ///
    /// # Errors
    /// Returns the mistakes in the settings.
    pub fn configure<P>(
        slot: &Slot<P>,
        settings: &str,
        read: Read<P>,
    ) -> Result<(), Vec<wit::SettingsError>> {
        #[cfg(feature = "panic-message")]
        std::panic::set_hook(Box::new(|panic| crate::log::error!("{panic}")));
        let set =
            |policy| slot.set(policy).map_err(|_| Mistakes::of("", "configure was called a second time"));
        let read = read(settings).and_then(set);
        read.map_err(|mistakes| mistakes.into_iter().map(contract_error).collect())
    }

    fn contract_error(mistake: crate::SettingsError) -> wit::SettingsError {
        let position =
            mistake.position.map(|TextPosition { line, column }| wit::TextPosition { line, column });
        wit::SettingsError { pointer: mistake.pointer, message: mistake.message, position }
    }

    /// Judges an image with the policy in the slot.
    ///
    /// # Errors
    /// Returns the text of a malfunction.
    pub fn evaluate<P>(
        slot: &Slot<P>,
        image: wit::Image,
        context: wit::Context,
        judge: Judge<P>,
    ) -> Result<wit::Decision, Text> {
        let policy = slot.get().ok_or("evaluate was called before configure")?;
        let wit::Image { original, registry, repository, tag, digest } = image;
        let image = Image { original, registry, repository, tag, digest };
        let context = Context { namespace: context.namespace, annotations: context.annotations };
        let decision = judge(policy, &image, &context).map_err(Malfunction::into_message)?;
        let Decision { outcome, code, reason, audit_annotations, warnings } = decision;
        let outcome = match outcome {
            Outcome::Allow => wit::Outcome::Allow,
            Outcome::Deny => wit::Outcome::Deny,
            Outcome::Abstain => wit::Outcome::Abstain,
        };
        Ok(wit::Decision { outcome, code, reason, audit_annotations, warnings })
    }

    /// Writes a line to the host's log.
    pub fn log(level: Level, line: &str) {
        use self::bindings::image_policy::host::log;
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::log(level, line);
    }
}

/// Exports a policy: its type, the function that reads it, and the function that judges.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($policy:ty, $read:expr, $judge:expr) => {
        const _: () = {
            const READ: $crate::export::Read<$policy> = $read;
            const JUDGE: $crate::export::Judge<$policy> = $judge;

            #[cfg(not(target_arch = "wasm32"))]
            const _: ($crate::export::Read<$policy>, $crate::export::Judge<$policy>) = (READ, JUDGE);

            #[cfg(target_arch = "wasm32")]
            const _: () = {
                static POLICY: $crate::export::Slot<$policy> = $crate::export::Slot::new();

                struct Component;

                impl $crate::export::Guest for Component {
                    fn configure(
                        settings: $crate::export::Text,
                    ) -> ::core::result::Result<(), $crate::export::List<$crate::export::wit::SettingsError>>
                    {
                        $crate::export::configure(&POLICY, &settings, READ)
                    }

                    fn evaluate(
                        image: $crate::export::wit::Image,
                        context: $crate::export::wit::Context,
                    ) -> ::core::result::Result<$crate::export::wit::Decision, $crate::export::Text>
                    {
                        $crate::export::evaluate(&POLICY, image, context, JUDGE)
                    }
                }

                $crate::__bind!(Component);
            };
        };
    };
}

/// Exports the functions of a component.
#[doc(hidden)]
#[macro_export]
macro_rules! __bind {
    ($component:ident) => {
        $crate::export::bindings::export!($component with_types_in $crate::export::bindings);
    };
}
