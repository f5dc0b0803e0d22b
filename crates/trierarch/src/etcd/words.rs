//! The command lines of etcd's subcommands, which take flags before and behind their names.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// A command line.
#[derive(Debug)]
pub struct Words {
    values: BTreeMap<&'static str, String>,
    /// What is no flag.
    pub positional: Vec<String>,
}

impl Words {
    /// Reads a command line by a table of flags with their defaults; one whose default is `true` or `false` may stand
    /// without a value.
    ///
    /// # Errors
    /// A flag is not in the table, or has no value.
    pub fn parse(words: &[String], flags: &'static [(&'static str, &'static str)]) -> Result<Self> {
        let mut values: BTreeMap<_, _> =
            flags.iter().map(|(name, default)| (*name, (*default).to_owned())).collect();
        let (mut positional, mut words) = (Vec::new(), words.iter());
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                positional.push(word.clone());
                continue;
            };
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let Some((name, default)) = flags.iter().find(|(known, _)| *known == name) else {
                bail!("unknown flag: --{name}");
            };
            let value = match value {
                Some(value) => value.to_owned(),
                None if matches!(*default, "true" | "false") => "true".to_owned(),
                None => match words.next() {
                    Some(value) => value.clone(),
                    None => bail!("flag needs an argument: --{name}"),
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
        assert!(parse(&["--endpoints"]).is_err() && parse(&["--else"]).is_err());
    }
}
