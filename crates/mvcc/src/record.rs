//! Versions, leases and single values as bytes in the engine's tables.
//!
//! A version is a byte that says what it is, where the version before it is, and then the key with its value in the form
//! of etcd's wire (`mvccpb.KeyValue`), so that an answer is made of stored bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::engine::EngineError;
use crate::tree::{Entry, Place};
use crate::types::{Alarm, AlarmKind, KeyValue, LeaseId, MemberAttributes};

/// A version as it lies in the table of revisions.
pub(crate) struct Version {
    /// Of a tombstone: key and `mod_revision` only.
    pub kv: KeyValue,
    pub tombstone: bool,
    pub before: Option<Before>,
}

/// The version that a version took the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Before {
    pub place: Place,
    pub tombstone: bool,
    pub value_len: u32,
}

impl Before {
    pub fn of(entry: &Entry) -> Self {
        Self { place: entry.place(), tombstone: !entry.is_live(), value_len: entry.value_len }
    }
}

impl Version {
    pub fn entry(&self, sub: u32) -> Entry {
        let kv = &self.kv;
        let place = Place { main: kv.mod_revision, sub };
        let entry = Entry::new(place, kv.create_revision, kv.version, kv.lease, kv.value.len());
        if self.tombstone { entry.tombstone() } else { entry }
    }
}

/// Kinds of versions. Those of the first format were 0 and 1; it did not say what was before.
const PUT: u8 = 2;
const TOMBSTONE: u8 = 3;

/// Tags of `mvccpb.KeyValue`.
const KEY: u8 = 1 << 3 | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// The longest LEB128 number.
const MAX_NUMBER: usize = 10;

/// The key of a version in its table.
pub(crate) type PlaceKey = [u8; 12];

/// Keys whose bytes lie in one allocation.
const BLOCK_KEYS: usize = 256;

/// Makes keys of versions, which many share an allocation.
#[derive(Default)]
pub(crate) struct PlaceKeys {
    block: BytesMut,
}

impl PlaceKeys {
    pub fn make(&mut self, place: Place) -> Bytes {
        let key = place_key(place);
        if self.block.capacity() < key.len() {
            self.block.reserve(BLOCK_KEYS * key.len());
        }
        self.block.put_slice(&key);
        self.block.split().freeze()
    }
}

pub(crate) fn place_key(place: Place) -> PlaceKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&place.main.to_be_bytes());
    key[8..].copy_from_slice(&place.sub.to_be_bytes());
    key
}

pub(crate) fn parse_place(mut key: &[u8]) -> Result<Place, EngineError> {
    if key.len() != 12 {
        return Err(EngineError(format!("a revision's key has {} bytes, not 12", key.len())));
    }
    Ok(Place { main: key.get_i64(), sub: key.get_u32() })
}

/// A version as bytes, with where its message begins, and the key and the value in these bytes.
pub(crate) struct Encoded {
    pub bytes: Bytes,
    message: usize,
    pub kv: KeyValue,
}

impl Encoded {
    /// Key and value of the answer share the version's bytes.
    pub fn new(kv: &KeyValue, tombstone: bool, before: Option<Before>) -> Self {
        let mut out = BytesMut::with_capacity(1 + 3 * MAX_NUMBER + message_len(kv));
        put_head(&mut out, tombstone, before);
        let message = out.len();
        put_message(&mut out, kv);
        let bytes = out.freeze();
        let key_at = message + 1 + number_len(kv.key.len() as u64);
        let key = if kv.key.is_empty() { Bytes::new() } else { bytes.slice(key_at..key_at + kv.key.len()) };
        let lease = if kv.lease == 0 { 0 } else { 1 + number_len(kv.lease.cast_unsigned()) };
        let value_end = bytes.len() - lease;
        let value = match kv.value.len() {
            0 => Bytes::new(),
            len => bytes.slice(value_end - len..value_end),
        };
        let kv = KeyValue { key, value, ..*kv };
        Self { bytes, message, kv }
    }

    /// The bytes that are `mvccpb.KeyValue`.
    pub fn message(&self) -> &[u8] {
        &self.bytes[self.message..]
    }
}

/// A version as bytes.
pub(crate) fn encode_version(kv: &KeyValue, tombstone: bool, before: Option<Before>) -> Bytes {
    Encoded::new(kv, tombstone, before).bytes
}

fn put_head(out: &mut BytesMut, tombstone: bool, before: Option<Before>) {
    out.put_u8(if tombstone { TOMBSTONE } else { PUT });
    match before {
        None => put_number(out, 0),
        Some(before) => {
            put_number(out, before.place.main.cast_unsigned());
            put_number(out, before.place.sub.into());
            put_number(out, u64::from(before.value_len) << 1 | u64::from(before.tombstone));
        }
    }
}

/// The bytes of a version that are `mvccpb.KeyValue`.
pub(crate) fn message(place: Place, record: &[u8]) -> Result<&[u8], EngineError> {
    let mut rest = record;
    head(&mut rest).ok_or_else(|| damaged(place))?;
    Ok(rest)
}

pub(crate) fn decode_version(place: Place, bytes: &Bytes) -> Result<Version, EngineError> {
    if let Some(0 | 1) = bytes.first() {
        let text = "it was written by an older version of this program, whose format is not read any more";
        return Err(EngineError(format!("revision {}.{}: {text}", place.main, place.sub)));
    }
    decode(place, bytes).ok_or_else(|| damaged(place))
}

fn damaged(place: Place) -> EngineError {
    EngineError(format!("revision {}.{} is damaged", place.main, place.sub))
}

fn decode(place: Place, bytes: &Bytes) -> Option<Version> {
    let mut rest = bytes.as_ref();
    let (tombstone, before) = head(&mut rest)?;
    let mut kv = KeyValue::default();
    while let [tag, more @ ..] = rest {
        rest = more;
        let number = take_number(&mut rest)?;
        match *tag {
            KEY => kv.key = take_bytes(bytes, &mut rest, number)?,
            VALUE => kv.value = take_bytes(bytes, &mut rest, number)?,
            CREATE_REVISION => kv.create_revision = number.cast_signed(),
            MOD_REVISION => kv.mod_revision = number.cast_signed(),
            VERSION => kv.version = number.cast_signed(),
            LEASE => kv.lease = number.cast_signed(),
            _ => return None,
        }
    }
    (kv.mod_revision == place.main).then_some(Version { kv, tombstone, before })
}

fn head(rest: &mut &[u8]) -> Option<(bool, Option<Before>)> {
    let tombstone = match rest.split_first()? {
        (&PUT, more) => {
            *rest = more;
            false
        }
        (&TOMBSTONE, more) => {
            *rest = more;
            true
        }
        _ => return None,
    };
    let main = take_number(rest)?.cast_signed();
    if main == 0 {
        return Some((tombstone, None));
    }
    let sub = u32::try_from(take_number(rest)?).ok()?;
    let marked = take_number(rest)?;
    let value_len = u32::try_from(marked >> 1).ok()?;
    let before = Before { place: Place { main, sub }, tombstone: marked & 1 != 0, value_len };
    Some((tombstone, Some(before)))
}

fn take_bytes(whole: &Bytes, rest: &mut &[u8], len: u64) -> Option<Bytes> {
    let (taken, more) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = more;
    Some(whole.slice_ref(taken))
}

/// Writes a key with its value as etcd's wire has it; what is zero or empty is left out.
pub(crate) fn put_message(out: &mut BytesMut, kv: &KeyValue) {
    let bytes = |out: &mut BytesMut, tag: u8, bytes: &[u8]| {
        if !bytes.is_empty() {
            out.put_u8(tag);
            put_number(out, bytes.len() as u64);
            out.put_slice(bytes);
        }
    };
    let number = |out: &mut BytesMut, tag: u8, number: i64| {
        if number != 0 {
            out.put_u8(tag);
            put_number(out, number.cast_unsigned());
        }
    };
    bytes(out, KEY, &kv.key);
    number(out, CREATE_REVISION, kv.create_revision);
    number(out, MOD_REVISION, kv.mod_revision);
    number(out, VERSION, kv.version);
    bytes(out, VALUE, &kv.value);
    number(out, LEASE, kv.lease);
}

fn message_len(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len() + 6 * (1 + MAX_NUMBER)
}

/// Bytes of a LEB128 number.
fn number_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

pub(crate) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for (at, byte) in rest.iter().take(MAX_NUMBER).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Some(number);
        }
    }
    None
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
    /// How far what was compacted is deleted: see `sweep.rs`.
    pub const SWEPT: &[u8] = b"swept";
    /// Bytes of current and of past versions.
    pub const SIZES: &[u8] = b"sizes";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &'static [u8], lease: i64) -> KeyValue {
        let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(value));
        KeyValue { key, value, create_revision: 300, mod_revision: 1 << 40, version: 9, lease }
    }

    #[test]
    fn a_version_comes_back_as_it_was() {
        let before = Before { place: Place { main: 7, sub: 300 }, tombstone: true, value_len: 5 };
        for (kv, before) in
            [(kv(b"value", 0), None), (kv(b"", -4), Some(before)), (kv(b"v", 4), Some(before))]
        {
            let place = Place { main: kv.mod_revision, sub: 1 };
            let Encoded { bytes, kv: own, .. } = Encoded::new(&kv, false, before);
            assert_eq!(own, kv);
            let version = decode_version(place, &bytes).expect("a version");
            assert_eq!((version.kv, version.before, version.tombstone), (kv.clone(), before, false));
            let mut wire = BytesMut::new();
            put_message(&mut wire, &kv);
            assert_eq!(message(place, &bytes).expect("a message"), wire);
            for end in 0..bytes.len() {
                drop(decode_version(place, &bytes.slice(..end)));
            }
        }
    }

    #[test]
    fn the_first_format_is_named() {
        let place = Place { main: 2, sub: 0 };
        let Err(error) = decode_version(place, &Bytes::from_static(&[0, 0, 0, 0, 1])) else { panic!("read") };
        assert!(error.0.contains("written by an older version"), "{error}");
    }
}
