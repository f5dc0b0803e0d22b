//! What is asked of the store and what it answers. Field for field etcd's `rpc.proto`, in Rust's terms.

use bytes::Bytes;

use crate::auth::{AuthCommand, AuthError, Caller};

/// A point in the store's history; the first is 1.
pub type Revision = i64;
/// A lease's id; 0 is none.
pub type LeaseId = i64;
/// A member's id.
pub type MemberId = u64;

/// A key with its value and its history in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision at which the key came to be (again).
    pub create_revision: Revision,
    /// Revision of the last change.
    pub mod_revision: Revision,
    /// Changes since the key came to be; 1 at creation.
    pub version: i64,
    /// The lease the key is attached to; 0 is none.
    pub lease: LeaseId,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, by a client or by its lease.
    Delete,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after a put; only `key` and `mod_revision` after a delete.
    pub kv: KeyValue,
    /// The key before, if it was there and is at hand; [`crate::View::fill_prev`] reads it otherwise.
    pub prev: Option<Box<KeyValue>>,
    /// Revision and number within it of the version before, if the key was there.
    pub prev_at: Option<(Revision, u32)>,
}

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// `start <= key < end`.
    Interval {
        /// The first key.
        start: Bytes,
        /// The key behind the last.
        end: Bytes,
    },
    /// `start <= key`.
    From(Bytes),
}

impl KeyRange {
    /// As etcd's requests say it: no end is one key, an end of one zero byte is "to the last key".
    pub fn from_etcd(key: Bytes, range_end: Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::Key(key),
            [0] => Self::From(key),
            _ => Self::Interval { start: key, end: range_end },
        }
    }

    /// All keys that begin with `prefix`; all keys when it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self::Interval { start, end: end.into() };
            }
        }
        Self::From(start)
    }

    /// Every key.
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// The smallest key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(start) | Self::From(start) | Self::Interval { start, .. } => start,
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Interval { start, end } => start.as_ref() <= key && key < end.as_ref(),
            Self::From(start) => start.as_ref() <= key,
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Interval { start, end } if start >= end)
    }

    /// The part of the range behind a key of it.
    #[must_use]
    pub fn behind(&self, key: &[u8]) -> Self {
        let start: Bytes = [key, &[0]].concat().into();
        match self {
            Self::Interval { end, .. } => Self::Interval { start, end: end.clone() },
            Self::From(_) => Self::From(start),
            Self::Key(only) => Self::Interval { start, end: only.clone() },
        }
    }

    /// Whether `key` lies behind every key of the range.
    pub fn is_before(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only.as_ref() < key,
            Self::Interval { end, .. } => end.as_ref() <= key,
            Self::From(_) => false,
        }
    }
}

/// Order of a range's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By key for [`SortTarget::Key`], ascending for any other target.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a range's answer is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// How often it was written.
    Version,
    /// When it was created.
    Create,
    /// When it was last written.
    Mod,
    /// The value.
    Value,
}

/// Reads keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// At most so many; 0 is no limit.
    pub limit: i64,
    /// As they were at this revision; 0 or less is now.
    pub revision: Revision,
    /// Order.
    pub sort_order: SortOrder,
    /// Order by what.
    pub sort_target: SortTarget,
    /// Without values.
    pub keys_only: bool,
    /// Only the count.
    pub count_only: bool,
    /// Leaves out keys last written before; 0 is no bound. The same for the three below.
    pub min_mod_revision: Revision,
    /// See above.
    pub max_mod_revision: Revision,
    /// See above.
    pub min_create_revision: Revision,
    /// See above.
    pub max_create_revision: Revision,
}

impl RangeRequest {
    /// Everything in a range, as it is now.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            revision: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }

    /// One key, as it is now.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::new(KeyRange::Key(key.into()))
    }

    /// All keys with a prefix, as they are now.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    /// Whether keys are left out by their revisions.
    pub fn filters(&self) -> bool {
        let bounds = [
            self.min_mod_revision,
            self.max_mod_revision,
            self.min_create_revision,
            self.max_create_revision,
        ];
        bounds.iter().any(|&bound| bound != 0)
    }

    /// Sorts keys as the request asks; by its target in ascending order when it names no order.
    pub fn sort(&self, kvs: &mut [KeyValue]) {
        let order = |a: &KeyValue, b: &KeyValue| -> std::cmp::Ordering {
            match self.sort_target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        };
        if self.sort_order == SortOrder::Descend {
            kvs.sort_by(|a, b| order(b, a));
        } else {
            kvs.sort_by(order);
        }
    }

    pub(crate) fn sorts(&self) -> bool {
        self.sort_order == SortOrder::Descend || self.sort_target != SortTarget::Key
    }
}

/// The answer to a [`RangeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the answer.
    pub more: bool,
    /// How many keys are in the range, whatever the limit and the filters.
    pub count: i64,
    /// The store's revision when this was read.
    pub revision: Revision,
}

/// Writes a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to attach to; 0 detaches.
    pub lease: LeaseId,
    /// Answer with what was there.
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    pub ignore_lease: bool,
}

/// Deletes keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Answer with what was there.
    pub prev_kv: bool,
}

/// How a [`Compare`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// The same.
    Equal,
    /// What is there is larger.
    Greater,
    /// What is there is smaller.
    Less,
    /// Not the same.
    NotEqual,
}

/// What a [`Compare`] looks at. A key that is not there counts as all zeros, but has no value at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// How often it was written.
    Version(i64),
    /// When it was created.
    Create(Revision),
    /// When it was last written.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(LeaseId),
}

/// A condition of a transaction; over more than one key it must hold for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How.
    pub result: CompareResult,
    /// What.
    pub target: CompareTarget,
}

impl Compare {
    /// That `key` was last written at `revision`; 0 is that it does not exist.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            range: KeyRange::Key(key.into()),
            result: CompareResult::Equal,
            target: CompareTarget::Mod(revision),
        }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    Delete(DeleteRequest),
    /// A transaction within.
    Txn(Txn),
}

/// If all compares hold `success`, otherwise `failure`; all of it at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// What is done when they hold.
    pub success: Vec<Op>,
    /// What is done when they do not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// One step without a condition.
    pub fn of(op: Op) -> Self {
        Self { compare: Vec::new(), success: vec![op], failure: Vec::new() }
    }

    /// Whether no step of it can change anything.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => txn.is_read_only(),
        })
    }
}

/// The answer to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// To a read.
    Range(RangeResponse),
    /// To a write.
    Put {
        /// What was there, if asked for.
        prev: Option<KeyValue>,
    },
    /// To a delete.
    Delete {
        /// How many keys were deleted.
        deleted: i64,
        /// What was there, if asked for.
        prev_kvs: Vec<KeyValue>,
    },
    /// To a transaction within.
    Txn(TxnResponse),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Whether the compares held.
    pub succeeded: bool,
    /// One a step.
    pub responses: Vec<OpResponse>,
}

/// What an alarm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The quota is used up: writes are refused.
    NoSpace,
    /// A member's data differs from the others'.
    Corrupt,
}

impl AlarmKind {
    /// etcd's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// A member's alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// Whose.
    pub member: MemberId,
    /// Which.
    pub kind: AlarmKind,
}

/// Raising and clearing alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmAction {
    /// Raise.
    Activate,
    /// Clear.
    Deactivate,
}

/// What a member says of itself; its addresses for peers are part of the raft membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    /// Whose.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it serves clients.
    pub client_urls: Vec<String>,
}

/// Everything that can be replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing: a new leader's first entry.
    Noop,
    /// A transaction; single puts and deletes are transactions of one step.
    Txn(Txn),
    /// Forget the history before a revision.
    Compact {
        /// The first revision that stays readable.
        revision: Revision,
    },
    /// A new lease.
    LeaseGrant {
        /// Its id; chosen before it is proposed.
        id: LeaseId,
        /// Seconds to live.
        ttl: i64,
    },
    /// Ends a lease and deletes its keys.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// Ends a lease whose time is over, as the leader of a term sees it: in any other term nothing happens, since
    /// whoever leads then may have renewed it.
    LeaseExpire {
        /// Which.
        id: LeaseId,
        /// The term.
        term: u64,
    },
    /// Remembers how long leases still have, so that a new leader does not start them anew. It, too, holds only in the
    /// term of the leader that knows.
    LeaseCheckpoint {
        /// The term.
        term: u64,
        /// Lease and seconds left.
        remaining: Vec<(LeaseId, i64)>,
    },
    /// Raises or clears an alarm.
    Alarm {
        /// Which of the two.
        action: AlarmAction,
        /// Which alarm.
        alarm: Alarm,
    },
    /// A member makes itself known.
    MemberAttributes(MemberAttributes),
    /// A removed member's attributes go.
    MemberForget {
        /// Whose.
        id: MemberId,
    },
    /// The version that all members understand.
    ClusterVersion {
        /// `major.minor.patch`.
        version: String,
    },
    /// A member tells which version it runs.
    MemberVersion {
        /// Whose.
        id: MemberId,
        /// `major.minor.patch`.
        version: String,
    },
    /// The cluster is being brought to an older version, or is not any more.
    Downgrade {
        /// To which version, `major.minor.patch`.
        target: Option<String>,
    },
    /// A change of users, roles and tokens.
    Auth(AuthCommand),
    /// A command on a caller's behalf: it is applied only if the caller may. One without a caller is the cluster's own.
    By {
        /// Who asks.
        caller: Caller,
        /// For what; never itself a `By`.
        command: Box<Command>,
    },
}

impl Command {
    /// This command on a caller's behalf.
    #[must_use]
    pub fn by(self, caller: Caller) -> Self {
        Self::By { caller, command: Box::new(self) }
    }

    /// The command without the caller.
    pub fn plain(&self) -> &Self {
        match self {
            Self::By { command, .. } => command,
            plain => plain,
        }
    }
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To all that have nothing to say.
    None,
    /// To a transaction.
    Txn(TxnResponse),
    /// To a grant.
    LeaseGranted {
        /// The id.
        id: LeaseId,
        /// Seconds to live.
        ttl: i64,
    },
    /// To an alarm command: the alarms it raised or cleared.
    Alarms(Vec<Alarm>),
    /// To a new token.
    TokenAssigned {
        /// The log entry that made it.
        index: u64,
    },
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The store's revision afterwards.
    pub revision: Revision,
    /// The answer, or why nothing was changed.
    pub response: Result<Response, MvccError>,
    /// The changes, in order; all at `revision`.
    pub events: Vec<Event>,
}

/// Why a command changed nothing or a read has no answer. The texts are etcd's (`rpctypes/error.go`), without the
/// `etcdserver: ` that the API puts in front.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MvccError {
    /// The revision was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The first revision that is still readable.
        compact_revision: Revision,
    },
    /// The revision is not reached yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease with that id exists.
    #[error("lease already exists")]
    LeaseExists,
    /// More than [`crate::MAX_LEASE_TTL`] seconds.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    #[error("key not found")]
    KeyNotFound,
    /// The quota is used up.
    #[error("mvcc: database space exceeded")]
    NoSpace,
    /// A member's data differs from the others'.
    #[error("corrupt cluster")]
    Corrupt,
    /// A request without a key.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// More steps than allowed.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// A transaction that writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// There is no memory for the answer now.
    #[error("mvcc: the answer would take {bytes} bytes")]
    TooMuch {
        /// Bytes of its keys and values.
        bytes: u64,
    },
    /// The caller may not, or users and roles cannot be changed so.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The engine failed to answer a read of history.
    #[error("{0}")]
    Engine(String),
}
