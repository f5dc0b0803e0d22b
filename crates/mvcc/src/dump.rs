//! Everything that an engine holds, for whoever copies it elsewhere: nothing is kept in memory but what is small.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::auth::Auth;
use crate::engine::{Engine, EngineError, Table};
use crate::machine::read_meta;
use crate::record;
use crate::tree::Place;
use crate::types::{Alarm, KeyValue, LeaseId, MemberAttributes, Revision};
use crate::values;

/// What there is beside keys.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The revision of the state.
    pub revision: Revision,
    /// Everything before it was compacted; 0 if nothing was.
    pub compact_revision: Revision,
    /// The last entry of the log that is in the state.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Leases, by id.
    pub leases: Vec<StoredLease>,
    /// Alarms that are raised.
    pub alarms: Vec<Alarm>,
    /// What members have told of themselves.
    pub members: Vec<MemberAttributes>,
    /// The version that all members understand.
    pub cluster_version: Option<String>,
    /// Users and roles.
    pub auth: Auth,
}

/// A lease as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredLease {
    /// Its id.
    pub id: LeaseId,
    /// Seconds it was granted for.
    pub ttl: i64,
    /// Seconds that were left at its last checkpoint; 0 without one.
    pub remaining: i64,
}

/// A version of a key.
#[derive(Clone, Debug)]
pub struct StoredVersion {
    /// The revision that made it.
    pub main: Revision,
    /// Which change of that revision it is.
    pub sub: u32,
    /// The key was deleted by it.
    pub tombstone: bool,
    /// The key; without a value if it was deleted.
    pub kv: KeyValue,
}

/// Reads what there is beside keys.
///
/// # Errors
/// When the engine cannot be read, or holds something else.
pub fn contents<E: Engine + ?Sized>(engine: &E) -> Result<Contents, EngineError> {
    let state = read_meta(engine)?;
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    engine.scan(Table::Leases, &[], None, &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), value));
        ControlFlow::Continue(())
    })?;
    let leases = found.into_iter().map(|(key, value)| {
        let [id] = record::decode_i64s("a lease's key", &key)?;
        let [ttl, remaining] = record::decode_i64s("a lease", &value)?;
        Ok(StoredLease { id, ttl, remaining })
    });
    Ok(Contents {
        revision: state.revision,
        compact_revision: state.compact_revision,
        applied_index: state.applied_index,
        applied_term: state.applied_term,
        leases: leases.collect::<Result<_, EngineError>>()?,
        alarms: state.alarms.iter().copied().collect(),
        members: state.members.values().map(|member| (**member).clone()).collect(),
        cluster_version: state.cluster_version.as_deref().map(str::to_owned),
        auth: (*state.auth).clone(),
    })
}

/// Visits every version in the order in which they were made, until the visitor breaks off.
///
/// # Errors
/// When the engine cannot be read, or holds something else.
pub fn versions<E: Engine>(
    engine: &E,
    visit: &mut dyn FnMut(StoredVersion) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    values::versions(engine, Place { main: 0, sub: 0 }, &mut |place, version| {
        let record::Version { kv, tombstone, .. } = version;
        visit(StoredVersion { main: place.main, sub: place.sub, tombstone, kv })
    })
}
