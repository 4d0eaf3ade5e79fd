//! The help of the program: its verbs in groups.

use clap::builder::StyledStr;
use clap::{Command, CommandFactory};

use super::Arguments;

/// Verbs by those who need them, in the order of the help.
const GROUPS: [(&str, &[&str]); 3] = [
    ("For operators", &["serve", "status", "rollback", "approve", "review"]),
    ("For policy authors", &["test", "build", "inspect", "bench", "schema"]),
    ("Other", &["completions", "man", "help"]),
];

/// Returns the command line, with its verbs in groups.
pub(super) fn command() -> Command {
    let mut command = Arguments::command();
    let verbs = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter());
    for (order, verb) in verbs.enumerate() {
        // clap adds `help` later.
        if command.find_subcommand(verb).is_some() {
            command = command.mut_subcommand(verb, |verb| verb.display_order(order));
        }
    }
    let (list, options) = (list(&command), heading(&command, "Options"));
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}\n{options}\n{{options}}\n\n\
         `host VERB --help` has the options of a verb"
    ))
}

fn group(verb: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(_, verbs)| verbs.contains(&verb)).map(|(name, _)| *name)
}

/// Returns the list of verbs as clap writes it, with a heading before each group.
fn list(command: &Command) -> String {
    let rendered: StyledStr = command.clone().help_template("{subcommands}").render_help();
    let mut list = String::new();
    let mut last = None;
    for (line, styled) in rendered.to_string().lines().zip(rendered.ansi().to_string().lines()) {
        // A verb stands in the third column. The other lines continue its text.
        let verb = line.strip_prefix("  ").filter(|verb| !verb.starts_with(' '));
        let group = verb.and_then(|verb| group(verb.split(' ').next()?));
        if let Some(name) = group.filter(|_| group != last) {
            if last.is_some() {
                list.push('\n');
            }
            list.push_str(&heading(command, name));
            list.push('\n');
            last = group;
        }
        list.push_str(styled);
        list.push('\n');
    }
    list
}

fn heading(command: &Command, name: &str) -> String {
    let style = command.get_styles().get_header();
    format!("{style}{name}:{style:#}")
}

#[cfg(test)]
mod tests {
    use super::{GROUPS, command, group};

    #[test]
    fn every_verb_is_in_a_group() {
        let mut command = command();
        command.build();
        command.clone().debug_assert();
        let visible = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let names: Vec<_> = visible.map(|verb| verb.get_name()).collect();
        for name in &names {
            assert!(group(name).is_some(), "{name} is in no group of the help");
        }
        for verb in GROUPS.iter().flat_map(|(_, verbs)| verbs.iter()) {
            assert!(names.contains(verb), "there is no verb {verb}");
        }
    }

    #[test]
    fn the_help_lists_each_verb_once_below_its_heading() {
        let help = command().render_help().to_string();
        let at = |text: &str| {
            let found: Vec<_> = help.match_indices(text).collect();
            assert_eq!(found.len(), 1, "{text:?} in\n{help}");
            found[0].0
        };
        for (name, verbs) in GROUPS {
            let mut last = at(&format!("\n{name}:\n"));
            for verb in verbs {
                let place = at(&format!("\n  {verb} "));
                assert!(place > last, "{verb} in\n{help}");
                last = place;
            }
        }
    }
}
