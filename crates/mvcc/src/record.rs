//! Versions, leases and single values as bytes in the engine's tables.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::engine::EngineError;
use crate::index::Place;
use crate::types::{Alarm, AlarmKind, KeyValue, LeaseId, MemberAttributes};

/// A version as it lies in the table of revisions.
pub(crate) struct Version {
    pub kv: KeyValue,
    pub tombstone: bool,
}

/// Bytes of a version before the key: kind, key length.
const HEAD: usize = 5;
/// Bytes between key and value: create revision, version, lease.
const NUMBERS: usize = 24;

pub(crate) fn place_key(place: Place) -> Bytes {
    let mut key = BytesMut::with_capacity(12);
    key.put_i64(place.main);
    key.put_u32(place.sub);
    key.freeze()
}

pub(crate) fn parse_place(mut key: &[u8]) -> Result<Place, EngineError> {
    if key.len() != 12 {
        return Err(EngineError(format!("a revision's key has {} bytes, not 12", key.len())));
    }
    Ok(Place { main: key.get_i64(), sub: key.get_u32() })
}

pub(crate) fn encode_version(kv: &KeyValue, tombstone: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + kv.key.len() + NUMBERS + kv.value.len());
    out.put_u8(u8::from(tombstone));
    out.put_u32(u32::try_from(kv.key.len()).expect("invariant: a request is smaller than 4 GiB"));
    out.put_slice(&kv.key);
    out.put_i64(kv.create_revision);
    out.put_i64(kv.version);
    out.put_i64(kv.lease);
    out.put_slice(&kv.value);
    out.freeze()
}

pub(crate) fn decode_version(place: Place, mut bytes: Bytes) -> Result<Version, EngineError> {
    let damaged = || EngineError(format!("revision {}.{} is damaged", place.main, place.sub));
    if bytes.len() < HEAD {
        return Err(damaged());
    }
    let tombstone = bytes.get_u8() != 0;
    let key_len = bytes.get_u32() as usize;
    if bytes.len() < key_len + NUMBERS {
        return Err(damaged());
    }
    let key = bytes.split_to(key_len);
    let (create_revision, version, lease) = (bytes.get_i64(), bytes.get_i64(), bytes.get_i64());
    let kv = KeyValue { key, value: bytes, create_revision, mod_revision: place.main, version, lease };
    Ok(Version { kv, tombstone })
}

pub(crate) fn encode_i64s<const N: usize>(numbers: [i64; N]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 * N);
    numbers.into_iter().for_each(|number| out.put_i64(number));
    out.freeze()
}

pub(crate) fn decode_i64s<const N: usize>(what: &str, mut bytes: &[u8]) -> Result<[i64; N], EngineError> {
    if bytes.len() != 8 * N {
        return Err(EngineError(format!("{what} is damaged: {} bytes, not {}", bytes.len(), 8 * N)));
    }
    Ok(std::array::from_fn(|_| bytes.get_i64()))
}

pub(crate) fn lease_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// Keys of [`crate::Table::Meta`].
pub(crate) mod meta {
    pub const APPLIED: &[u8] = b"applied";
    pub const COMPACTED: &[u8] = b"compacted";
    pub const CALLER: &[u8] = b"caller";
    pub const REVISION: &[u8] = b"revision";
    pub const STATE_HASH: &[u8] = b"state-hash";
    pub const ALARMS: &[u8] = b"alarms";
    pub const MEMBERS: &[u8] = b"members";
    pub const CLUSTER_VERSION: &[u8] = b"cluster-version";
    pub const MEMBER_VERSIONS: &[u8] = b"member-versions";
    pub const DOWNGRADE: &[u8] = b"downgrade";
}

pub(crate) fn encode_alarms(alarms: impl Iterator<Item = Alarm>) -> Bytes {
    let mut out = BytesMut::new();
    for alarm in alarms {
        out.put_u64(alarm.member);
        out.put_u8(match alarm.kind {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        });
    }
    out.freeze()
}

pub(crate) fn decode_alarms(mut bytes: &[u8]) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    while bytes.len() >= 9 {
        let member = bytes.get_u64();
        let kind = if bytes.get_u8() == 2 { AlarmKind::Corrupt } else { AlarmKind::NoSpace };
        alarms.push(Alarm { member, kind });
    }
    alarms
}

pub(crate) fn encode_members<'a>(members: impl Iterator<Item = &'a MemberAttributes>) -> Bytes {
    let mut out = BytesMut::new();
    for member in members {
        crate::codec::put_member(&mut out, member);
    }
    out.freeze()
}

pub(crate) fn decode_members(bytes: Bytes) -> Result<Vec<MemberAttributes>, EngineError> {
    crate::codec::take_members(bytes)
        .map_err(|error| EngineError(format!("the members' attributes: {error}")))
}
