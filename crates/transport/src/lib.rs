//! How members and clients are listened to and called: addresses, sockets, TLS with files that may change while they
//! are used.
//!
//! Invariants:
//! - there is one TLS stack (rustls) and one place that decides whose certificate is believed (`verify.rs`), for
//!   clients and for members;
//! - certificates, keys, authorities and revocation lists are looked at again with every connection; files that cannot
//!   be used leave the ones before in use;
//! - what is refused is refused with the words that Go's library and etcd use, for those who read logs.
//!
//! Read `address.rs`, `socket.rs`, `options.rs`, `tls.rs`, `verify.rs`, `room.rs` (how many connections), `accept.rs`, `called.rs` (a client's
//! connection), `outgoing.rs`, `gathering.rs`, `dial.rs`, `turns.rs`;
//! `websocket.rs` is for servers that are asked to speak so.

mod accept;
mod address;
mod called;
mod dial;
mod frames;
mod gathering;
mod names;
mod opening;
mod options;
mod outgoing;
mod pings;
mod protocol;
mod resolve;
mod room;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod turns;
mod verify;
pub mod websocket;
mod words;

pub use accept::{Admission, Security, accepted, admit, admitted};
pub use address::{Address, AddressError, Scheme};
pub use called::{Called, PingPolicy};
pub use dial::Dialer;
pub use gathering::Gathering;
pub use options::{CipherSuiteError, TlsOptions, TlsVersions, VersionError, cipher_suites};
pub use resolve::{Service, ServiceError, services};
pub use room::{Place, Room};
pub use socket::{Accepted, Connection, Listener, Peer, SocketOptions};
pub use tls::{Tls, TlsError, common_name};
pub use verify::answerers;
