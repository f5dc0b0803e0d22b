//! A hash of the history at a revision, for members to compare (etcd's HashKV).
//!
//! It covers the keys as they were at the last compaction and every change since: what all members that hold the same
//! history agree on, however far each has swept what was compacted. The value is not etcd's own.

use std::ops::ControlFlow;

use crate::index::Place;
use crate::record::{self, Version};
use crate::types::{KeyRange, KeyValue, MvccError, RangeRequest, Revision};
use crate::view::{View, check_revision};

/// Keys of the compacted state that are read at a time.
const PAGE_KEYS: i64 = 1_000;

/// What [`View::hash_kv`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryHash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision up to which changes were hashed.
    pub revision: Revision,
    /// The last compaction.
    pub compact_revision: Revision,
}

impl View {
    /// The hash of the history up to `revision`, or up to now if that is 0.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`; `Engine` when the history cannot be read.
    pub fn hash_kv(&self, revision: Revision) -> Result<HistoryHash, MvccError> {
        check_revision(&self.state, revision)?;
        let revision = if revision > 0 { revision } else { self.revision() };
        let compact_revision = self.compact_revision();
        let mut hash = 0;
        if compact_revision > 0 {
            hash = self.hash_keys(compact_revision, hash)?;
        }
        let from = Place { main: compact_revision + 1, sub: 0 };
        self.history.versions(from, &mut |place, version| {
            if place.main > revision {
                return ControlFlow::Break(());
            }
            hash = add(hash, place, &version);
            ControlFlow::Continue(())
        })?;
        // A compaction may have swept what was being read: it is announced in the engine before anything goes.
        let now = self.history.compact_revision()?;
        if now > compact_revision {
            return Err(MvccError::Compacted { compact_revision: now });
        }
        Ok(HistoryHash { hash, revision, compact_revision })
    }

    /// The keys as they were at a revision.
    fn hash_keys(&self, revision: Revision, mut hash: u32) -> Result<u32, MvccError> {
        let mut range = KeyRange::From(bytes::Bytes::new());
        loop {
            let request = RangeRequest { revision, limit: PAGE_KEYS, ..RangeRequest::new(range) };
            let page = self.range(&request)?;
            for kv in &page.kvs {
                hash = add_key(hash, kv);
            }
            match page.kvs.last() {
                Some(last) if page.more => {
                    let mut next = last.key.to_vec();
                    next.push(0);
                    range = KeyRange::From(next.into());
                }
                _ => return Ok(hash),
            }
        }
    }
}

fn add(hash: u32, place: Place, version: &Version) -> u32 {
    let hash = crc32c::crc32c_append(hash, &record::place_key(place));
    crc32c::crc32c_append(hash, &record::encode_version(&version.kv, version.tombstone))
}

fn add_key(hash: u32, kv: &KeyValue) -> u32 {
    let hash = crc32c::crc32c_append(hash, &kv.mod_revision.to_be_bytes());
    crc32c::crc32c_append(hash, &record::encode_version(kv, false))
}
