use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::failpoints;

/// Wall-clock time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Wall and monotonic time, and the only way to sleep.
///
/// Monotonic time is tokio's, which a test may pause and advance. Wall time never decides safety: it only stamps
/// objects that people read.
#[derive(Clone, Debug, Default)]
pub struct Clock {}

impl Clock {
    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.now_micros().div_euclid(1000))
    }

    /// The wall clock in microseconds since the Unix epoch, for stamps that are finer than [`Timestamp`].
    #[allow(clippy::disallowed_methods, reason = "this is the one door to the wall clock")]
    pub fn now_micros(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let step = failpoints::hit("clockStep").and_then(|millis| millis.parse::<i64>().ok());
        let micros = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        micros.saturating_add(step.unwrap_or(0).saturating_mul(1000))
    }

    /// A clock that never goes back; only differences mean something.
    pub fn monotonic(&self) -> Instant {
        Instant::now()
    }

    /// Returns after `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep_until(Instant::now() + duration).await;
    }

    /// Returns at `deadline`, at once if it has passed.
    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }
}
