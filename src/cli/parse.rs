//! From the words typed to [`Cli`]: a number that begins with a minus sign is a value, so that the check of its range says what
//! is wrong with it, and a number that cannot be read is answered with how it is written.

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};

use super::Cli;

/// What was typed.
///
/// # Errors
/// What the command line itself is refused for; asking for help is among it.
pub fn parse() -> Result<Cli, clap::Error> {
    let mut command = numbers_may_be_negative(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn numbers_may_be_negative(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
        .mut_subcommands(numbers_may_be_negative)
}

/// How to write a number that a flag for whole numbers could not read: `1e3`, `-1`, `1.5`.
pub fn number_hint(error: &clap::Error) -> Option<String> {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let (flag, value) = (context(ContextKind::InvalidArg)?, context(ContextKind::InvalidValue)?);
    let flag = flag.split(' ').next()?;
    let number: f64 = value.parse().ok().filter(|_| error.kind() == ErrorKind::ValueValidation)?;
    // Up to here every whole number has a float of its own.
    Some(match number.fract() == 0.0 && (0.0..=2f64.powi(53)).contains(&number) {
        true => format!("write the whole number out: `{flag} {number}`"),
        false => format!("`{flag}` takes a whole number that is not negative"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<(), clap::Error> {
        let mut command = numbers_may_be_negative(Cli::command());
        command.try_get_matches_from_mut(["ragtune"].iter().chain(words)).map(|_| ())
    }

    #[test]
    fn a_negative_number_is_a_value_and_a_whole_one_is_written_out() {
        parsed(&["train", "--lr-generator", "-1"]).unwrap();
        parsed(&["eval", "--questions", "q", "--temperature", "-0.5"]).unwrap();
        for (words, hint) in [
            (&["train", "--steps", "1e3"][..], "`--steps 1000`"),
            (&["train", "--top-k", "-1"], "not negative"),
            (&["index", "search", "--index", "i", "--query", "q", "--ef", "1.5"], "`--ef` takes a whole number"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(number_hint(&error).unwrap().contains(hint), "{words:?}: {:?}", number_hint(&error));
        }
        for words in [&["train", "--steps", "many"][..], &["train", "--stepz", "3"], &["--help"]] {
            assert_eq!(number_hint(&parsed(words).unwrap_err()), None, "{words:?}");
        }
    }
}
