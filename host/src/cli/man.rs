//! `host man`

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::help::command;
use super::{Exit, Failure, exit, say};
use crate::text;

/// Print the manual page, or write a page for each verb
///
/// `host man | man -l -` shows the page of the program. `host man DIR` writes host.1, host-test.1 and so on.
///
/// Exit status: 0 done, 2 usage, or a page cannot be written.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder for the pages, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    exit(write(arguments.folder.as_deref()))
}

fn write(folder: Option<&Path>) -> Result<Exit, Failure> {
    // A page lists the other pages, and `help` has none.
    let mut host = command().disable_help_subcommand(true);
    host.build();
    let Some(folder) = folder else {
        let page = page(host).map_err(Failure::broken)?;
        say(String::from_utf8_lossy(&page).trim_end())?;
        return Ok(Exit::Yes);
    };
    let verbs = host.get_subcommands().filter(|verb| !verb.is_hide_set());
    let verbs: Vec<_> = verbs.map(|verb| verb.clone().version(env!("CARGO_PKG_VERSION"))).collect();
    for command in [host].into_iter().chain(verbs) {
        let path = folder.join(format!("{}.1", title(&command)));
        let written = page(command).and_then(|page| std::fs::write(&path, page));
        written.map_err(|error| Failure::broken(format_args!("{}: {error}", text::path(&path))))?;
    }
    Ok(Exit::Yes)
}

/// Returns the name of a page: `host`, or `host-VERB`.
fn title(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

/// Returns the page of a command in roff. The paragraph on the exit status has a section of its own
/// (man-pages(7)).
fn page(mut command: Command) -> io::Result<Vec<u8>> {
    let title = title(&command);
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let (status, description): (Vec<&str>, Vec<&str>) =
        long.split("\n\n").partition(|paragraph| paragraph.starts_with(EXIT_STATUS));
    if !status.is_empty() {
        command = command.long_about(description.join("\n\n"));
    }
    let is_host = command.has_subcommands();
    let man = Man::new(command)
        .title(title)
        // An empty date would shift the fields after it. A build has no date, so that it can be repeated.
        .date(" ")
        .source(concat!("host ", env!("CARGO_PKG_VERSION")))
        .manual("Image policy host");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if is_host {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    for status in status {
        let status = status.trim_start_matches(EXIT_STATUS).trim_start();
        rest.control("SH", ["EXIT STATUS"]).text([roman(status)]);
    }
    if !is_host {
        rest.control("SH", ["SEE ALSO"]).text([roman("host(1)")]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

const EXIT_STATUS: &str = "Exit status:";
