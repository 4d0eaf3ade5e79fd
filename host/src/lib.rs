//! A policy host for container images in Kubernetes: the backend of the kube-apiserver's `ImagePolicyWebhook`.
//!
//! Two flows make up the whole. Each names the folders that it passes.
//!
//! ```text
//! a review     bytes -> Review -> policy x image -> Decision -> Verdict -> response
//!              serve    review    evaluate, policy   review      review     serve, telemetry
//! a reload     event -> read -> check world -> compile (in a child) -> configure -> gate -> record -> swap
//!              reload   config   policy         policy                 policy       reload  reload    policy
//! ```
//!
//! A folder uses those above it in this table, and no others than its row names. A test checks the table.
//!
//! ```text
//! folder     uses
//! limits     -
//! text       limits
//! fs         text
//! config     fs limits text
//! review     config limits text
//! tls        config fs limits text
//! telemetry  config fs limits review text
//! policy     config fs limits review telemetry text
//! evaluate   config limits policy review text
//! suite      config evaluate fs limits policy review text
//! reload     config evaluate fs limits policy review suite telemetry text tls
//! serve      config evaluate fs limits policy reload review telemetry text tls
//! author     config limits policy review text
//! install    review text
//! cli        author config evaluate install limits policy reload review serve suite text
//! ```
//!
//! Invariants, each held by tests:
//!
//! 1. [`evaluate`](evaluate::evaluate) is total: a missing, trapping, late, greedy or lying policy is a decision by its
//!    `failurePolicy`, by default a denial.
//! 2. A denial, a malfunction and an exceeded limit are answered 200 with `allowed: false`. Other statuses are for
//!    requests that are no ImageReview, and for overload.
//! 3. A reference that does not parse is denied with the parse error; it never means that no rule matched.
//! 4. References are compared field by field in normal form, never by prefix.
//! 5. A policy set is immutable and a review sees exactly one; a swap waits for no review, nor a review for a swap. No
//!    review is judged by an older generation than one before it, except after a rollback.
//! 6. A review gets fresh instances, one a policy. Nothing survives it, and no capability is ambient.
//! 7. Everything is bounded, by a row of [`limits`]. A limit that an operator may have to change has a key in host.yaml.
//! 8. A reload never weakens what is in force because of an error, across a restart neither, and every error is visible
//!    from outside.
//! 9. `unsafe` stands in one place, where compiled code is loaded.
//! 10. wasmtime is named in [`policy`] only, axum in [`serve`], inotify in [`reload::watch`], rustls in [`tls`],
//!     [`install`] and [`serve`]. [`review`] and [`limits`] do no I/O.
//! 11. `host test` and `host serve` share `evaluate`: a suite that passes predicts the server.
//! 12. Nothing in a request can switch a policy off, except what host.yaml authorises.

pub mod limits;
pub mod text;
pub mod fs;
pub mod config;
pub use image_reference as image;
pub mod review;
pub mod tls;
pub mod telemetry;
pub mod policy;
pub mod evaluate;
pub mod suite;
pub mod reload;
pub mod serve;
pub mod author;
pub mod install;
pub mod cli;
