//! The rows of the table, by what they need: each file runs its rows on members that were just started.

pub mod failover;
pub mod kv;
pub mod large;
pub mod lease;
pub mod lines;
pub mod million;
pub mod watch;

use anyhow::Result;

use crate::bench::Bench;
use crate::member::Members;
use crate::report::Notes;

/// Rows that share members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Single requests.
    Kv,
    /// Watches.
    Watch,
    /// Leases.
    Lease,
    /// Many keys.
    Million,
    /// The loss of a leader.
    Failover,
    /// A large store.
    Large,
}

impl Group {
    /// In the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Kv, Self::Watch, Self::Lease, Self::Million, Self::Failover, Self::Large];

    /// Its rows.
    pub fn rows(self) -> &'static [&'static str] {
        match self {
            Self::Kv => &["put-1", "put-100", "txn-100", "get-1", "get-100", "sget-100", "range-10k"],
            Self::Watch => &["watch-flat", "watch-own", "watch-paced", "watch-memory"],
            Self::Lease => &["lease-grant", "keep-alive", "lease-revoke"],
            Self::Million => &["fill", "page", "count", "full-range", "snapshot", "restart", "compaction"],
            Self::Failover => &["kill-leader", "freeze-leader"],
            Self::Large => &["large"],
        }
    }

    /// Whether it is run on clusters of this size.
    pub fn fits(self, size: usize) -> bool {
        match self {
            Self::Kv | Self::Watch | Self::Lease => true,
            Self::Million | Self::Large => size == 1,
            Self::Failover => size > 1,
        }
    }

    /// Runs those of its rows that are wanted.
    pub async fn run(self, bench: &Bench, members: &mut Members, notes: &mut Notes<'_>) -> Result<()> {
        match self {
            Self::Kv => kv::run(bench, members, notes).await,
            Self::Watch => watch::run(bench, members, notes).await,
            Self::Lease => lease::run(bench, members, notes).await,
            Self::Million => million::run(bench, members, notes).await,
            Self::Failover => failover::run(bench, members, notes).await,
            Self::Large => large::run(bench, members, notes).await,
        }
    }
}
