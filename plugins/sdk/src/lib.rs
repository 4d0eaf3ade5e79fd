//! Policies over container images in Rust, for the Kubernetes image policy host.
//!
//! A policy answers one question: may this image run in this namespace? It is a function:
//!
//! ```
//! use image_policy::{Context, Decision, Image, allow, deny, policy};
//!
//! /// A namespace runs the images that its own team has built: `ghcr.io/acme/NAMESPACE/…`.
//! fn team_images(image: &Image, context: &Context) -> Decision {
//!     let team = format!("acme/{}/", context.namespace);
//!     if image.registry == "ghcr.io" && image.repository.starts_with(&team) {
//!         return allow("own-image", "its own team has built it");
//!     }
//!     deny("foreign-image", format!("write an image of ghcr.io/{team}"))
//! }
//!
//! policy!(fn team_images);
//! # fn main() {}
//! ```
//!
//! `Cargo.toml` names this crate and `crate-type = ["cdylib", "rlib"]`; `host build .` makes the component.
//!
//! With settings a policy is a type. serde reads it, and every mistake is reported at once, with its place:
//!
//! ```
//! use image_policy::{Context, Decision, Image, Line, Malfunction, Patterns, Policy};
//! use image_policy::{abstain, allow, deny, log, policy};
//! use serde::Deserialize;
//!
//! /// Images that namespaces may run.
//! #[derive(Deserialize)]
//! #[serde(rename_all = "camelCase", deny_unknown_fields)]
//! pub struct Rules {
//!     /// The registry that teams push to.
//!     registry: String,
//!     /// Images that every namespace may run.
//!     #[serde(default)]
//!     shared: Patterns,
//!     /// The end of each denial: where to ask.
//!     message: Option<Line<300>>,
//! }
//!
//! impl Policy for Rules {
//!     fn evaluate(&self, image: &Image, _: &Context) -> Result<Decision, Malfunction> {
//!         if let Some(pattern) = self.shared.first_match(&image.reference()) {
//!             return Ok(allow("shared", "all may run it").annotate("pattern", pattern.as_str()));
//!         }
//!         if image.registry == self.registry {
//!             return Ok(abstain("team-registry", "another policy judges the images of teams"));
//!         }
//!         let message = self.message.as_ref().map_or("", Line::as_str);
//!         Ok(deny("foreign", format!("it is not of {} {message}", self.registry)))
//!     }
//!
//!     fn loaded(&self) {
//!         log::info!("{} patterns are shared", self.shared.all().len());
//!     }
//! }
//!
//! policy!(Rules);
//!
//! # fn main() {
//! use image_policy::test::settings;
//!
//! let wrong = r#"{ "registry": 7, "shared": ["nginx", "ghcr.io/acme/**"], "mesage": "" }"#;
//! let mistakes = settings::<Rules>(wrong).err().unwrap();
//! assert_eq!(mistakes.pointers(), ["/registry", "/shared/0", "/mesage"]);
//! # assert!(settings::<Rules>(r#"{ "registry": "ghcr.io", "message": "ask us" }"#).is_ok());
//! # }
//! ```
//!
//! | for | there is |
//! |---|---|
//! | decisions | [`allow`], [`deny`], [`abstain`], and `?` for a [`Malfunction`] |
//! | settings | [`Pattern`], [`Patterns`], [`TagPattern`], [`denying`], [`Line`], and all that serde derives |
//! | mistakes of several settings together | [`Policy::check`] |
//! | the host's log | [`log`] |
//! | tests | the feature `test`: the module `test`, `assert_allows!`, `assert_denies!`, `assert_abstains!` |
//! | a schema for editors | the feature `schema` |
//!
//! The crate has the one grammar of references and patterns that the host has: [`image_reference`].
//!
//! # Features
//!
//! - `panic-message` (default): the words and the place of a panic stand in the host's log.
//! - `small-heap` (default): the global allocator begins in the memory that the linker left over, so each
//!   review copies less. Switch the feature off to bring another allocator.
//! - `test`, `schema`: for `[dev-dependencies]`.

extern crate alloc;

pub mod log;
#[cfg(feature = "test")]
pub mod test;

#[doc(hidden)]
pub mod export;

mod contract;
#[cfg(all(target_arch = "wasm32", feature = "small-heap"))]
mod heap;
mod policy;
#[cfg(feature = "schema")]
mod schema;
mod settings;

pub use contract::{Context, Decision, Image, Outcome, SettingsError, TextPosition, abstain, allow, deny};
pub use image_reference::{Nearest, Pattern, Patterns, Reference, Separation, TagPattern, pattern, shorten};
pub use policy::{IntoDecision, Malfunction, Policy};
pub use settings::{Line, Mistakes, denying};
