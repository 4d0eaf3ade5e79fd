//! The log of a server, on standard error: for people on a terminal, JSON for everything else.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::limits;

/// How lines are written.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// `text` on a terminal, `json` otherwise
    Auto,
    /// For people
    Text,
    /// One object a line
    Json,
}

/// What is logged unless RUST_LOG says otherwise. notify warns of directories that are gone, which the reload reports itself.
const LOG: &str = "info,notify=off";

/// A log that is written. What still waits is written when it is dropped.
pub(super) struct Log {
    _written: WorkerGuard,
    lost: ErrorCounter,
}

impl Log {
    /// Begins to log. Whoever reads the log and stops reading must not stop the reviews: lines are lost then.
    pub(super) fn begin(format: LogFormat) -> Log {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
        let waiting =
            NonBlockingBuilder::default().buffered_lines_limit(limits::LOG_BUFFER.size()).lossy(true);
        let (writer, written) = waiting.finish(io::stderr());
        let lost = writer.error_counter();
        let terminal = io::stderr().is_terminal();
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // A line that cannot be written would be reported on standard error, which panics when that is what is gone.
            .log_internal_errors(false);
        match format {
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).init(),
            LogFormat::Auto if !terminal => lines.json().flatten_event(true).with_span_list(false).init(),
            _ => lines.with_ansi(terminal).with_target(false).init(),
        }
        Log { _written: written, lost }
    }

    /// How many lines were lost until now.
    pub(super) fn lost(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let lost = self.lost.clone();
        move || lost.dropped_lines() as u64
    }
}
