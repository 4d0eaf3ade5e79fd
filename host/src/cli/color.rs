//! Colours of the output. Without `--color`, a terminal has colours unless NO_COLOR or CLICOLOR=0 is set, and
//! a pipe has none unless CLICOLOR_FORCE is set.

use std::ffi::OsString;

use clap::{ColorChoice, ValueEnum as _};

/// Sets the colours of everything that is printed from now on, including the messages of clap.
pub(super) fn set(choice: ColorChoice) {
    let choice = match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
}

/// Returns the value of `--color`, for messages about arguments that do not parse.
pub(super) fn of_arguments(arguments: impl IntoIterator<Item = OsString>) -> ColorChoice {
    let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
    let mut choice = ColorChoice::Auto;
    while let Some(argument) = arguments.next() {
        let value = match argument.to_str() {
            Some("--color") => arguments.next().and_then(|value| value.into_string().ok()),
            Some(argument) => argument.strip_prefix("--color=").map(str::to_owned),
            None => None,
        };
        // clap reports a value that is none of the choices.
        choice = value.and_then(|value| ColorChoice::from_str(&value, false).ok()).unwrap_or(choice);
    }
    choice
}

#[cfg(test)]
mod tests {
    use clap::ColorChoice;

    use super::of_arguments;

    #[test]
    fn color_is_read_before_the_arguments_are_parsed() {
        let choices = [
            ("host test", ColorChoice::Auto),
            ("host --color never test", ColorChoice::Never),
            ("host test --color=always", ColorChoice::Always),
            ("host test --color", ColorChoice::Auto),
            ("host --color=never test --color blue", ColorChoice::Never),
            ("host review -- --color=never", ColorChoice::Auto),
        ];
        for (line, choice) in choices {
            assert_eq!(of_arguments(line.split(' ').map(Into::into)), choice, "{line}");
        }
    }
}
