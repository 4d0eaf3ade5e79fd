//! The output of verbs: whole lines on standard output and standard error, and a line of progress on a
//! terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::exit::Failure;
use super::interrupt;
use crate::text;

/// Time after which a task has a line of progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// Number of policies that a line of progress names.
const NAMED: usize = 3;
/// Columns of a terminal that does not tell its width.
const COLUMNS: usize = 80;
/// Return to the beginning of the line, and erase the line (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// Lock on the output. A thread that holds the lock writes something whole: a line, a document, a file.
static OUTPUT: Mutex<Output> = Mutex::new(Output { tasks: Vec::new(), drawn: false });

/// State of the terminal.
pub(super) struct Output {
    /// Lines of the tasks that take long, the latest at the end. Only the latest is drawn.
    tasks: Vec<String>,
    /// Whether a line of progress is on the terminal.
    drawn: bool,
}

impl Output {
    /// Erases the line of progress.
    pub(super) fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "{ERASE}");
        }
    }

    fn draw(&mut self) {
        self.erase();
        if let Some(task) = self.tasks.last() {
            let _ = write!(io::stderr(), "{}", shortened(task, columns()));
            self.drawn = true;
        }
    }
}

/// Waits until no thread writes, at most for `patience`, and then keeps the output: a reader may have stopped
/// reading.
pub(super) fn seize(patience: Duration) -> Option<MutexGuard<'static, Output>> {
    OUTPUT.try_lock_for(patience)
}

/// Runs `write`, which an interrupt does not divide.
pub(super) fn whole<T>(write: impl FnOnce() -> T) -> T {
    interrupt::wait_if_interrupted();
    let mut output = OUTPUT.lock();
    output.erase();
    let result = write();
    output.draw();
    result
}

/// Writes each line of `message` to standard error. A line that begins with a space belongs to the line
/// before.
pub(super) fn tell(message: &str) {
    whole(|| {
        for line in message.lines() {
            let name = if line.starts_with(' ') { "" } else { "host: " };
            // An error means that standard error has no reader. The exit status still tells the result.
            let _ = writeln!(anstream::stderr(), "{name}{line}");
        }
    });
}

/// Writes `text` and a line break to standard output, without its styles where colours are off. A closed pipe
/// (`| head`) is no failure: the exit status still tells the result.
pub(super) fn say(text: impl Display) -> Result<(), Failure> {
    let text = text.to_string();
    match whole(|| writeln!(anstream::stdout(), "{text}")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::broken(format_args!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Standard output for a writer of parts. It writes whole lines, between which a line of progress may stand.
pub(super) struct StandardOutput {
    output: anstream::Stdout,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl StandardOutput {
    pub(super) fn new() -> StandardOutput {
        StandardOutput { output: anstream::stdout(), line: Vec::new() }
    }
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        let end = self.line.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.line.drain(..end).collect();
        if !lines.is_empty() {
            whole(|| self.output.write_all(&lines))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.line) {
            rest if rest.is_empty() => self.output.flush(),
            rest => whole(|| self.output.write_all(&rest).and_then(|()| self.output.flush())),
        }
    }
}

/// Writes a document as JSON, in which no character can control a terminal.
pub(super) fn say_json(document: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(document).map_err(Failure::broken)?;
    say(text::escape_json(&json))
}

/// Runs `work`. While the work takes longer than a second, a terminal shows `verb`, the names and `…`.
pub(super) fn with_progress<T>(verb: &str, names: &[&str], work: impl FnOnce() -> T) -> T {
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    if is_dumb || !io::stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        let (done, end) = channel::<()>();
        let show = move || {
            if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let task = format!("{verb} {}…", listed(names));
                change(|output| output.tasks.push(task.clone()));
                // An error means that the work has ended.
                let _ = end.recv();
                change(|output| output.tasks.retain(|other| *other != task));
            }
        };
        // Without the thread the work is done all the same.
        let _ = thread::Builder::new().name("progress".to_owned()).spawn_scoped(scope, show);
        let result = work();
        drop(done);
        result
    })
}

fn change(change: impl FnOnce(&mut Output)) {
    let mut output = OUTPUT.lock();
    change(&mut output);
    output.draw();
}

/// Returns the first names, and the number of the others.
fn listed(names: &[&str]) -> String {
    let mut shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(NAMED).filter(|more| *more > 0) {
        shown.push_str(&format!(" and {more} more"));
    }
    if shown.is_empty() { "policies".to_owned() } else { shown }
}

/// Returns the width of the terminal on standard error.
fn columns() -> usize {
    let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// Returns `line`, cut so that it stays on one line of a terminal with `columns` columns.
fn shortened(line: &str, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    if line.chars().count() <= room {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(room.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::{listed, shortened};

    #[test]
    fn a_line_of_progress_names_a_few_policies() {
        assert_eq!(listed(&[]), "policies");
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b", "c"]), "a, b, c");
        assert_eq!(listed(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }

    #[test]
    fn a_line_of_progress_stays_on_its_line() {
        assert_eq!(shortened("compiling a…", 13), "compiling a…");
        assert_eq!(shortened("compiling ab…", 13), "compiling a…");
        assert_eq!(shortened("compiling a…", 1), "…");
    }
}
