//! The replicated state machine: a multi-version key-value store with leases and users, as etcd's API promises it.
//!
//! Pure: no clock, no randomness, no network, no tasks; disk only behind [`Engine`]. Every replica that applies the
//! same commands in the same order holds the same state and gives the same answers.
//!
//! Invariants:
//! - the store starts at revision 1; a command that changes keys makes exactly one new revision, whose changes are
//!   numbered by `sub` in the order in which they were made; one that changes nothing makes none;
//! - a [`View`] never changes: it is a persistent tree, shared with the writer and with every other view;
//! - the index is in memory, values are in the engine with a bounded cache in front; a version never changes, and is
//!   shared by reference count between cache, events and answers;
//! - a version says which one it took the place of, so that the past is found without being in the index;
//! - a command with a caller is applied only if the caller may, by the users and roles of the state that it meets;
//! - what the engine holds is always the state after some whole command ([`Mvcc::commit`] writes changes and the
//!   applied index in one batch).
//!
//! Read `types.rs` (requests and answers), `tree/` (the index), `record.rs` (versions as bytes), `values.rs` (where they
//! are read from), `view.rs`, `range.rs` and `encoded.rs` (reading), `txn.rs` (writing), `lease.rs`, `auth/` (who may
//! what), `machine.rs` (commands one by one), `sweep.rs` (deleting what was compacted), `saved.rs` and `replay.rs`
//! (opening), `codec.rs` (commands as bytes), `engine.rs`, `dump.rs` (all of it, for copies),
//! `load.rs` (all of it, from copies).

mod auth;
mod codec;
mod dump;
mod encoded;
mod engine;
mod hash;
mod lease;
mod load;
mod machine;
mod range;
mod record;
mod replay;
mod saved;
mod sweep;
mod tree;
mod txn;
mod types;
mod validate;
mod values;
mod view;

pub use auth::{
    Access, Auth, AuthCommand, AuthError, Caller, MAX_TOKENS, Permission, ROOT, Role, Token, TokenUse, User,
};
pub use codec::DecodeError;
pub use dump::{Contents, StoredLease, StoredVersion, contents, versions};
pub use encoded::EncodedRange;
pub use engine::{Batch, Engine, EngineError, MemoryEngine, Table, VisitValue, WriteIndex};
pub use hash::StateHash;
pub use lease::{Lease, MAX_LEASE_TTL};
pub use load::Loader;
pub use machine::{DEFAULT_CACHE_BYTES, Mvcc, SavedIndex, Saving, peek};
pub use sweep::{SweepStep, Swept};
pub use types::{
    Alarm, AlarmAction, AlarmKind, Applied, Command, Compare, CompareResult, CompareTarget, DeleteRequest,
    Event, EventKind, KeyRange, KeyValue, LeaseId, MemberAttributes, MemberId, MvccError, Op, OpResponse,
    PutRequest, RangeRequest, RangeResponse, Response, Revision, SortOrder, SortTarget, Txn, TxnResponse,
};
pub use validate::{MAX_TXN_OPS, validate};
pub use view::{HistoryBatch, View};
