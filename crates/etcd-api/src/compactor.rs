//! Compaction by itself (etcd's `--auto-compaction-mode` and `--auto-compaction-retention`). Every member keeps count;
//! the one that leads compacts.

use std::collections::VecDeque;
use std::time::Duration;

use env::{Env, Shutdown};
use mvcc::{Command, Revision};
use store::Store;

const HOUR: Duration = Duration::from_secs(3_600);
/// How often revisions are looked at when so many of them are kept.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Looks between two compactions by time.
const LOOKS: u32 = 10;

/// What of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// What is younger.
    Period(Duration),
    /// So many revisions.
    Revisions(u64),
}

impl Retention {
    /// Reads the two flags; `None` where nothing is ever compacted.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(mode: &str, retention: &str) -> Result<Option<Self>, String> {
        let wrong = || format!("error parsing CompactionRetention: {retention:?}");
        let number = retention.parse::<u64>().ok();
        let kept = match mode {
            "periodic" => Self::Period(match number {
                Some(hours) => Duration::from_secs(hours.saturating_mul(3_600)),
                None => duration(retention).ok_or_else(wrong)?,
            }),
            "revision" => Self::Revisions(number.ok_or_else(wrong)?),
            other => return Err(format!("unknown auto-compaction-mode {other:?}")),
        };
        Ok(Some(kept).filter(|kept| !matches!(kept, Self::Period(Duration::ZERO) | Self::Revisions(0))))
    }

    fn interval(self) -> Duration {
        match self {
            Self::Period(period) => period.min(HOUR) / LOOKS,
            Self::Revisions(_) => REVISION_INTERVAL,
        }
    }
}

/// A whole number and a unit: `30m`, `90s`, `2h`, `500ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.saturating_mul(millis)))
}

/// What was seen, and what follows from it. Pure.
#[derive(Debug)]
struct Compactor {
    retention: Retention,
    /// The revision at each look, oldest first.
    seen: VecDeque<Revision>,
    /// Looks since the last compaction.
    looks: u32,
    last: Revision,
}

impl Compactor {
    fn new(retention: Retention) -> Self {
        Self { retention, seen: VecDeque::new(), looks: 0, last: 0 }
    }

    /// The revision to compact at, if it is time to.
    fn look(&mut self, now: Revision) -> Option<Revision> {
        let wanted = match self.retention {
            Retention::Revisions(kept) => now - i64::try_from(kept).unwrap_or(i64::MAX),
            Retention::Period(period) => {
                self.seen.push_back(now);
                self.looks += 1;
                let interval = self.retention.interval().as_nanos().max(1);
                let kept = usize::try_from(period.as_nanos() / interval).unwrap_or(usize::MAX);
                if self.seen.len() <= kept {
                    return None;
                }
                let oldest = self.seen.pop_front()?;
                if self.looks < LOOKS {
                    return None;
                }
                oldest
            }
        };
        (wanted > 0 && wanted != self.last).then_some(wanted)
    }

    fn compacted(&mut self, revision: Revision) {
        self.last = revision;
        self.looks = 0;
    }
}

/// Compacts until shutdown.
pub async fn auto_compact(env: Env, store: Store, retention: Retention, shutdown: Shutdown) {
    let mut compactor = Compactor::new(retention);
    loop {
        tokio::select! {
            () = env.clock.sleep(retention.interval()) => {}
            () = shutdown.wait() => return,
        }
        let Some(revision) = compactor.look(store.view().revision()) else { continue };
        if !store.leadership().borrow().is_leader {
            continue;
        }
        match store.propose(Command::Compact { revision }).await.map(|applied| applied.response) {
            Ok(Ok(_) | Err(mvcc::MvccError::Compacted { .. })) => {
                tracing::info!(revision, "completed auto compaction");
                compactor.compacted(revision);
            }
            Ok(Err(error)) => tracing::warn!(revision, %error, "failed auto compaction"),
            Err(error) => tracing::warn!(revision, %error, "failed auto compaction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_read_as_etcd_reads_them() {
        let read = |mode, retention| Retention::parse(mode, retention).expect("good");
        assert_eq!(read("periodic", "0"), None);
        assert_eq!(read("periodic", "2"), Some(Retention::Period(2 * HOUR)));
        assert_eq!(read("periodic", "30m"), Some(Retention::Period(HOUR / 2)));
        assert_eq!(read("revision", "1000"), Some(Retention::Revisions(1_000)));
        for (mode, retention) in [("periodic", "x"), ("periodic", "5d"), ("revision", "5m"), ("never", "1")] {
            assert!(Retention::parse(mode, retention).is_err(), "{mode} {retention}");
        }
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let mut compactor = Compactor::new(Retention::Revisions(100));
        assert_eq!(compactor.look(90), None);
        assert_eq!(compactor.look(150), Some(50));
        compactor.compacted(50);
        assert_eq!(compactor.look(150), None, "nothing is new");
    }

    #[test]
    fn what_is_older_than_the_period_goes_once_an_interval() {
        let mut compactor = Compactor::new(Retention::Period(HOUR));
        let looks: Vec<_> = (1..=30)
            .map(|look| {
                let found = compactor.look(look * 10);
                found.into_iter().for_each(|revision| compactor.compacted(revision));
                found
            })
            .collect();
        // Ten looks an hour: at the eleventh the first is an hour old.
        assert_eq!(looks[9], None);
        assert_eq!(looks[10], Some(10));
        assert!(looks[11..20].iter().all(Option::is_none), "{looks:?}");
        assert_eq!(looks[20], Some(110));
    }

    #[test]
    fn a_long_period_is_still_looked_at_ten_times_an_hour() {
        let mut compactor = Compactor::new(Retention::Period(3 * HOUR));
        assert!((1..=30).all(|look| compactor.look(look).is_none()));
        assert_eq!(compactor.look(31), Some(1));
    }
}
