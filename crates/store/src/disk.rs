//! How quick the log's disk is: what a leader judges itself by.

use std::time::Duration;

use env::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A sync that takes longer is told in the log (etcd's `warnSyncDuration`).
const WARN: Duration = Duration::from_secs(1);
/// A disk whose syncs take so long is slow.
pub(crate) const SLOW: Duration = Duration::from_millis(100);
/// A sync that goes on for so long counts as many slow ones.
const STUCK: Duration = Duration::from_millis(500);
/// Syncs that are remembered.
const COUNT: usize = 3;

/// The syncs of the log, as they go.
pub(crate) struct Disk {
    clock: Clock,
    fsyncs: metrics::Histogram,
    syncs: Mutex<Syncs>,
}

#[derive(Default)]
struct Syncs {
    /// Since when one goes on.
    since: Option<Instant>,
    /// Since when entries are being written that are to be synced next.
    writing: Option<Instant>,
    /// How long the last ones took, the newest first.
    last: [Duration; COUNT],
}

impl Disk {
    pub fn new(clock: Clock) -> Self {
        let fsyncs = metrics::histogram!("etcd_disk_wal_fsync_duration_seconds");
        Self { clock, fsyncs, syncs: Mutex::default() }
    }

    /// Runs a sync and takes its time.
    pub fn time<T>(&self, sync: impl FnOnce() -> T) -> T {
        let begun = self.clock.monotonic();
        self.syncs.lock().since = Some(begun);
        let result = sync();
        let took = self.clock.monotonic() - begun;
        {
            let mut syncs = self.syncs.lock();
            syncs.since = None;
            syncs.last.rotate_right(1);
            syncs.last[0] = took;
        }
        if took > WARN {
            tracing::warn!(?took, "expected-duration" = ?WARN, "slow fdatasync");
        }
        self.fsyncs.record(took);
        result
    }

    /// Runs a write of entries, so that one that does not end is known.
    pub fn watch<T>(&self, write: impl FnOnce() -> T) -> T {
        self.syncs.lock().writing = Some(self.clock.monotonic());
        let result = write();
        self.syncs.lock().writing = None;
        result
    }

    /// For how long the log has been waiting for the disk.
    pub fn stuck(&self) -> Duration {
        let syncs = self.syncs.lock();
        let oldest = syncs.since.into_iter().chain(syncs.writing).min();
        oldest.map_or(Duration::ZERO, |since| self.clock.monotonic() - since)
    }

    /// How long syncs take at least of late: a slow one among quick ones does not count, one that does not end does.
    pub fn least(&self) -> Duration {
        let (pending, last) = self.now();
        let stuck = if pending > STUCK { pending } else { Duration::ZERO };
        last.into_iter().min().unwrap_or_default().max(stuck)
    }

    /// How long syncs take at most of late.
    pub fn most(&self) -> Duration {
        let (pending, last) = self.now();
        last.into_iter().max().unwrap_or_default().max(pending)
    }

    /// One whose last syncs took so long.
    #[cfg(test)]
    pub fn that_took(each: Duration) -> Self {
        let disk = Self::new(Clock::default());
        disk.syncs.lock().last = [each; COUNT];
        disk
    }

    fn now(&self) -> (Duration, [Duration; COUNT]) {
        let syncs = self.syncs.lock();
        let pending = syncs.since.map_or(Duration::ZERO, |since| self.clock.monotonic() - since);
        (pending, syncs.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(last: [u64; COUNT]) -> Disk {
        let disk = Disk::new(Clock::default());
        disk.syncs.lock().last = last.map(Duration::from_millis);
        disk
    }

    #[test]
    fn a_slow_sync_among_quick_ones_is_no_slow_disk() {
        let one = disk([200, 1, 210]);
        assert_eq!((one.least(), one.most()), (Duration::from_millis(1), Duration::from_millis(210)));
        assert_eq!(disk([200, 210, 220]).least(), Duration::from_millis(200));
        let timed = disk([0, 0, 0]);
        assert_eq!(timed.time(|| 7), 7);
        assert!(timed.most() > Duration::ZERO && timed.syncs.lock().since.is_none());
    }

    #[test]
    fn a_sync_that_does_not_end_counts() {
        let stuck = disk([1, 1, 1]);
        let now = stuck.clock.monotonic() + Duration::from_secs(10);
        stuck.syncs.lock().since = now.checked_sub(Duration::from_millis(10_300));
        assert!(stuck.least() < SLOW && stuck.most() >= Duration::from_millis(300));
        stuck.syncs.lock().since = now.checked_sub(Duration::from_millis(10_700));
        assert!(stuck.least() >= Duration::from_millis(700));
        assert!(stuck.stuck() >= Duration::from_millis(700));
        stuck.syncs.lock().since = None;
        assert_eq!(stuck.stuck(), Duration::ZERO);
        assert!(stuck.watch(|| stuck.syncs.lock().writing.is_some()) && stuck.syncs.lock().writing.is_none());
    }
}
