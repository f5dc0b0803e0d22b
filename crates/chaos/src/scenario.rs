//! Scenarios as their files say them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What happens, for people.
    pub about: String,
    /// How many masters.
    pub masters: usize,
    /// How often it is played; times are medians.
    pub runs: u32,
    /// What clients do meanwhile.
    pub load: Load,
    /// What goes wrong.
    pub fault: Fault,
    /// What the report compares with.
    pub limits: Limits,
}

/// What clients do; one writer and one watcher for each master.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// A writer's pause between writes.
    pub interval_ms: u64,
    /// Load before the fault.
    pub before_ms: u64,
    /// Load after the fault has ended.
    pub after_ms: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// How.
    pub kind: Kind,
    /// Whom it strikes.
    pub target: Target,
    /// How long it lasts: until the process is started again, or goes on.
    pub for_ms: u64,
}

/// How a process is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL, then a new process on the same folder.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Pause,
}

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The master that leads.
    Leader,
    /// The first that does not.
    Follower,
    /// Everyone.
    All,
}

/// Times that the report compares with.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From the fault to the first acknowledged write that was begun after it.
    pub writes_resumed_ms: u64,
    /// From the fault until every watcher whose master lives has seen a write that was made after it.
    pub watchers_resumed_ms: u64,
}

/// Reads scenarios, in the order of their files' names.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
            let found = entries.collect::<Result<Vec<_>, _>>()?;
            files.extend(
                found.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "toml")),
            );
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("no scenario found");
    }
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Scenario> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario: Scenario =
        toml::from_str(&text).with_context(|| format!("{} is no scenario", file.display()))?;
    if ![1, 3, 5].contains(&scenario.masters) || scenario.runs == 0 {
        bail!("{}: masters is 1, 3 or 5, and runs at least 1", file.display());
    }
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_project_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/scenarios");
        assert!(load(&[folder]).expect("scenarios").len() >= 4);
    }

    #[test]
    fn a_misspelt_scenario_is_refused() {
        assert!(toml::from_str::<Fault>("kind = \"kill\"\ntarget = \"leader\"\nfor_msec = 3").is_err());
        assert!(toml::from_str::<Fault>("kind = \"tickle\"\ntarget = \"leader\"\nfor_ms = 3").is_err());
    }
}
