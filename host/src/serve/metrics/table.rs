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
    ($($title:literal { $($constant:ident = $kind:ident $name:literal [$($label:literal)*] $help:literal;)* })*) => {
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
            "Reviews answered: verdict is allowed, denied, refused (malformed or over a limit), or would-deny (mode audit of the host); by is what decided it";
        REVIEW_SECONDS = Histogram "image_policy_host_review_duration_seconds" []
            "From a review's first byte to its verdict, the wait for its body and for its turn included";
        REJECTED = Counter "image_policy_host_requests_rejected" ["code"]
            "Requests without a verdict: 400 no ImageReview, 404 a GET of nothing, 405 no POST, 429 too many reviews waiting";
        WAITING = Gauge "image_policy_host_queue_reviews" ["lane"]
            "Reviews that are evaluated or wait on threads of their own, steady or slow; quick ones need none";
    }

    "Policies" {
        DECISIONS = Counter "image_policy_host_decisions" ["policy" "outcome" "code"]
            "Decisions of one policy on one image: outcome is allow, deny or abstain; code is the policy's own, or other above the bound of codes";
        MALFUNCTIONS = Counter "image_policy_host_malfunctions" ["policy" "kind"]
            "Images that a policy gave no decision on, by what went wrong";
        POLICY_SECONDS = Histogram "image_policy_host_policy_duration_seconds" ["policy"]
            "What one image takes a policy, a fresh instance included; begins anew when the policy is loaded anew";
        FAILING = Gauge "image_policy_host_policy_failing" ["policy"]
            "1 for a policy that is not loaded or only malfunctions any more";
        POLICY_INFO = Gauge "image_policy_host_policy_info" ["policy" "mode" "failure_policy" "digest"]
            "Always 1: the policies in force";
    }

    "Generations" {
        GENERATION_INFO = Gauge "image_policy_host_generation_info" ["generation" "digest"]
            "Always 1: the generation in force";
        GENERATION = Gauge "image_policy_host_generation" []
            "The number of the generation in force";
        PUBLISHED = Gauge "image_policy_host_generation_published_timestamp_seconds" []
            "When the generation in force came, in seconds since 1970";
        PINNED = Gauge "image_policy_host_pinned" []
            "1 while the generation in force is one that was put back, and stays whatever files change";
        WAITS = Gauge "image_policy_host_candidate_waiting" []
            "1 while a candidate is not put in force: it is held, refused by the gate, or waits for the end of a rollback";
        RELOADS = Counter "image_policy_host_reloads" ["result"]
            "Looks at the files: published (a new generation), unchanged, waiting (a candidate does), or failed";
        PROBLEMS = Gauge "image_policy_host_problems" []
            "Things that are not as they should be; /status names them";
    }

    "The decision log" {
        DECISION_LINES = Counter "image_policy_host_decision_log_lines" ["result"]
            "Lines of the decision log: written, dropped (the queue was full), or failed (the disk is, say)";
        DECISION_QUEUE = Gauge "image_policy_host_decision_log_queue_reviews" []
            "Reviews that wait to be written to the decision log";
    }

    "Connections" {
        CONNECTIONS = Gauge "image_policy_host_connections" ["state"]
            "Connections of the door: serving, or entering (in their handshake, or waiting for a place)";
        HANDSHAKES = Counter "image_policy_host_handshakes_refused" []
            "TLS handshakes that failed, for whatever reason: the log has it";
    }

    "TLS and the log" {
        CERTIFICATE = Gauge "image_policy_host_certificate_expiration_timestamp_seconds" ["certificate"]
            "When the first of the certificates in force expires, in seconds since 1970: serving, serving-chain (shown beside it) or client-ca";
        LINES_LEFT_OUT = Counter "image_policy_host_log_lines_left_out" ["kind"]
            "Lines that were left out of the log because there were too many of their kind";
        LINES_LOST = Counter "image_policy_host_log_lines_lost" []
            "Lines that were lost because whoever reads the log is too slow";
    }

    "The process" {
        BUILD_INFO = Gauge "image_policy_host_build_info" ["version"]
            "Always 1: what is running";
        CPU = Counter "process_cpu_seconds" []
            "User and system CPU time";
        RESIDENT = Gauge "process_resident_memory_bytes" []
            "Resident memory";
        OPEN_FILES = Gauge "process_open_fds" []
            "Open file descriptors";
        MOST_FILES = Gauge "process_max_fds" []
            "File descriptors that may be open";
        STARTED = Gauge "process_start_time_seconds" []
            "When the process started, in seconds since 1970";
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
        let _ = writeln!(text, "### {title}\n\n| metric | of | what |\n|---|---|---|");
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
