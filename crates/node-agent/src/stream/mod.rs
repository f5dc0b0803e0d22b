//! The protocols of `exec`, `attach` and `port-forward`, as far as this node translates them. Pure: bytes in, bytes out.
//!
//! Container runtimes speak SPDY/3.1 (`v1` to `v4.channel.k8s.io`, `portforward.k8s.io`) and WebSockets up to
//! `v4.channel.k8s.io`: those pass through as they come. Clients of today ask for two more, which are translated here to
//! the runtime's SPDY: `v5.channel.k8s.io` (KEP-4006: a client can end the standard input alone) by
//! [`remote_command`], and SPDY within a WebSocket (`SPDY/3.1+portforward.k8s.io`) by [`tunnel`].

pub mod remote_command;
pub mod spdy;
pub mod tunnel;

use bytes::{Bytes, BytesMut};
pub use transport::websocket::{self, Broken};

/// What a client's messages become for the runtime.
pub trait Up: Send {
    /// A part of a message; whether it begins and whether it ends the message.
    ///
    /// # Errors
    /// The client does not keep to the protocol.
    fn part(&mut self, first: bool, bytes: Bytes, last: bool, runtime: &mut BytesMut) -> Result<(), Broken>;
}

/// What a runtime's bytes become for the client.
pub trait Down: Send {
    /// Takes what it understands from `input`; `runtime` gets what the runtime must be answered. True: it was the end.
    ///
    /// # Errors
    /// The runtime does not keep to the protocol.
    fn bytes(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        runtime: &mut BytesMut,
    ) -> Result<bool, Broken>;

    /// What the client is told last.
    fn end(&mut self, client: &mut BytesMut);
}
