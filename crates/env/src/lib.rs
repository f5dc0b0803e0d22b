//! The only door to the outside world: clock, randomness, tasks, shutdown and back-off.
//!
//! Everything else in the house receives an [`Env`] and never asks the operating system for the time, for
//! randomness or for a task directly (`clippy.toml` bans the direct ways). That is what lets a whole cluster run
//! from one seed in a test.
//!
//! Invariants:
//! - a task belongs to exactly one [`TaskGroup`] and is awaited by it; one that fails ends the group;
//! - [`Shutdown`] is one-way: once triggered it stays so;
//! - no domain word appears here.
//!
//! Read `shutdown.rs`, `tasks.rs`, `lane.rs`, `relay.rs`, `clock.rs`, `rng.rs`, `backoff.rs`, `metric.rs`,
//! `rotation.rs`, `failpoints/`, `ports.rs` (for tests).

mod backoff;
mod clock;
pub mod failpoints;
mod lane;
mod metric;
pub mod ports;
mod relay;
mod rng;
mod rotation;
mod shutdown;
mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, Timestamp};
pub use lane::Lane;
pub use metric::{Buckets, Metric, MetricKind};
pub use relay::{Activity, relay, tune};
pub use rng::Rng;
pub use rotation::{OldFiles, RotatedFile, open_to_append};
pub use shutdown::Shutdown;
pub use tasks::{TaskFailure, TaskGroup};

/// The outside world as one cheap value: pass a clone to whoever needs time or randomness.
#[derive(Clone, Debug)]
pub struct Env {
    /// Wall and monotonic time.
    pub clock: Clock,
    /// Randomness, seeded.
    pub rng: Rng,
}

impl Env {
    /// The real clock, and randomness seeded by the operating system.
    pub fn real() -> Self {
        Self { clock: Clock::default(), rng: Rng::from_os() }
    }

    /// The same randomness for the same seed. Time follows tokio's clock, which a test may pause and advance.
    pub fn seeded(seed: u64) -> Self {
        Self { clock: Clock::default(), rng: Rng::seeded(seed) }
    }
}
