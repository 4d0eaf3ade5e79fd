//! A policy host for container images in Kubernetes: the backend of the kube-apiserver's `ImagePolicyWebhook`.
//!
//! Two flows make up the whole:
//!
//! ```text
//! a review     bytes -> Review { namespace, annotations, images } -> policy x image -> Decision -> Verdict -> answer
//! a reload     a path changed -> read -> check world -> compile (in a child) -> configure -> gate -> record -> swap
//! ```
//!
//! The modules below are declared in reading order. The core at the top is pure; each further part may use those
//! before it. What must hold, and is held by tests:
//!
//! 1. [`evaluate`](evaluate::evaluate) is total: a missing, trapping, late, greedy or lying policy is a decision by its
//!    `failurePolicy`, by default a denial.
//! 2. A denial, a malfunction and an exceeded bound are answered 200 with `allowed: false`. Other statuses are for what
//!    is no ImageReview, and for overload.
//! 3. A reference that does not parse is denied with the parse error; it never means that no rule matched.
//! 4. References are compared field by field in normal form, never by prefix.
//! 5. A policy set is immutable and a review sees exactly one; a swap waits for no review, nor a review for a swap. No
//!    review is judged by an older generation than one before it, unless someone rolled back.
//! 6. A review gets fresh instances, one a policy. Nothing survives it, and no capability is ambient.
//! 7. Everything is bounded, by a row of [`bounds`]. What an operator may have to change has a key in host.yaml.
//! 8. A reload never weakens what is in force because of an error, across a restart neither, and every error is visible
//!    from outside.
//! 9. `unsafe` stands in one place, where compiled code is loaded.
//! 10. wasmtime is named in [`policy`] only, axum in [`server`], inotify in [`watch`], rustls in [`tls`], [`pki`] and
//!     [`server`]. The core does no I/O.
//! 11. `host test` and `host serve` share `evaluate`: a suite that passes predicts the server.
//! 12. Nothing in a request can switch a policy off, except what host.yaml authorises.

// The core: data in, data out.
pub mod limits;
pub mod text;
pub use image_reference as image;
pub mod fs;
pub mod config;
pub mod review;

// The sandbox, and policies on a review.
pub mod policy;
pub mod evaluate;
pub mod suite;

// What is left of a review.

// A reload.
pub mod reload;

// The edges.
pub mod tls;
pub mod serve;
pub mod cli;
pub mod telemetry;
pub mod author;
pub mod install;
