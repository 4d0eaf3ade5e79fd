//! The log of a server, on standard error: for people on a terminal, JSON for everything else.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::limits;

/// The form of log lines.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// `text` on a terminal, `json` otherwise
    Auto,
    /// For people
    Text,
    /// One object a line
    Json,
}

/// Default filter, without RUST_LOG. notify logs each watch that went with its directory, which is usual in
/// Kubernetes volumes.
const LOG: &str = "info,notify=off";

/// The log of the process. Waiting lines are written when it is dropped.
pub(super) struct Log {
    _written: WorkerGuard,
    lost: ErrorCounter,
}

impl Log {
    /// Starts the log. A reader that stops reading must not stop reviews: lines are lost then.
    pub(super) fn begin(format: LogFormat) -> Log {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
        let waiting =
            NonBlockingBuilder::default().buffered_lines_limit(limits::LOG_BUFFER.size()).lossy(true);
        let (writer, written) = waiting.finish(io::stderr());
        let lost = writer.error_counter();
        let terminal = io::stderr().is_terminal();
        let has_colors = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // tracing would report a line that cannot be written on standard error, and panic if standard
            // error is gone.
            .log_internal_errors(false);
        match format {
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).init(),
            LogFormat::Auto if !terminal => lines.json().flatten_event(true).with_span_list(false).init(),
            _ => lines.with_ansi(has_colors).with_target(false).init(),
        }
        Log { _written: written, lost }
    }

    /// Returns a function that returns the number of lost lines.
    pub(super) fn lost(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let lost = self.lost.clone();
        move || lost.dropped_lines() as u64
    }
}
