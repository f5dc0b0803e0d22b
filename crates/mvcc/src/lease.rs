//! Leases as the replicated state knows them: how long they were granted for and which keys hang on them. When they
//! expire is the leader's business; here time is only what a command says.

use bytes::Bytes;
use imbl::OrdSet;

use crate::types::LeaseId;

/// The longest time to live, in seconds (etcd's `lease.MaxLeaseTTL`).
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Seconds it was granted for.
    pub ttl: i64,
    /// Seconds it had left at the last checkpoint; 0 when there was none.
    pub remaining: i64,
    pub(crate) keys: OrdSet<Bytes>,
}

impl Lease {
    pub(crate) fn new(id: LeaseId, ttl: i64, remaining: i64) -> Self {
        Self { id, ttl, remaining, keys: OrdSet::new() }
    }

    /// The keys attached to it, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }
}
