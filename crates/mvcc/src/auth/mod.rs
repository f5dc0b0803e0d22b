//! Users, roles, and what they may do (etcd's `auth` store): part of the replicated state like keys and leases.
//!
//! Passwords arrive hashed and tokens arrive as digests: neither the log nor the state holds anything that opens a
//! door. Read `types.rs` (the words), `spans.rs` (which keys several permissions cover), `state.rs` (the state and its
//! changes), `check.rs` (who may do what), `codec.rs` (all of it as bytes).

mod check;
mod codec;
mod spans;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use codec::{put_command, take_command};
pub use state::{Auth, MAX_TOKENS};
pub use types::{Access, AuthCommand, AuthError, Caller, Permission, ROOT, Role, Token, TokenUse, User};
