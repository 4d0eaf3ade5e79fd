//! Every metric of the host, in one table for the page and its documentation. As with limits, a row that is
//! not used for the page is dead code, which the compiler rejects.

use std::fmt::Write;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name as a scraper sees it, without a counter's suffix `_total`.
    pub name: &'static str,
    /// The description of the metric.
    pub help: &'static str,
    /// The kind of the metric.
    pub kind: Kind,
    /// The labels that distinguish the metric's series.
    pub labels: &'static [&'static str],
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only increases, from 0 at the start of the process.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Counts in buckets and a sum.
    Histogram,
}

/// A group of rows that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading of the group.
    pub title: &'static str,
    /// The rows of the group.
    pub metrics: &'static [Metric],
}

macro_rules! metrics {
    ($($title:literal { $($constant:ident =
        $kind:ident $name:literal [$($label:literal)*] $help:literal;)* })*) => {
        $($(pub(crate) const $constant: Metric =
            Metric { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] };)*)*

        /// All rows, in groups.
        pub const ALL: &[Group] = &[$(Group { title: $title, metrics: &[$(
            Metric { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] }
        ),*] }),*];
    };
}

metrics! {
    "Reviews" {
        REVIEWS = Counter "image_policy_host_reviews" ["verdict" "by"]
            "Answered reviews. verdict is allowed, denied, refused (malformed or over a limit), or \
                would-deny (mode audit of the host); by is the basis of the verdict";
        REVIEW_SECONDS = Histogram "image_policy_host_review_duration_seconds" []
            "Time from the first byte of a review to its verdict, including the wait for its body and for \
                its turn";
        REJECTED = Counter "image_policy_host_requests_rejected" ["code"]
            "Requests without a verdict: 400 no ImageReview, 404 GET of an unknown path, 405 no POST, 429 \
                too many reviews waiting";
        WAITING = Gauge "image_policy_host_queue_reviews" ["lane"]
            "Reviews that run or wait on threads of their own, in the steady or the slow lane; quick reviews \
                need no thread";
    }

    "Policies" {
        DECISIONS = Counter "image_policy_host_decisions" ["policy" "outcome" "code"]
            "Decisions of one policy on one image. outcome is allow, deny or abstain; code is that of the \
                policy, or other over the limit of codes";
        MALFUNCTIONS = Counter "image_policy_host_malfunctions" ["policy" "kind"]
            "Images on which a policy gave no decision, by the kind of the malfunction";
        POLICY_SECONDS = Histogram "image_policy_host_policy_duration_seconds" ["policy"]
            "Time of a policy for one image, including a fresh instance; starts again at zero when the \
                policy is loaded again";
        FAILING = Gauge "image_policy_host_policy_failing" ["policy"]
            "1 for a policy that is not loaded, or of which every recent run is a malfunction";
        POLICY_INFO = Gauge "image_policy_host_policy_info" ["policy" "mode" "failure_policy" "digest"]
            "Always 1: the policies in force";
    }

    "Generations" {
        GENERATION_INFO = Gauge "image_policy_host_generation_info" ["generation" "digest"]
            "Always 1: the generation in force";
        GENERATION = Gauge "image_policy_host_generation" []
            "Number of the generation in force";
        PUBLISHED = Gauge "image_policy_host_generation_published_timestamp_seconds" []
            "Time at which the generation in force was published, in seconds since 1970";
        PINNED = Gauge "image_policy_host_pinned" []
            "1 while a rollback is in force; changes of files have no effect until it is released";
        WAITS = Gauge "image_policy_host_candidate_waiting" []
            "1 while a candidate is pending: held or rejected by the gate, or until the end of a rollback";
        RELOADS = Counter "image_policy_host_reloads" ["result"]
            "Passes over the files: published (a new generation), unchanged, waiting (a candidate is \
                pending), or failed";
        PROBLEMS = Gauge "image_policy_host_problems" []
            "Problems of the configuration, the policies and the machine; /status names them";
    }

    "The decision log" {
        DECISION_LINES = Counter "image_policy_host_decision_log_lines" ["result"]
            "Lines of the decision log: written, dropped (the queue was full), or failed (the disk was full, \
                for example)";
        DECISION_QUEUE = Gauge "image_policy_host_decision_log_queue_reviews" []
            "Reviews that wait for the decision log";
    }

    "Connections" {
        CONNECTIONS = Gauge "image_policy_host_connections" ["state"]
            "Connections of the webhook: serving, or entering (in their handshake, or waiting for a slot)";
        HANDSHAKES = Counter "image_policy_host_handshakes_refused" []
            "Failed TLS handshakes; the log has the reasons";
    }

    "TLS and the log" {
        CERTIFICATE = Gauge "image_policy_host_certificate_expiration_timestamp_seconds" ["certificate"]
            "Time at which the first of the certificates in force expires, in seconds since 1970: serving, \
                serving-chain (sent with it) or client-ca";
        LINES_LEFT_OUT = Counter "image_policy_host_log_lines_left_out" ["kind"]
            "Log lines that were suppressed because there were too many of their kind";
        LINES_LOST = Counter "image_policy_host_log_lines_lost" []
            "Log lines that were lost because the reader of the log is too slow";
    }

    "The process" {
        BUILD_INFO = Gauge "image_policy_host_build_info" ["version"]
            "Always 1: the version of the host";
        CPU = Counter "process_cpu_seconds" []
            "User and system CPU time";
        RESIDENT = Gauge "process_resident_memory_bytes" []
            "Resident memory";
        OPEN_FILES = Gauge "process_open_fds" []
            "Open file descriptors";
        MOST_FILES = Gauge "process_max_fds" []
            "Limit of open file descriptors";
        STARTED = Gauge "process_start_time_seconds" []
            "Start time of the process, in seconds since 1970";
    }
}

impl Metric {
    /// Returns the name as on the page.
    pub fn full_name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{total}", self.name)
    }
}

/// Returns the tables of the documentation, in Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for Group { title, metrics } in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "### {title}\n\n| metric | kind | meaning |\n|---|---|---|");
        for metric in *metrics {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let by = if labels.is_empty() { String::new() } else { format!(" by {}", labels.join(", ")) };
            let _ = writeln!(text, "| `{}` | {kind}{by} | {} |", metric.full_name(), metric.help);
        }
        text.push('\n');
    }
    text
}
