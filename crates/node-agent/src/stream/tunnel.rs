//! SPDY in the messages of a WebSocket: bytes are taken out and put in, and nothing is understood (KEP-4006). Pure.

use bytes::{Bytes, BytesMut};

use super::{Broken, Down, Up, websocket};

/// Before the name of what is spoken over SPDY, in the client's list of protocols.
const PREFIX: &str = "SPDY/3.1+";
/// At the end of that name.
const SUFFIX: &str = ".k8s.io";

/// What a client's protocol is over SPDY; none if it is no tunnel.
pub fn inner(protocol: &str) -> Option<&str> {
    protocol.strip_prefix(PREFIX).filter(|inner| inner.ends_with(SUFFIX))
}

/// What the client says.
#[derive(Debug)]
pub struct Upward;

impl Up for Upward {
    fn part(&mut self, _: bool, bytes: Bytes, _: bool, runtime: &mut BytesMut) -> Result<(), Broken> {
        runtime.extend_from_slice(&bytes);
        Ok(())
    }
}

/// What the runtime says.
#[derive(Debug)]
pub struct Downward;

impl Down for Downward {
    fn bytes(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        _: &mut BytesMut,
    ) -> Result<bool, Broken> {
        websocket::message(&[&input.split()], client);
        Ok(false)
    }

    fn end(&mut self, client: &mut BytesMut) {
        websocket::close(websocket::NORMAL, client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_what_they_are() {
        assert_eq!(inner("SPDY/3.1+portforward.k8s.io"), Some("portforward.k8s.io"));
        assert_eq!(inner("v5.channel.k8s.io"), None);
        let (mut client, mut runtime) = (BytesMut::new(), BytesMut::new());
        Upward.part(true, Bytes::from_static(b"\x80\x03"), false, &mut runtime).unwrap();
        Upward.part(false, Bytes::from_static(b"\0\x01"), true, &mut runtime).unwrap();
        assert_eq!(runtime.as_ref(), b"\x80\x03\0\x01");
        let mut input = BytesMut::from(&b"\x80\x03"[..]);
        assert_eq!(Downward.bytes(&mut input, &mut client, &mut BytesMut::new()), Ok(false));
        assert_eq!(client.as_ref(), b"\x82\x02\x80\x03");
    }
}
