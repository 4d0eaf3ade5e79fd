//! Tools for the tests of a policy. Tests run natively: fast, and with every tool of Rust.
//!
//! ```
//! use image_policy::{Context, Decision, Image, allow, deny};
//! use image_policy::{assert_allows, assert_denies};
//!
//! fn no_docker_hub(image: &Image, _: &Context) -> Decision {
//!     match image.registry.as_str() {
//!         "docker.io" => deny("docker-hub", "write the mirror's name"),
//!         _ => allow("other-registry", "it is not of Docker Hub"),
//!     }
//! }
//!
//! assert_denies!(no_docker_hub, "nginx", "docker-hub");
//! assert_allows!(no_docker_hub, "ghcr.io/acme/web:1", "other-registry");
//! let decision = assert_denies!(no_docker_hub, "nginx", "docker-hub", in "shop");
//! assert!(decision.reason.contains("mirror"));
//! ```
//!
//! [`suite!`](crate::suite!) runs the suite files of a folder, natively too.

#![expect(clippy::panic, reason = "a test that has failed ends so")]

mod expectation;
mod suite;
mod yaml;

use core::fmt;

#[doc(hidden)]
pub use suite::run;

use crate::{Context, Decision, Image, IntoDecision, Malfunction, Mistakes, Outcome, Policy};

/// Parses an image reference as the host does.
///
/// # Panics
/// Panics if the host would refuse the reference.
#[track_caller]
pub fn image(reference: &str) -> Image {
    match parse(reference) {
        Ok(image) => image,
        Err(error) => panic!("`{reference}` is no image reference: {error}"),
    }
}

fn parse(reference: &str) -> Result<Image, image_reference::ImageError> {
    let parsed = image_reference::Image::parse(reference)?;
    let fields = parsed.reference();
    Ok(Image {
        original: reference.to_owned(),
        registry: fields.registry.to_owned(),
        repository: fields.repository.to_owned(),
        tag: fields.tag.map(str::to_owned),
        digest: fields.digest.map(str::to_owned),
    })
}

/// A policy with its settings, of whatever type.
type Judges<'a> = dyn Fn(&Image, &Context) -> Result<Decision, Malfunction> + 'a;

/// Returns the context of a pod without annotations.
pub fn in_namespace(namespace: &str) -> Context {
    Context { namespace: namespace.to_owned(), annotations: Vec::new() }
}

impl Context {
    /// Adds an annotation to the context of a test.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Context {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self.annotations.sort();
        self
    }
}

/// Reads settings as `configure` does: JSON text, or whatever displays as it, such as `serde_json::json!`.
///
/// # Errors
/// Returns all mistakes in the settings.
pub fn settings<P: Policy>(json: impl fmt::Display) -> Result<P, Mistakes> {
    crate::export::read(&json.to_string())
}

/// A policy, or a function that is a policy.
#[doc(hidden)]
#[derive(Debug)]
pub struct Judged<'a, P>(pub &'a P);

/// Judges with a policy.
#[doc(hidden)]
pub trait ByPolicy {
    /// Judges an image.
    fn judge(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction>;
}

/// Judges with a function.
#[doc(hidden)]
pub trait ByFunction {
    /// Judges an image.
    fn judge(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction>;
}

impl<P: Policy> ByPolicy for Judged<'_, P> {
    fn judge(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction> {
        self.0.evaluate(image, context)
    }
}

// A method is looked for in a reference to a reference first, so a function is found before a policy.
impl<F, R> ByFunction for &Judged<'_, F>
where
    F: Fn(&Image, &Context) -> R,
    R: IntoDecision,
{
    fn judge(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction> {
        self.0(image, context).into_decision()
    }
}

/// Compares a decision with the expected one, and returns it.
///
/// # Panics
/// Panics if the outcome or the code is another, or the host would refuse the decision.
#[doc(hidden)]
#[track_caller]
pub fn expect(judged: Result<Decision, Malfunction>, outcome: Outcome, code: &str, image: &str) -> Decision {
    let decision = match judged {
        Ok(decision) => decision,
        Err(malfunction) => panic!("{image}: malfunction: {}", malfunction.message()),
    };
    assert!(
        decision.outcome == outcome && decision.code == code,
        "{image}: expected {outcome:?} {code}, got {:?} {}: {}",
        decision.outcome,
        decision.code,
        decision.reason
    );
    if let Some(wrong) = beyond(&decision) {
        panic!("{image}: {wrong}");
    }
    decision
}

/// Returns the bound of the contract that a decision breaks.
fn beyond(decision: &Decision) -> Option<String> {
    let code = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let key = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let Decision { code: found, reason, audit_annotations, warnings, .. } = decision;
    if !(1..=63).contains(&found.len()) || !code(found) {
        return Some(format!("the host refuses the code `{found}`: 1 to 63 of `a-z`, `0-9` and `-`"));
    }
    if reason.len() > 1024 {
        return Some(format!("the host cuts a reason of {} bytes: at most 1024", reason.len()));
    }
    if audit_annotations.len() > 32 || warnings.len() > 32 {
        return Some("the host cuts audit annotations and warnings: at most 32 of each".to_owned());
    }
    let wrong = audit_annotations.iter().find(|(name, _)| !(1..=63).contains(&name.len()) || !key(name));
    wrong.map(|(name, _)| format!("the audit annotation `{name}`: 1 to 63 of `A-Za-z0-9-_.`"))
}

/// Checks that a policy allows an image with a code, and returns the decision. `in NAMESPACE` may follow.
#[macro_export]
macro_rules! assert_allows {
    ($policy:expr, $image:expr, $code:expr $(, in $namespace:expr)?) => {
        $crate::__assert_decides!(Allow, $policy, $image, $code $(, $namespace)?)
    };
}

/// Checks that a policy denies an image with a code, and returns the decision. `in NAMESPACE` may follow.
#[macro_export]
macro_rules! assert_denies {
    ($policy:expr, $image:expr, $code:expr $(, in $namespace:expr)?) => {
        $crate::__assert_decides!(Deny, $policy, $image, $code $(, $namespace)?)
    };
}

/// Checks that a policy abstains on an image with a code, and returns the decision. `in NAMESPACE` may
/// follow.
#[macro_export]
macro_rules! assert_abstains {
    ($policy:expr, $image:expr, $code:expr $(, in $namespace:expr)?) => {
        $crate::__assert_decides!(Abstain, $policy, $image, $code $(, $namespace)?)
    };
}

/// Checks a decision.
#[doc(hidden)]
#[macro_export]
macro_rules! __assert_decides {
    ($outcome:ident, $policy:expr, $image:expr, $code:expr) => {
        $crate::__assert_decides!($outcome, $policy, $image, $code, "default")
    };
    ($outcome:ident, $policy:expr, $image:expr, $code:expr, $namespace:expr) => {{
        #[allow(unused_imports)]
        use $crate::test::{ByFunction as _, ByPolicy as _};
        let image: &str = $image;
        let context = $crate::test::in_namespace($namespace);
        let judged = (&&$crate::test::Judged(&$policy)).judge(&$crate::test::image(image), &context);
        $crate::test::expect(judged, $crate::Outcome::$outcome, $code, image)
    }};
}

/// Makes a `#[test]` that runs the suite files in a folder of the package natively, as `host test` runs them
/// with the component. The policy is a type, or `fn` and a function, as in [`policy!`](crate::policy!).
///
/// A native run has one policy and no host.yaml. It takes suites with one entry in `policies`, and of cases
/// `images` with the outcome, the code, the reason, the warnings and the audit annotations, `settings`,
/// `refused` and the rows of `matrix`. A file with more than that fails the test with a message; `host test`
/// runs it.
///
/// ```no_run
/// # #[derive(serde::Deserialize)] struct Rules {}
/// # impl image_policy::Policy for Rules {
/// #     fn evaluate(&self, _: &image_policy::Image, _: &image_policy::Context)
/// #         -> Result<image_policy::Decision, image_policy::Malfunction> { Err("")? }
/// # }
/// image_policy::suite!(Rules, "suite");
/// ```
#[macro_export]
macro_rules! suite {
    (fn $function:path, $folder:literal) => {
        $crate::__suite! {
            $folder,
            (),
            $crate::export::no_settings,
            |_: &(), image: &$crate::Image, context: &$crate::Context| {
                $crate::IntoDecision::into_decision($function(image, context))
            }
        }
    };
    ($policy:ty, $folder:literal) => {
        $crate::__suite! {
            $folder, $policy, $crate::export::read::<$policy>, <$policy as $crate::Policy>::evaluate
        }
    };
}

/// Makes a test of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! __suite {
    ($folder:literal, $policy:ty, $read:expr, $judge:expr) => {
        #[test]
        fn suite() {
            $crate::test::run::<$policy>(concat!(env!("CARGO_MANIFEST_DIR"), "/", $folder), $read, $judge);
        }
    };
}
