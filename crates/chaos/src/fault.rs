//! What goes wrong: whom it strikes, how, and how it is mended.

use std::time::Duration;

use anyhow::Result;
use env::Env;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::scenario::{Fault, Kind, Target};

/// Who is struck, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// Masters.
    pub masters: Vec<usize>,
    /// Nodes.
    pub nodes: Vec<usize>,
}

impl Struck {
    /// Masters that clients can still reach and that can do their work; all when none is left.
    pub fn living(&self, size: usize) -> Vec<usize> {
        if self.masters.len() == size {
            return (0..size).collect();
        }
        (0..size).filter(|index| !self.masters.contains(index)).collect()
    }
}

/// Whom a fault strikes now that this master leads.
pub fn targets(target: Target, leader: usize, size: usize) -> Struck {
    let masters = |masters| Struck { masters, nodes: Vec::new() };
    match target {
        Target::Leader => masters(vec![leader]),
        Target::Follower => masters(vec![(leader + 1) % size]),
        Target::All => masters((0..size).collect()),
        Target::Node => Struck { masters: Vec::new(), nodes: vec![0] },
    }
}

/// When a fault began and when all were struck.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Before the first was struck: times are counted from here.
    pub begun: Instant,
    /// After the last was struck: what began later began in a cluster that was struck.
    pub done: Instant,
}

/// Strikes.
///
/// # Errors
/// The system does not let us.
pub fn strike(env: &Env, cluster: &mut Cluster<'_>, kind: Kind, struck: &Struck) -> Result<Moment> {
    let begun = env.clock.monotonic();
    for &index in &struck.masters {
        match kind {
            Kind::Kill => cluster.master(index).kill()?,
            Kind::Pause => cluster.master(index).signal(Signal::SIGSTOP)?,
            Kind::Partition => cluster.cut(index)?,
        }
    }
    for &index in &struck.nodes {
        match kind {
            Kind::Kill => cluster.node(index).kill()?,
            Kind::Pause | Kind::Partition => cluster.node(index).signal(Signal::SIGSTOP)?,
        }
    }
    Ok(Moment { begun, done: env.clock.monotonic() })
}

/// Waits and mends; when it was mended.
///
/// # Errors
/// The system does not let us.
pub async fn mend(env: &Env, cluster: &mut Cluster<'_>, fault: Fault, struck: &Struck) -> Result<Instant> {
    env.clock.sleep(Duration::from_millis(fault.for_ms)).await;
    let at = env.clock.monotonic();
    for &index in &struck.masters {
        match fault.kind {
            Kind::Kill => cluster.master(index).start()?,
            Kind::Pause => cluster.master(index).signal(Signal::SIGCONT)?,
            Kind::Partition => cluster.heal(index)?,
        }
    }
    for &index in &struck.nodes {
        match fault.kind {
            Kind::Kill => cluster.node(index).start()?,
            Kind::Pause | Kind::Partition => cluster.node(index).signal(Signal::SIGCONT)?,
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_struck_does_not_live_unless_all_are() {
        let leader = targets(Target::Leader, 2, 3);
        assert_eq!((leader.masters.clone(), leader.living(3)), (vec![2], vec![0, 1]));
        assert_eq!(targets(Target::Follower, 2, 3).masters, [0]);
        assert_eq!(targets(Target::All, 1, 3).living(3), [0, 1, 2]);
        let node = targets(Target::Node, 1, 3);
        assert_eq!((node.nodes.clone(), node.living(3)), (vec![0], vec![0, 1, 2]));
    }
}
