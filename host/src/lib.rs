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
//! The words of the flows:
//!
//! - The *world* of a component is its imports and its exports.
//! - A *policy set* is the rules of host.yaml, and all policies with their settings and limits.
//! - A *generation* is a policy set that is or was in force, with its number, time and cause.
//! - A *candidate* is a policy set that a reload has put together and that is not in force yet.
//! - The *gate* decides, by suites and by a replay of recent reviews, whether a candidate comes into force.
//! - A candidate is *pending* while the gate, or a rollback in force, keeps it out of force.
//! - A *lane* takes the evaluations of similar expected duration, and has its own time limit.
//!
//! The folders:
//!
//! ```text
//! folder     purpose
//! limits     the table of all limits
//! text       untrusted text, made safe to print
//! problem    a problem in the status: subject, effect, remedy
//! fs         reads and writes of files that other processes use too
//! isolate    work whose panic or load harms no other work
//! config     host.yaml, read and checked
//! review     the ImageReview, the decisions and the verdict
//! tls        certificates of the server, and trust in clients
//! telemetry  counters, log and decision log
//! policy     components: load, compile, run; the policy set in force
//! evaluate   every policy on every image of a review, in lanes
//! suite      test cases, their expectations and results
//! reload     from a changed file to the next generation, with gate and history
//! serve      webhook, connections, admin listener and metrics
//! author     the tools behind `host build`, `host bench` and `host test`
//! install    certificates and policies of the demo
//! cli        one file a verb; the only folder that prints
//! ```
//!
//! A folder may use only the folders that its row names. All of these are above it in the table. A test
//! checks the table. Every folder may also use `image`, which is the crate image-reference.
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
//! The files of some changes, by their paths from this folder:
//!
//! ```text
//! change                                    file
//! a capability, or an import of policies    policy/capabilities.rs
//! the message of a load that fails          policy/load.rs
//! a response's status or headers            serve/webhook.rs
//! the text of a denial                      review/verdict/reason.rs
//! the keys of audit annotations             review/verdict/annotations.rs
//! how decisions make a verdict              review/verdict.rs
//! the order in which policies run           evaluate/mod.rs
//! the time of a review in a lane            evaluate/lanes.rs
//! the default of a limit                    limits/table.rs
//! a key of host.yaml                        config/raw.rs
//! the reading of settings files             config/settings/reader.rs
//! the message for an unknown key            config/schema_check.rs
//! the reading of files with settings        config/settings/reader.rs
//! a kind of problem in the status           problem.rs
//! the quiet time before a reload            reload/watch/pause.rs
//! the time until a changed file is settled  reload/watch/file_states.rs
//! the words for the gate's differences      review/differences.rs
//! a rollback                                reload/rollback.rs
//! the cache of compiled code                policy/compile/cache.rs
//! the key of a cache entry                  policy/compile/keys.rs
//! the folder of the server's compiled code  reload/history/directory.rs reload/start.rs
//! the trust in a client certificate         tls/client_certificates.rs
//! the trust of an open connection           serve/connections/revalidation.rs
//! the connection closed by a full listener  serve/connections/fairness.rs
//! a field of the decision log               telemetry/decision_log/record.rs
//! a metric                                  serve/metrics/table.rs
//! the policies of the demo                  install/demo.rs
//! a field of `host status`                  serve/status.rs
//! the exit status of `host test`            cli/test.rs
//! the meaning of exit statuses              cli/exit.rs
//! the output of `host test` for people      author/reporters/human.rs
//! the problems in reports of `host test`    author/reporters/broken.rs
//! a result that `--update` does not write   author/update/doubt.rs
//! the lines of a failed case                suite/report.rs
//! an expectation in suite files             suite/expect/read.rs suite/expect/unmet.rs
//! a report format of `host test`            author/reporters.rs
//! a change of settings for coverage         suite/coverage/change.rs
//! the output of `host test --replay`        cli/test/replay.rs
//! the grammar of references, its errors     ../image-reference/src/reference.rs
//! ```
//!
//! Invariants, each held by tests:
//!
//! 1. [`evaluate`](evaluate::evaluate) is total: a policy that is missing, traps, exceeds its deadline or its
//!    memory, or breaks the contract yields a decision by its `failurePolicy`, by default a denial.
//! 2. A review that is denied, malformed or over a limit gets status 200 with `allowed: false`, or
//!    `allowed: true` if the host is in mode `audit`. A malfunction is such a denial unless its policy has
//!    `failurePolicy: Ignore` or is in mode `audit`. Other statuses are for requests that are no ImageReview
//!    (400, 404, 405), for a full queue or full memory (429), and for headers over their limit (431).
//! 3. A reference that does not parse is denied with the parse error, unless its namespace is exempt or the
//!    host is in mode `audit`. A parse error never counts as "no rule matches".
//! 4. References are compared field by field in normal form, never by prefix.
//! 5. A policy set is immutable, and a review uses exactly one set. A swap waits for no review, and a review
//!    waits for no swap. No review is judged by a generation with a lower number than an earlier review's. A
//!    rollback publishes the content of an older generation under a new number.
//! 6. A review gets fresh instances, one for each policy. No state outlives the review, and a policy reaches
//!    nothing that host.yaml does not grant.
//! 7. Everything that an operator or another program can use up has a limit, a row of [`limits`]. A limit
//!    that an operator may need to change has a key in host.yaml. Internal times are constants beside the
//!    code that uses them.
//! 8. An error never makes a reload weaken the policies in force, not even across a restart: while part of a
//!    change cannot be loaded, no image is allowed that these policies deny. Every error of a reload is
//!    visible in the status, the metrics and the log.
//! 9. `unsafe` occurs in one place, which loads compiled code.
//! 10. Only [`policy`] names wasmtime, only [`serve`] axum, only [`reload::watch`] notify, and only [`tls`],
//!     [`install`] and [`serve`] rustls. [`review`] and [`limits`] do no I/O.
//! 11. `host test` and `host serve` share `evaluate`, so a suite that passes predicts the decisions of the
//!     server.
//! 12. No part of a request can switch off a policy, except as these keys of host.yaml allow:
//!     `exempt.namespaces`, and a policy's `match` and `mode` (policies in mode `audit` may be left out).

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
