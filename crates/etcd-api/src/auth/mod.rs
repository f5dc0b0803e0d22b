//! Who asks, and whether they may (etcd's `Auth` service).
//!
//! What users and roles there are, and what they permit, is part of the replicated state (`mvcc::Auth`). Here is what
//! needs a clock, randomness or much computing: comparing passwords, making tokens and knowing them again. Writes are
//! checked once more where they are applied, reads against the very state that they read.
//!
//! Read `options.rs` (`--auth-token`), `caller.rs` (from a request to a caller), `tokens.rs`, `jwt.rs`, `signing.rs`, `password.rs`,
//! `service.rs` (the RPCs), `keeper.rs` (tokens that nobody uses end).

mod caller;
mod jwt;
mod keeper;
mod options;
mod password;
mod service;
mod signing;
mod tokens;

pub(crate) use caller::{Credentials, common_name};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use jwt::any_token;
pub(crate) use keeper::keep;
pub use options::{AuthOptions, AuthOptionsError};
pub(crate) use service::AuthService;
pub(crate) use tokens::Tokens;
