//! The connection behind a request, for those who answer with more than one response: streams and proxies.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;

use crate::body::Body;

/// What the server knows of a connection.
#[derive(Clone)]
pub(crate) struct Door {
    /// The client's address.
    pub peer: IpAddr,
    /// Its place among the connections, which whoever takes the connection over keeps.
    pub place: Arc<transport::Place>,
    /// The connection itself, once it was answered 101.
    pub upgrade: Option<OnUpgrade>,
}

/// Marks the answer to somebody who is not known.
#[derive(Clone, Copy)]
pub(crate) struct Stranger;

/// What stays of a request as it came.
#[derive(Default)]
pub(crate) struct Wire {
    /// None for requests of this process.
    pub door: Option<Door>,
    /// The query as it was written.
    pub query: String,
    /// A body that is not read before it is passed on.
    pub body: Mutex<Option<Body>>,
}
