//! Commands as bytes, as they lie in the raft log and travel between members.
//!
//! One byte of format version, one of the command's kind, then its fields in order: integers as LEB128 (signed ones
//! zigzag), bytes and lists behind their length. Keys and values are decoded without copying.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::auth::{self, Caller};
use crate::types::{
    Alarm, AlarmAction, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange,
    MemberAttributes, Op, PutRequest, RangeRequest, SortOrder, SortTarget, Txn,
};

/// The format written; older ones stay readable.
const FORMAT: u8 = 1;
/// Transactions within transactions are decoded to this depth; the API refuses them long before.
const MAX_DEPTH: usize = 64;
/// Bytes of a command, a comparison or a step beside keys, values and names; most take less.
const SMALL: usize = 32;
/// The same of a read, which has more numbers.
const RANGE_REQUEST: usize = 80;

/// The bytes are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the command is cut off")]
    CutOff,
    /// Something in them has no meaning to this version.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What it should have been.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// Text that is no UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// Transactions within transactions within transactions.
    #[error("transactions are nested too deeply")]
    TooDeep,
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.room());
        out.put_u8(FORMAT);
        self.put(&mut out);
        out.freeze()
    }

    /// Bytes that the command takes at most, where it holds keys and values: it is kept as it is written, and what grew
    /// on the way keeps twice the memory.
    fn room(&self) -> usize {
        match self {
            Self::Txn(txn) => SMALL + txn_room(txn),
            Self::By { caller, command } => SMALL + caller.user.len() + command.room(),
            _ => SMALL,
        }
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        self.put_fields(out);
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Noop => 0,
            Self::Txn(_) => 1,
            Self::Compact { .. } => 2,
            Self::LeaseGrant { .. } => 3,
            Self::LeaseRevoke { .. } => 4,
            Self::LeaseCheckpoint { .. } => 5,
            Self::Alarm { .. } => 6,
            Self::MemberAttributes(_) => 7,
            Self::MemberForget { .. } => 8,
            Self::ClusterVersion { .. } => 9,
            Self::By { .. } => 10,
            Self::Auth(_) => 11,
            Self::MemberVersion { .. } => 12,
            Self::Downgrade { .. } => 13,
            Self::LeaseExpire { .. } => 14,
        }
    }

    fn put_fields(&self, out: &mut BytesMut) {
        match self {
            Self::Noop => {}
            Self::Txn(txn) => put_txn(out, txn),
            Self::Compact { revision } => put_int(out, *revision),
            Self::LeaseGrant { id, ttl } => put_pair(out, &(*id, *ttl)),
            Self::LeaseRevoke { id } => put_int(out, *id),
            Self::LeaseExpire { id, term } => {
                put_int(out, *id);
                put_uint(out, *term);
            }
            Self::LeaseCheckpoint { term, remaining } => {
                put_uint(out, *term);
                put_list(out, remaining, put_pair);
            }
            Self::Alarm { action, alarm } => {
                out.put_u8(u8::from(*action == AlarmAction::Deactivate));
                put_uint(out, alarm.member);
                out.put_u8(u8::from(alarm.kind == AlarmKind::Corrupt));
            }
            Self::MemberAttributes(member) => put_member(out, member),
            Self::MemberForget { id } => put_uint(out, *id),
            Self::ClusterVersion { version } => put_bytes(out, version.as_bytes()),
            Self::MemberVersion { id, version } => put_version(out, *id, version),
            // Nobody goes to a version without a name.
            Self::Downgrade { target } => put_bytes(out, target.as_deref().unwrap_or_default().as_bytes()),
            Self::By { caller, command } => {
                put_bytes(out, caller.user.as_bytes());
                put_uint(out, caller.revision);
                command.put(out);
            }
            Self::Auth(command) => auth::put_command(out, command),
        }
    }

    /// The command that the bytes are; it shares them.
    ///
    /// # Errors
    /// When they are cut off, damaged or of a newer version.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            FORMAT => {}
            other => return Err(unknown("command format", other)),
        }
        match reader.byte()? {
            10 => {
                let caller = Caller { user: reader.text()?, revision: reader.uint()? };
                let kind = reader.byte()?;
                Ok(Self::By { caller, command: Box::new(Self::take(kind, &mut reader)?) })
            }
            kind => Self::take(kind, &mut reader),
        }
    }

    fn take(kind: u8, reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match kind {
            0 => Self::Noop,
            1 => Self::Txn(reader.txn(0)?),
            2 => Self::Compact { revision: reader.int()? },
            3 => Self::LeaseGrant { id: reader.int()?, ttl: reader.int()? },
            4 => Self::LeaseRevoke { id: reader.int()? },
            5 => {
                let term = reader.uint()?;
                let remaining = reader.list(|reader| Ok((reader.int()?, reader.int()?)))?;
                Self::LeaseCheckpoint { term, remaining }
            }
            6 => reader.alarm()?,
            7 => Self::MemberAttributes(reader.member()?),
            8 => Self::MemberForget { id: reader.uint()? },
            9 => Self::ClusterVersion { version: reader.text()? },
            12 => Self::MemberVersion { id: reader.uint()?, version: reader.text()? },
            13 => Self::Downgrade { target: Some(reader.text()?).filter(|target| !target.is_empty()) },
            11 => Self::Auth(auth::take_command(reader)?),
            14 => Self::LeaseExpire { id: reader.int()?, term: reader.uint()? },
            other => return Err(unknown("command", other)),
        })
    }
}

pub(crate) fn unknown(what: &'static str, value: u8) -> DecodeError {
    DecodeError::Unknown { what, value: value.into() }
}

pub(crate) fn put_member(out: &mut BytesMut, member: &MemberAttributes) {
    put_uint(out, member.id);
    put_bytes(out, member.name.as_bytes());
    put_list(out, &member.client_urls, |out, url| put_bytes(out, url.as_bytes()));
}

pub(crate) fn put_version(out: &mut BytesMut, id: u64, version: &str) {
    put_uint(out, id);
    put_bytes(out, version.as_bytes());
}

pub(crate) fn take_versions(bytes: Bytes) -> Result<Vec<(u64, String)>, DecodeError> {
    let mut reader = Reader(bytes);
    let mut versions = Vec::new();
    while reader.0.has_remaining() {
        versions.push((reader.uint()?, reader.text()?));
    }
    Ok(versions)
}

pub(crate) fn take_members(bytes: Bytes) -> Result<Vec<MemberAttributes>, DecodeError> {
    let mut reader = Reader(bytes);
    let mut members = Vec::new();
    while !reader.0.is_empty() {
        members.push(reader.member()?);
    }
    Ok(members)
}

pub(crate) fn put_uint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_int(out: &mut BytesMut, value: i64) {
    put_uint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_pair(out: &mut BytesMut, (first, second): &(i64, i64)) {
    put_int(out, *first);
    put_int(out, *second);
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(crate) fn put_list<T>(out: &mut BytesMut, items: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_uint(out, items.len() as u64);
    items.iter().for_each(|item| put(out, item));
}

fn put_range(out: &mut BytesMut, range: &KeyRange) {
    match range {
        KeyRange::Key(key) => {
            out.put_u8(0);
            put_bytes(out, key);
        }
        KeyRange::Interval { start, end } => {
            out.put_u8(1);
            put_bytes(out, start);
            put_bytes(out, end);
        }
        KeyRange::From(start) => {
            out.put_u8(2);
            put_bytes(out, start);
        }
    }
}

fn txn_room(txn: &Txn) -> usize {
    let compare = |compare: &Compare| match &compare.target {
        CompareTarget::Value(value) => SMALL + range_room(&compare.range) + value.len(),
        _ => SMALL + range_room(&compare.range),
    };
    let op = |op: &Op| match op {
        Op::Range(request) => RANGE_REQUEST + range_room(&request.range),
        Op::Put(request) => SMALL + request.key.len() + request.value.len(),
        Op::Delete(request) => SMALL + range_room(&request.range),
        Op::Txn(txn) => SMALL + txn_room(txn),
    };
    let compares: usize = txn.compare.iter().map(compare).sum();
    compares + txn.success.iter().chain(&txn.failure).map(op).sum::<usize>()
}

fn range_room(range: &KeyRange) -> usize {
    match range {
        KeyRange::Key(key) | KeyRange::From(key) => key.len(),
        KeyRange::Interval { start, end } => start.len() + end.len(),
    }
}

fn put_txn(out: &mut BytesMut, txn: &Txn) {
    put_list(out, &txn.compare, put_compare);
    put_list(out, &txn.success, put_op);
    put_list(out, &txn.failure, put_op);
}

fn put_compare(out: &mut BytesMut, compare: &Compare) {
    put_range(out, &compare.range);
    out.put_u8(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    let (kind, number) = match &compare.target {
        CompareTarget::Version(number) => (0, *number),
        CompareTarget::Create(number) => (1, *number),
        CompareTarget::Mod(number) => (2, *number),
        CompareTarget::Lease(number) => (3, *number),
        CompareTarget::Value(value) => {
            out.put_u8(4);
            return put_bytes(out, value);
        }
    };
    out.put_u8(kind);
    put_int(out, number);
}

fn put_op(out: &mut BytesMut, op: &Op) {
    match op {
        Op::Range(request) => {
            out.put_u8(0);
            put_range_request(out, request);
        }
        Op::Put(request) => {
            out.put_u8(1);
            put_bytes(out, &request.key);
            put_bytes(out, &request.value);
            put_int(out, request.lease);
            out.put_u8(flags([request.prev_kv, request.ignore_value, request.ignore_lease]));
        }
        Op::Delete(request) => {
            out.put_u8(2);
            put_range(out, &request.range);
            out.put_u8(flags([request.prev_kv, false, false]));
        }
        Op::Txn(txn) => {
            out.put_u8(3);
            put_txn(out, txn);
        }
    }
}

fn put_range_request(out: &mut BytesMut, request: &RangeRequest) {
    put_range(out, &request.range);
    put_int(out, request.limit);
    put_int(out, request.revision);
    out.put_u8(match request.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.put_u8(match request.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    out.put_u8(flags([request.keys_only, request.count_only, false]));
    put_int(out, request.min_mod_revision);
    put_int(out, request.max_mod_revision);
    put_int(out, request.min_create_revision);
    put_int(out, request.max_create_revision);
}

fn flags(flags: [bool; 3]) -> u8 {
    flags.iter().enumerate().map(|(bit, &set)| u8::from(set) << bit).sum()
}

pub(crate) struct Reader(pub Bytes);

impl Reader {
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::CutOff)
    }

    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Unknown { what: "integer longer than", value: 64 })
    }

    fn int(&mut self) -> Result<i64, DecodeError> {
        let value = self.uint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = usize::try_from(self.uint()?).map_err(|_| DecodeError::CutOff)?;
        if len > self.0.len() {
            return Err(DecodeError::CutOff);
        }
        Ok(self.0.split_to(len))
    }

    pub fn text(&mut self) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| DecodeError::Utf8)
    }

    fn flags(&mut self) -> Result<[bool; 3], DecodeError> {
        let byte = self.byte()?;
        Ok([byte & 1 != 0, byte & 2 != 0, byte & 4 != 0])
    }

    pub fn list<T>(
        &mut self,
        mut take: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let len = usize::try_from(self.uint()?).map_err(|_| DecodeError::CutOff)?;
        // An item takes a byte at least: a damaged length must not reserve memory.
        if len > self.0.len() {
            return Err(DecodeError::CutOff);
        }
        (0..len).map(|_| take(self)).collect()
    }

    fn range(&mut self) -> Result<KeyRange, DecodeError> {
        Ok(match self.byte()? {
            0 => KeyRange::Key(self.bytes()?),
            1 => KeyRange::Interval { start: self.bytes()?, end: self.bytes()? },
            2 => KeyRange::From(self.bytes()?),
            other => return Err(unknown("range", other)),
        })
    }

    fn txn(&mut self, depth: usize) -> Result<Txn, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        Ok(Txn {
            compare: self.list(Self::compare)?,
            success: self.list(|reader| reader.op(depth))?,
            failure: self.list(|reader| reader.op(depth))?,
        })
    }

    fn compare(&mut self) -> Result<Compare, DecodeError> {
        let range = self.range()?;
        let result = match self.byte()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            other => return Err(unknown("comparison", other)),
        };
        let target = match self.byte()? {
            0 => CompareTarget::Version(self.int()?),
            1 => CompareTarget::Create(self.int()?),
            2 => CompareTarget::Mod(self.int()?),
            3 => CompareTarget::Lease(self.int()?),
            4 => CompareTarget::Value(self.bytes()?),
            other => return Err(unknown("comparison target", other)),
        };
        Ok(Compare { range, result, target })
    }

    fn op(&mut self, depth: usize) -> Result<Op, DecodeError> {
        Ok(match self.byte()? {
            0 => Op::Range(self.range_request()?),
            1 => Op::Put(self.put_request()?),
            2 => Op::Delete(DeleteRequest { range: self.range()?, prev_kv: self.flags()?[0] }),
            3 => Op::Txn(self.txn(depth + 1)?),
            other => return Err(unknown("operation", other)),
        })
    }

    fn put_request(&mut self) -> Result<PutRequest, DecodeError> {
        let (key, value, lease) = (self.bytes()?, self.bytes()?, self.int()?);
        let [prev_kv, ignore_value, ignore_lease] = self.flags()?;
        Ok(PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease })
    }

    fn range_request(&mut self) -> Result<RangeRequest, DecodeError> {
        let (range, limit, revision) = (self.range()?, self.int()?, self.int()?);
        let sort_order = match self.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            other => return Err(unknown("sort order", other)),
        };
        let sort_target = match self.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            other => return Err(unknown("sort target", other)),
        };
        let [keys_only, count_only, _] = self.flags()?;
        Ok(RangeRequest {
            range,
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision: self.int()?,
            max_mod_revision: self.int()?,
            min_create_revision: self.int()?,
            max_create_revision: self.int()?,
        })
    }

    fn alarm(&mut self) -> Result<Command, DecodeError> {
        let action = if self.byte()? == 0 { AlarmAction::Activate } else { AlarmAction::Deactivate };
        let member = self.uint()?;
        let kind = if self.byte()? == 0 { AlarmKind::NoSpace } else { AlarmKind::Corrupt };
        Ok(Command::Alarm { action, alarm: Alarm { member, kind } })
    }

    fn member(&mut self) -> Result<MemberAttributes, DecodeError> {
        Ok(MemberAttributes { id: self.uint()?, name: self.text()?, client_urls: self.list(Self::text)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::{Access, AuthCommand, Permission, TokenUse};

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            bytes().prop_map(KeyRange::Key),
            (bytes(), bytes()).prop_map(|(start, end)| KeyRange::Interval { start, end }),
            bytes().prop_map(KeyRange::From),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (range(), any::<i64>(), any::<bool>(), any::<i64>()).prop_map(
                |(range, limit, flag, revision)| {
                    let order = if flag { SortOrder::Descend } else { SortOrder::Ascend };
                    Op::Range(RangeRequest {
                        limit,
                        revision,
                        keys_only: flag,
                        count_only: !flag,
                        sort_order: order,
                        sort_target: SortTarget::Value,
                        max_create_revision: limit,
                        ..RangeRequest::new(range)
                    })
                }
            ),
            (bytes(), bytes(), any::<i64>(), any::<[bool; 3]>()).prop_map(|(key, value, lease, flags)| {
                let [prev_kv, ignore_value, ignore_lease] = flags;
                Op::Put(PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease })
            }),
            (range(), any::<bool>())
                .prop_map(|(range, prev_kv)| Op::Delete(DeleteRequest { range, prev_kv })),
        ]
    }

    fn permission() -> impl Strategy<Value = Permission> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
        (access, bytes(), bytes()).prop_map(|(access, key, range_end)| Permission { access, key, range_end })
    }

    fn auth_command() -> impl Strategy<Value = AuthCommand> {
        prop_oneof![
            Just(AuthCommand::Enable),
            Just(AuthCommand::Disable),
            (".*", bytes(), any::<bool>()).prop_map(|(name, password, no_password)| {
                AuthCommand::UserAdd { name, password, no_password }
            }),
            ".*".prop_map(|name| AuthCommand::UserDelete { name }),
            (".*", bytes()).prop_map(|(name, password)| AuthCommand::UserChangePassword { name, password }),
            (".*", ".*").prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
            (".*", ".*").prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
            ".*".prop_map(|name| AuthCommand::RoleAdd { name }),
            ".*".prop_map(|name| AuthCommand::RoleDelete { name }),
            (".*", permission())
                .prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
            (".*", bytes(), bytes()).prop_map(|(role, key, range_end)| {
                AuthCommand::RoleRevokePermission { role, key, range_end }
            }),
            (".*", any::<u64>(), bytes()).prop_map(|(user, revision, digest)| AuthCommand::TokenAssign {
                user,
                revision,
                digest
            }),
            proptest::collection::vec(bytes(), 0..3).prop_map(|digests| AuthCommand::TokensUsed { digests }),
            (bytes(), any::<u64>()).prop_map(|(digest, used)| {
                let token = TokenUse { digest, used };
                AuthCommand::TokensForget { tokens: vec![token.clone(), token] }
            }),
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        (plain_command(), any::<Option<u64>>()).prop_map(|(command, revision)| match revision {
            None => command,
            Some(revision) => {
                let caller = Caller { user: format!("u{revision}"), revision };
                Command::By { caller, command: Box::new(command) }
            }
        })
    }

    fn plain_command() -> impl Strategy<Value = Command> {
        let compare =
            (range(), any::<i64>(), bytes(), any::<bool>()).prop_map(|(range, number, value, flag)| {
                let target = if flag { CompareTarget::Value(value) } else { CompareTarget::Lease(number) };
                Compare { range, result: CompareResult::NotEqual, target }
            });
        let ops = || proptest::collection::vec(op(), 0..4);
        let txn = (proptest::collection::vec(compare, 0..3), ops(), ops(), ops()).prop_map(
            |(compare, success, failure, inner)| {
                let inner = Op::Txn(Txn { compare: compare.clone(), success: inner, failure: Vec::new() });
                Command::Txn(Txn { compare, success, failure: failure.into_iter().chain([inner]).collect() })
            },
        );
        let lists = proptest::collection::vec(any::<(i64, i64)>(), 0..5);
        prop_oneof![
            8 => txn,
            4 => auth_command().prop_map(Command::Auth),
            1 => any::<i64>().prop_map(|revision| Command::Compact { revision }),
            1 => any::<(i64, i64)>().prop_map(|(id, ttl)| Command::LeaseGrant { id, ttl }),
            1 => (any::<u64>(), lists).prop_map(|(term, remaining)| Command::LeaseCheckpoint { term, remaining }),
            1 => any::<(i64, u64)>().prop_map(|(id, term)| Command::LeaseExpire { id, term }),
            1 => (any::<u64>(), ".*").prop_map(|(id, version)| Command::MemberVersion { id, version }),
            1 => proptest::option::of(".+").prop_map(|target| Command::Downgrade { target }),
            1 => (any::<u64>(), ".*", ".*").prop_map(|(id, name, url)| {
                Command::MemberAttributes(MemberAttributes { id, name, client_urls: vec![url.clone(), url] })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_comes_back_as_it_was(command in command()) {
            prop_assert_eq!(Command::decode(command.encode()), Ok(command));
        }

        #[test]
        fn a_transaction_has_room_from_the_start(command in command()) {
            let is_txn = |command: &Command| matches!(command, Command::Txn(_));
            let holds_txn = match &command {
                Command::By { command, .. } => is_txn(command),
                command => is_txn(command),
            };
            prop_assert!(!holds_txn || command.encode().len() <= command.room());
        }

        #[test]
        fn no_cut_or_damage_panics(command in command(), cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let bytes = command.encode();
            let at = cut.index(bytes.len());
            drop(Command::decode(bytes.slice(..at)));
            let mut damaged = bytes.to_vec();
            damaged[at] ^= flip;
            drop(Command::decode(damaged.into()));
        }
    }

    #[test]
    fn a_command_of_a_newer_version_is_named() {
        let error = Command::decode(Bytes::from_static(&[9, 0])).expect_err("format 9");
        assert_eq!(error.to_string(), "unknown command format 9");
    }
}
