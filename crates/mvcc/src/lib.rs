//! The replicated state machine: a multi-version key-value store with leases and users, as etcd's API promises it.
//!
//! Pure: no clock, no randomness, no network, no tasks; disk only behind [`Engine`]. Every replica that applies the
//! same commands in the same order holds the same state and gives the same answers.
//!
//! Invariants:
//! - the store starts at revision 1; a command that changes keys makes exactly one new revision, whose changes are
//!   numbered by `sub` in the order in which they were made; one that changes nothing makes none;
//! - a [`View`] never changes: it is a persistent tree, shared with the writer and with every other view;
//! - current values are resident and shared by reference count between index, views, events and answers; older ones
//!   are read from the engine;
//! - a command with a caller is applied only if the caller may, by the users and roles of the state that it meets;
//! - what the engine holds is always the state after some whole command ([`Mvcc::commit`] writes changes and the
//!   applied index in one batch).
//!
//! Read `types.rs` (requests and answers), `index.rs`, `view.rs` (reading), `txn.rs` (writing), `lease.rs`,
//! `auth/` (who may what), `machine.rs` (commands one by one), `codec.rs` (commands as bytes), `record.rs` (versions as bytes), `engine.rs`, `dump.rs` (all of it, for copies).

mod auth;
mod codec;
mod dump;
mod engine;
mod hash;
mod index;
mod lease;
mod machine;
mod record;
mod txn;
mod types;
mod validate;
mod view;

pub use auth::{
    Access, Auth, AuthCommand, AuthError, Caller, MAX_TOKENS, Permission, ROOT, Role, Token, TokenUse, User,
};
pub use codec::DecodeError;
pub use dump::{Contents, StoredLease, StoredVersion, contents, versions};
pub use engine::{Batch, Engine, EngineError, MemoryEngine, Table};
pub use hash::StateHash;
pub use lease::{Lease, MAX_LEASE_TTL};
pub use machine::{Mvcc, peek};
pub use types::{
    Alarm, AlarmAction, AlarmKind, Applied, Command, Compare, CompareResult, CompareTarget, DeleteRequest,
    Event, EventKind, KeyRange, KeyValue, LeaseId, MemberAttributes, MemberId, MvccError, Op, OpResponse,
    PutRequest, RangeRequest, RangeResponse, Response, Revision, SortOrder, SortTarget, Txn, TxnResponse,
};
pub use validate::{MAX_TXN_OPS, validate};
pub use view::{HistoryBatch, View};
