//! What clients saw, and whether a store that is strictly serializable could have shown it (pure).
//!
//! A [`History`] holds operations with the times of call and answer, and the streams of watchers. [`check`] judges it in
//! this order: every key alone as a register (`register.rs`: cheap, and names the key); all keys with their revisions
//! (`model.rs`: etcd's rules), both by the search of `search.rs`; then, against the revisions in the order found, the
//! reads of the past (`past.rs`) and the watchers (`watch.rs`). Beside them `leases.rs`, `locks.rs` and `rights.rs` judge
//! clients whose requests are not among the operations; what those wrote is known from watchers (`others.rs`).
//!
//! An operation whose answer was lost may have happened at any time after its call, or never. What a watcher saw of it
//! tells at which revision it happened, if it did (`model.rs`, `Pins`).

mod check;
mod leases;
mod locks;
mod model;
mod others;
mod past;
mod register;
mod rights;
mod search;
#[cfg(test)]
mod tests;
mod types;
mod watch;

pub use check::check;
pub use types::{
    Act, Attempt, Change, Compare, History, Hold, Item, Keys, Kv, Operation, Outcome, Refusal, Request,
    Response, Session, Step, Stream,
};
