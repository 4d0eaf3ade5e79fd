//! Image policy host for Kubernetes: the backend of the kube-apiserver's `ImagePolicyWebhook`.
//!
//! The program consists of two flows. Each flow is shown with the folders that take part in it.
//!
//! ```text
//! a review     bytes -> Review -> policy x image -> Decision -> Verdict -> response
//!              serve    review    evaluate, policy   review      review     serve, telemetry
//! a reload     event -> read -> check world -> compile (in a child) -> configure -> gate -> record -> swap
//!              reload   config   policy         policy                 policy       reload  reload    policy
//! ```
//!
//! A folder may use only the folders that its row names. All of these are above it in the table. A test
//! checks the table.
//!
//! ```text
//! folder     uses
//! limits     -
//! text       limits
//! problem    limits text
//! fs         text
//! isolate    -
//! config     fs limits text
//! review     config limits text
//! tls        config fs limits text
//! telemetry  config fs limits review text
//! policy     config fs isolate limits review telemetry text
//! evaluate   config isolate limits policy review text
//! suite      config evaluate fs limits policy review text
//! reload     config evaluate fs isolate limits policy problem review suite telemetry text tls
//! serve      config evaluate fs isolate limits policy problem reload review telemetry text tls
//! author     config evaluate fs isolate limits policy problem reload review suite telemetry text
//! install    review text
//! cli        author config evaluate install limits policy problem reload review serve suite text
//! ```
//!
//! The files of some changes:
//!
//! ```text
//! change                                    file
//! a capability, or an import of policies    policy/capabilities.rs
//! a response's status or headers            serve/webhook.rs
//! the text of a denial                      review/verdict/reason.rs
//! the keys of audit annotations             review/verdict/annotations.rs
//! the order in which policies run           evaluate/mod.rs
//! the time of a review in a lane            evaluate/lanes.rs
//! the default of a limit                    limits/table.rs
//! a key of host.yaml                        config/raw.rs
//! the message for an unknown key            config/schema_check.rs
//! a kind of problem in the status           problem.rs
//! the pause before a reload                 reload/watch/pause.rs
//! the time until a file's errors are shown  reload/watch/file_states.rs
//! the words for the gate's differences      review/differences.rs
//! a rollback                                reload/rollback.rs
//! the folder of compiled code               policy/compile/cache.rs
//! the trust in a client certificate         tls/client_certificates.rs
//! the connection closed by a full listener  serve/connections/fairness.rs
//! a field of the decision log               telemetry/decision_log/record.rs
//! a metric                                  serve/metrics/table.rs
//! the policies of the demo                  install/demo.rs
//! the output of `host test`                 cli/test.rs
//! the output of `host test --replay`        cli/test/replay.rs
//! the lines of a failed case                suite/report.rs
//! a change of settings for coverage         suite/coverage/change.rs
//! ```
//!
//! Invariants, each held by tests:
//!
//! 1. [`evaluate`](evaluate::evaluate) is total: a policy that is missing, traps, exceeds its deadline or its
//!    memory, or breaks the contract yields a decision by its `failurePolicy`, by default a denial.
//! 2. A denial, a malfunction and an exceeded limit result in status 200 with `allowed: false`. Other
//!    statuses are for requests that are no ImageReview, and for overload.
//! 3. A reference that does not parse is denied with the parse error. A parse error never counts as "no rule
//!    matches".
//! 4. References are compared field by field in normal form, never by prefix.
//! 5. A policy set is immutable, and a review uses exactly one set. A swap waits for no review, and a review
//!    waits for no swap. No review is judged by an older generation than an earlier review, except after a
//!    rollback.
//! 6. A review gets fresh instances, one for each policy. No state outlives the review, and no capability is
//!    ambient.
//! 7. Every resource has a limit, a row of [`limits`]. A limit that an operator may need to change has a key
//!    in host.yaml.
//! 8. An error never makes a reload weaken the policies in force, not even across a restart. Every error is
//!    visible from outside.
//! 9. `unsafe` occurs in one place, which loads compiled code.
//! 10. Only [`policy`] names wasmtime, only [`serve`] axum, only [`reload::watch`] notify, and only [`tls`],
//!     [`install`] and [`serve`] rustls. [`review`] and [`limits`] do no I/O.
//! 11. `host test` and `host serve` share `evaluate`, so a suite that passes predicts the decisions of the
//!     server.
//! 12. No part of a request can switch off a policy, except as host.yaml allows.

pub mod limits;
pub mod text;
pub mod problem;
pub mod fs;
pub mod isolate;
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
