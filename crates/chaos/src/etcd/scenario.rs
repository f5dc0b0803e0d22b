//! Scenarios of members alone, as their files say them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

/// A scenario: clients and watchers all the time, and one fault after the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What happens, for people.
    pub about: String,
    /// How many members.
    pub members: usize,
    /// How many clients; each begins at a member of its own.
    pub clients: usize,
    /// How many of them besides keep leases alive, for a while.
    #[serde(default)]
    pub keepers: usize,
    /// How many contend for a lock.
    #[serde(default)]
    pub lockers: usize,
    /// How many make use of a right that is taken and given again and again; with any of them everybody has a password.
    #[serde(default)]
    pub users: usize,
    /// How often it is played.
    pub runs: u32,
    /// Megabytes of each member's disk; without, it is the one where the scenario is played.
    #[serde(default)]
    pub disk_mb: u32,
    /// Further arguments of each member.
    #[serde(default)]
    pub flags: Vec<String>,
    /// The longest pause of a client between operations.
    pub pause_ms: u64,
    /// How many faults there are.
    pub rounds: usize,
    /// These, in turn.
    pub faults: Vec<Fault>,
    /// Threads that do nothing but keep the processors busy.
    #[serde(default)]
    pub busy: usize,
    /// Whether the leader must be the same from start to end.
    #[serde(default)]
    pub steady: bool,
    /// How long each lasts.
    pub lasts_ms: u64,
    /// From the end of one to the next.
    pub between_ms: u64,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of the leader, then a new process on the same folder.
    KillLeader,
    /// The same with another member.
    KillFollower,
    /// The same with all at once.
    KillAll,
    /// SIGSTOP of the leader, then SIGCONT.
    PauseLeader,
    /// The same with another member.
    PauseFollower,
    /// The leader and the others cannot reach each other; clients reach it.
    CutLeader,
    /// The same with another member.
    CutFollower,
    /// The leader hears nothing from the others, which hear it.
    DeafLeader,
    /// The others hear nothing from the leader, which hears them.
    MuteLeader,
    /// One packet of ten is lost between the leader and the others, either way.
    LossyLeader,
    /// The same with another member.
    LossyFollower,
    /// The leader is told to hand over.
    MoveLeader,
    /// A member is killed and removed; a new one with an empty folder takes its place.
    ReplaceFollower,
    /// Syncs of the leader's log take 200 ms until another member leads. Needs strace, or a program with failpoints.
    SlowDiskLeader,
    /// Those of all members do.
    SlowDiskAll,
    /// Syncs of the leader's log fail: it must end, and is started again. Needs strace, or a program with failpoints.
    FailingDiskLeader,
    /// The same with another member.
    FailingDiskFollower,
    /// There is no room on the leader's disk. It may end with one line that says so. Needs disks of a size, and root.
    FullDiskLeader,
    /// The same with another member.
    FullDiskFollower,
    /// The same with all members.
    FullDiskAll,
    /// The wall clocks of members jump, the leader's an hour ahead and the others' an hour back, and then back again. The
    /// program must be built with failpoints.
    ClockSteps,
    /// Nothing goes wrong: the machine is busy, and the leader must stay.
    Nothing,
    /// A member ends at a failpoint and is started again; the first string is the point, the second what happens there.
    /// The program must be built with failpoints.
    Failpoint(String, String),
}

impl Fault {
    /// Whether it needs a network of its own for each member.
    pub fn cuts(&self) -> bool {
        matches!(
            self,
            Self::CutLeader
                | Self::CutFollower
                | Self::DeafLeader
                | Self::MuteLeader
                | Self::LossyLeader
                | Self::LossyFollower
        )
    }

    /// Whether it needs a disk of its own for each member.
    pub fn fills(&self) -> bool {
        matches!(self, Self::FullDiskLeader | Self::FullDiskFollower | Self::FullDiskAll)
    }
}

/// Reads scenarios, in the order of their files' names.
///
/// # Errors
/// A file that is none.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    crate::scenario::files(paths)?.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Scenario> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scenario: Scenario =
        toml::from_str(&text).with_context(|| format!("{} is no scenario of members", file.display()))?;
    scenario.check().map_err(|why| anyhow!("{}: {why}", file.display()))?;
    Ok(scenario)
}

impl Scenario {
    fn check(&self) -> Result<()> {
        if ![1, 3, 5].contains(&self.members) || self.runs == 0 || self.clients == 0 {
            bail!("members is 1, 3 or 5, and there is at least one client and one run");
        }
        let alone = [
            &Fault::KillLeader,
            &Fault::KillAll,
            &Fault::PauseLeader,
            &Fault::SlowDiskAll,
            &Fault::FailingDiskLeader,
            &Fault::FullDiskLeader,
            &Fault::ClockSteps,
            &Fault::Nothing,
        ];
        let lonely = |fault: &&Fault| !alone.contains(fault) && !matches!(fault, Fault::Failpoint(..));
        match self.faults.iter().find(lonely) {
            Some(fault) if self.members == 1 => bail!("{fault:?} needs more than one member"),
            _ if self.faults.is_empty() && self.rounds > 0 => bail!("there are rounds and no faults"),
            _ if self.disk_mb == 0 && self.faults.iter().any(Fault::fills) => {
                bail!("disks that are to be full need a size")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_project_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/scenarios/etcd");
        assert!(load(&[folder]).expect("scenarios").len() >= 3);
    }

    #[test]
    fn a_scenario_that_makes_no_sense_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/scenarios/etcd");
        let good = read(&folder.join("linearizable.toml")).expect("a scenario");
        let alone = Scenario { members: 1, ..good.clone() };
        assert!(alone.check().expect_err("refused").to_string().contains("more than one member"));
        assert!(Scenario { members: 2, ..good.clone() }.check().is_err());
        assert!(Scenario { faults: Vec::new(), ..good }.check().is_err());
        assert!(toml::from_str::<Scenario>("name = \"x\"\nfault = 1").is_err());
    }
}
