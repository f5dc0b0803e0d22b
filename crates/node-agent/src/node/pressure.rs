//! Whether the node runs short of memory, disk or process ids, from what was measured. Pure.
//!
//! The thresholds are the kubelet's hard ones in its notation (`--eviction-hard`). This agent reports pressure, which
//! keeps new pods away by the node's taints; it does not evict.

use std::str::FromStr;
use std::time::Duration;

use env::Timestamp;

use crate::pod::quantity;

/// A condition stays for so long after what caused it was last seen (upstream's pressure transition period).
const TRANSITION: Duration = Duration::from_secs(300);

/// How much of something there is: bytes, inodes or process ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Supply {
    pub available: u64,
    pub capacity: u64,
}

/// What was measured; `None` where the kernel did not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    pub memory: Option<Supply>,
    pub disk: Option<Supply>,
    pub inodes: Option<Supply>,
    pub pids: Option<Supply>,
}

/// The least that must be available.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    /// Bytes, inodes or process ids.
    Amount(u64),
    /// Of what there is altogether.
    Percent(f64),
}

impl Least {
    fn is_undercut(self, supply: Option<Supply>) -> bool {
        let Some(supply) = supply else { return false };
        match self {
            Self::Amount(amount) => supply.available < amount,
            Self::Percent(percent) => (supply.available as f64) < supply.capacity as f64 * percent / 100.0,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            return percent.parse().ok().filter(|percent| *percent >= 0.0).map(Self::Percent);
        }
        u64::try_from(quantity::value(text)?).ok().map(Self::Amount)
    }
}

/// Below which amounts the node reports pressure; a signal without a threshold never does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    memory: Option<Least>,
    disk: Option<Least>,
    inodes: Option<Least>,
    pids: Option<Least>,
}

/// The kubelet's defaults, and a tenth of the process ids.
impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory: Some(Least::Amount(100 << 20)),
            disk: Some(Least::Percent(10.0)),
            inodes: Some(Least::Percent(5.0)),
            pids: Some(Least::Percent(10.0)),
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    /// `memory.available<100Mi,nodefs.available<10%`; what is not named has no threshold.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut thresholds = Self { memory: None, disk: None, inodes: None, pids: None };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (signal, least) =
                part.split_once('<').ok_or_else(|| format!("{part:?} is not of the form signal<amount"))?;
            let place = match signal.trim() {
                "memory.available" => &mut thresholds.memory,
                "nodefs.available" => &mut thresholds.disk,
                "nodefs.inodesFree" => &mut thresholds.inodes,
                "pid.available" => &mut thresholds.pids,
                other => return Err(format!("{other:?} is not measured by this agent")),
            };
            let least = least.trim();
            let parsed = Least::parse(least);
            *place = Some(parsed.ok_or_else(|| format!("{least:?} is neither a quantity nor a percentage"))?);
        }
        Ok(thresholds)
    }
}

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// When each shortage was last seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    pid: Option<Timestamp>,
}

/// The conditions now; `seen` remembers, so that none comes and goes with every look.
pub(crate) fn decide(
    signals: &Signals,
    thresholds: &Thresholds,
    seen: &mut Seen,
    now: Timestamp,
) -> Pressure {
    let short = |least: Option<Least>, supply| least.is_some_and(|least| least.is_undercut(supply));
    let held = |last: &mut Option<Timestamp>, is_short: bool| {
        if is_short {
            *last = Some(now);
        }
        last.is_some_and(|at| now.since(at) < TRANSITION)
    };
    let disk = short(thresholds.disk, signals.disk) || short(thresholds.inodes, signals.inodes);
    Pressure {
        memory: held(&mut seen.memory, short(thresholds.memory, signals.memory)),
        disk: held(&mut seen.disk, disk),
        pid: held(&mut seen.pid, short(thresholds.pids, signals.pids)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn supply(available: u64, capacity: u64) -> Option<Supply> {
        Some(Supply { available, capacity })
    }

    fn once(signals: Signals) -> Pressure {
        decide(&signals, &Thresholds::default(), &mut Seen::default(), at(0))
    }

    #[test]
    fn the_defaults_are_the_kubelets() {
        const MIB: u64 = 1 << 20;
        let none = Pressure::default();
        assert_eq!(once(Signals::default()), none, "nothing is claimed that was not measured");
        let fine = Signals {
            memory: supply(100 * MIB, 1 << 30),
            disk: supply(10, 100),
            inodes: supply(5, 100),
            pids: supply(10, 100),
        };
        assert_eq!(once(fine), none);
        let memory = Signals { memory: supply(100 * MIB - 1, 1 << 30), ..fine };
        assert_eq!(once(memory), Pressure { memory: true, ..none });
        let disk = Pressure { disk: true, ..none };
        assert_eq!(once(Signals { disk: supply(9, 100), ..fine }), disk);
        assert_eq!(once(Signals { inodes: supply(4, 100), ..fine }), disk);
        assert_eq!(once(Signals { pids: supply(9, 100), ..fine }), Pressure { pid: true, ..none });
    }

    #[test]
    fn a_condition_outlasts_its_cause_for_five_minutes() {
        let (mut seen, thresholds) = (Seen::default(), Thresholds::default());
        let mut memory = |available, seconds| {
            let signals = Signals { memory: supply(available, 1 << 30), ..Signals::default() };
            decide(&signals, &thresholds, &mut seen, at(seconds)).memory
        };
        assert!(!memory(1 << 29, 0));
        assert!(memory(1 << 20, 10));
        assert!(memory(1 << 29, 20) && memory(1 << 29, 309));
        assert!(!memory(1 << 29, 310));
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_writes_them() {
        let read = |text: &str| text.parse::<Thresholds>();
        let all = "memory.available<100Mi,nodefs.available<10%, nodefs.inodesFree<5%,pid.available<10%";
        assert_eq!(read(all), Ok(Thresholds::default()));
        let none = Thresholds { memory: None, disk: None, inodes: None, pids: None };
        assert_eq!(read(""), Ok(none));
        assert_eq!(read("nodefs.available<0%"), Ok(Thresholds { disk: Some(Least::Percent(0.0)), ..none }));
        assert!(read("imagefs.available<15%").is_err_and(|text| text.contains("not measured")));
        assert!(read("memory.available<x").is_err() && read("memory.available").is_err());
    }
}
