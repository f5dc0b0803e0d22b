//! The command lines of etcd's subcommands, which take flags before and behind their names, and their help.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Flags with their defaults; one whose default is `true` or `false` may stand without a value.
type Table = &'static [(&'static str, &'static str)];

/// A program of etcd's that is started with `etcd NAME start`.
pub struct Subcommand {
    /// Its name.
    pub name: &'static str,
    /// What it is, for its help.
    pub about: &'static str,
    /// What `start` takes.
    pub flags: Table,
}

/// Why a command line starts nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Somebody asked for help.
    #[error("help was asked for")]
    Help,
    /// There is no such flag.
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// There are no flags of one letter.
    #[error("unknown shorthand flag in {0}")]
    Short(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: --{0}")]
    NoValue(String),
}

impl Subcommand {
    /// Reads a command line. Where nothing is to be started, help or an error has been printed; the exit code is then
    /// etcd's.
    ///
    /// # Errors
    /// The exit code.
    pub fn read(&self, words: &[String]) -> Result<Words, ExitCode> {
        let is_start = words.iter().any(|word| word == "start");
        match Words::parse(words, self.flags) {
            Ok(words) if words.positional.first().is_some_and(|word| word == "start") => Ok(words),
            Ok(_) | Err(WordsError::Help) => {
                print!("{}\n\n{}", self.about, self.usage(is_start));
                Err(ExitCode::SUCCESS)
            }
            Err(error) => {
                eprint!("Error: {error}\n{}", self.usage(is_start));
                Err(ExitCode::FAILURE)
            }
        }
    }

    fn usage(&self, start: bool) -> String {
        let name = self.name;
        if !start {
            return format!(
                "Usage:\n  etcd {name} [command]\n\nAvailable Commands:\n  start       {}\n\nFlags:\n  -h, --help\n",
                self.about
            );
        }
        let mut text = format!("Usage:\n  etcd {name} start [flags]\n\nFlags:\n  -h, --help\n");
        for (flag, default) in self.flags {
            let shown = if default.is_empty() { String::new() } else { format!(" (default {default})") };
            writeln!(text, "      --{flag}{shown}").expect("invariant: a String takes everything");
        }
        text
    }
}

/// A command line.
#[derive(Debug)]
pub struct Words {
    values: BTreeMap<&'static str, String>,
    /// What is no flag.
    pub positional: Vec<String>,
}

impl Words {
    /// Reads a command line by a table of flags.
    ///
    /// # Errors
    /// Help is asked for, or a flag is not in the table, or has no value.
    pub fn parse(words: &[String], flags: Table) -> Result<Self, WordsError> {
        let mut values: BTreeMap<_, _> =
            flags.iter().map(|(name, default)| (*name, (*default).to_owned())).collect();
        let (mut positional, mut words) = (Vec::new(), words.iter());
        while let Some(word) = words.next() {
            if word == "-h" || word == "--help" {
                return Err(WordsError::Help);
            }
            let Some(flag) = word.strip_prefix("--") else {
                if word.len() > 1 && word.starts_with('-') {
                    return Err(WordsError::Short(word.clone()));
                }
                positional.push(word.clone());
                continue;
            };
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let Some((name, default)) = flags.iter().find(|(known, _)| *known == name) else {
                return Err(WordsError::Unknown(name.to_owned()));
            };
            let value = match value {
                Some(value) => value.to_owned(),
                None if matches!(*default, "true" | "false") => "true".to_owned(),
                None => match words.next() {
                    Some(value) => value.clone(),
                    None => return Err(WordsError::NoValue((*name).to_owned())),
                },
            };
            values.insert(name, value);
        }
        Ok(Self { values, positional })
    }

    /// A flag's value.
    ///
    /// # Panics
    /// If the table has no such flag.
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).expect("invariant: only flags of the table are asked for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[(&str, &str)] = &[("endpoints", "a"), ("loud", "false")];

    #[test]
    fn flags_stand_where_they_like() {
        let parse = |words: &[&str]| {
            Words::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), FLAGS)
        };
        let words = parse(&["--endpoints=b", "start", "--loud", "x"]).expect("words");
        assert_eq!((words.get("endpoints"), words.get("loud")), ("b", "true"));
        assert_eq!(words.positional, ["start", "x"]);
        assert_eq!(parse(&["--endpoints", "c"]).expect("words").get("endpoints"), "c");
        assert_eq!(parse(&["--endpoints"]).err(), Some(WordsError::NoValue("endpoints".to_owned())));
        assert_eq!(parse(&["--else"]).err(), Some(WordsError::Unknown("else".to_owned())));
        assert_eq!(parse(&["start", "-x"]).err(), Some(WordsError::Short("-x".to_owned())));
        assert_eq!(parse(&["start", "--loud", "-h"]).err(), Some(WordsError::Help));
    }
}
