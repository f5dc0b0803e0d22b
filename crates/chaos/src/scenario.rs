//! Scenarios as their files say them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
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
    /// How many nodes, on the simulated runtime.
    pub nodes: usize,
    /// How many replicas the Deployment has before the fault; two more are wanted right after it.
    pub replicas: u64,
    /// How often it is played; times are medians.
    pub runs: u32,
    /// What clients do meanwhile.
    pub load: Load,
    /// What goes wrong.
    pub fault: Fault,
    /// What the report compares with.
    pub limits: Limits,
}

/// What clients do; one writer and one watcher for each master, through etcd and through the Kubernetes API.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// An etcd writer's pause between writes.
    pub interval_ms: u64,
    /// An API writer's pause between ConfigMaps.
    pub configmap_interval_ms: u64,
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
    /// A master and the others cannot reach each other, while clients reach it.
    Partition,
}

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The master that leads.
    Leader,
    /// The first that does not.
    Follower,
    /// Every master.
    All,
    /// The first node.
    Node,
}

/// Times that the report compares with.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From the fault to the first acknowledged write that was begun after it.
    pub writes_resumed_ms: u64,
    /// From the fault until every watcher whose master lives has seen a write that was made after it.
    pub watchers_resumed_ms: u64,
    /// From the fault until a pod of the Deployment that was scaled then is bound to a node.
    pub controllers_resumed_ms: u64,
    /// From the fault until the lost node's pods are ready elsewhere, where a node is struck.
    pub replaced_ms: Option<u64>,
}

/// Reads scenarios, in the order of their files' names.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    files(paths)?.iter().map(|file| read(file)).collect()
}

/// The files among paths that are files or folders of them, in the order of their names.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
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
    Ok(files)
}

fn read(file: &Path) -> Result<Scenario> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario: Scenario =
        toml::from_str(&text).with_context(|| format!("{} is no scenario", file.display()))?;
    scenario.check().map_err(|why| anyhow!("{}: {why}", file.display()))?;
    Ok(scenario)
}

impl Scenario {
    fn check(&self) -> Result<(), &'static str> {
        let Self { fault, limits, .. } = self;
        if ![1, 3, 5].contains(&self.masters) || self.runs == 0 {
            return Err("masters is 1, 3 or 5, and runs at least 1");
        }
        if self.nodes == 0 || fault.target == Target::Node && self.nodes < 2 {
            return Err("nodes is at least 1, and 2 where one is struck");
        }
        if fault.kind == Kind::Partition && (fault.target == Target::Node || fault.target == Target::All) {
            return Err("a partition cuts off one master");
        }
        if (fault.target == Target::Node) != limits.replaced_ms.is_some() {
            return Err("limits.replaced_ms is there where a node is struck, and only there");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_project_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/scenarios");
        assert!(load(&[folder]).expect("scenarios").len() >= 7);
    }

    #[test]
    fn a_scenario_that_makes_no_sense_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/scenarios");
        let good = read(&folder.join("kill-leader.toml")).expect("a scenario");
        let with = |change: fn(&mut Scenario)| {
            let mut scenario = good.clone();
            change(&mut scenario);
            scenario.check()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert!(with(|scenario| scenario.masters = 2).is_err());
        assert!(with(|scenario| scenario.runs = 0).is_err());
        assert!(with(|scenario| scenario.nodes = 0).is_err());
        assert!(with(|scenario| scenario.fault.target = Target::Node).is_err(), "without a limit");
        assert!(with(|scenario| scenario.limits.replaced_ms = Some(1)).is_err());
        let all = |scenario: &mut Scenario| {
            (scenario.fault.kind, scenario.fault.target) = (Kind::Partition, Target::All);
        };
        assert!(with(all).is_err());
    }

    #[test]
    fn a_misspelt_scenario_is_refused() {
        assert!(toml::from_str::<Fault>("kind = \"kill\"\ntarget = \"leader\"\nfor_msec = 3").is_err());
        assert!(toml::from_str::<Fault>("kind = \"tickle\"\ntarget = \"leader\"\nfor_ms = 3").is_err());
    }
}
