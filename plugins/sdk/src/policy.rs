//! A policy, and the macro that exports it.

use alloc::string::{String, ToString};
use core::fmt;

use serde_core::de::DeserializeOwned;

use crate::settings::Mistakes;
use crate::{Context, Decision, Image};

/// A policy with its settings.
///
/// The type is its settings: plain `#[derive(Deserialize)]` reads them, and every mistake is reported with
/// its place. See the [crate's page](crate) for an example. A policy without settings is a function: see
/// [`policy!`](crate::policy!).
pub trait Policy: DeserializeOwned {
    /// Judges one image. The answer may depend on the settings and these two arguments only.
    ///
    /// # Errors
    /// An error is a malfunction: under `failurePolicy: Fail` the host denies the image, and shows the text.
    fn evaluate(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction>;

    /// Adds the mistakes that no single setting shows, such as two settings that contradict each other.
    /// Called once, if every setting was read.
    fn check(&self, mistakes: &mut Mistakes) {
        let _ = mistakes;
    }

    /// Called once when the settings are sound. Lines that it writes with [`log`](crate::log) are shown when
    /// the policy is loaded, and not again.
    fn loaded(&self) {}
}

/// The reason why a policy could not judge. `?` makes it of every error that displays.
///
/// ```
/// use image_policy::{Context, Decision, Image, Malfunction, allow};
///
/// fn numbered(image: &Image, _: &Context) -> Result<Decision, Malfunction> {
///     let number: u32 = image.tag.as_deref().ok_or("it has no tag")?.parse()?;
///     Ok(allow("numbered", format!("build {number}")))
/// }
/// # use image_policy::test::{image, in_namespace};
/// # assert!(numbered(&image("nginx:7"), &in_namespace("shop")).is_ok());
/// # let malfunction = numbered(&image("nginx:new"), &in_namespace("shop")).unwrap_err();
/// # assert_eq!(malfunction.message(), "invalid digit found in string");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malfunction(String);

impl Malfunction {
    /// Returns the text that the host shows.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn into_message(self) -> String {
        self.0
    }

    /// Returns the text that the host shows.
    pub fn message(&self) -> &str {
        &self.0
    }
}

// It displays nothing itself: the conversion of a type into itself would overlap with this one.
impl<E: fmt::Display> From<E> for Malfunction {
    fn from(error: E) -> Malfunction {
        Malfunction(error.to_string())
    }
}

/// The return types of a function that is a policy: a [`Decision`], or a [`Result`] of one.
pub trait IntoDecision {
    /// Converts the answer.
    ///
    /// # Errors
    /// Returns the malfunction that the function has returned.
    fn into_decision(self) -> Result<Decision, Malfunction>;
}

impl IntoDecision for Decision {
    fn into_decision(self) -> Result<Decision, Malfunction> {
        Ok(self)
    }
}

impl<E: Into<Malfunction>> IntoDecision for Result<Decision, E> {
    fn into_decision(self) -> Result<Decision, Malfunction> {
        self.map_err(Into::into)
    }
}

/// Makes the crate a policy component: of a type that is a [`Policy`], or of a function that
/// needs no settings.
///
/// ```
/// use image_policy::{Context, Decision, Image, allow, deny, policy};
///
/// fn pinned(image: &Image, _: &Context) -> Decision {
///     match image.digest {
///         Some(_) => allow("pinned", "it is named by a digest"),
///         None => deny("not-pinned", "write a digest"),
///     }
/// }
///
/// policy!(fn pinned);
/// # fn main() {}
/// ```
///
/// Natively the macro only checks the types.
#[macro_export]
macro_rules! policy {
    (fn $function:path) => {
        $crate::__export! {
            (),
            $crate::export::no_settings,
            |_: &(), image: &$crate::Image, context: &$crate::Context| {
                $crate::IntoDecision::into_decision($function(image, context))
            }
        }
    };
    ($policy:ty) => {
        $crate::__export! { $policy, $crate::export::read::<$policy>, <$policy as $crate::Policy>::evaluate }
    };
}
