//! Bodies of gRPC, whose messages are looked at one by one.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use crate::framing::{self, PREFIX, length};
use crate::remade::Remake;

fn too_large() -> Status {
    Status::internal("a message is too large")
}

/// A message as it is sent.
pub(super) fn frame(message: &[u8]) -> Result<Bytes, Status> {
    let mut framed = framing::begin(message.len() as u64, message.len()).ok_or_else(too_large)?;
    framed.put_slice(message);
    Ok(framed.freeze())
}

/// The answer of one message.
pub(super) fn answer(message: &impl Message) -> Result<http::Response<Body>, Status> {
    framing::frame(message).map(framing::response).ok_or_else(too_large)
}

/// The message that a buffer begins with, if it is all there.
///
/// # Errors
/// It is compressed.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(length) = length(buffer).filter(|length| buffer.len() >= PREFIX + length) else {
        return Ok(None);
    };
    if buffer[0] != 0 {
        return Err(Status::unimplemented("grpc: compressed messages are not read here"));
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Replaces the messages of a body on their way; so is the reason why one cannot be read, behind which there is nothing
/// more.
pub(super) struct Replaced<F> {
    /// Bytes that a message may have.
    max: usize,
    replace: F,
    over: bool,
}

impl<F: FnMut(Result<Bytes, Status>) -> Result<Vec<u8>, Status>> Replaced<F> {
    pub fn new(max: usize, replace: F) -> Self {
        Self { max, replace, over: false }
    }
}

impl<F: FnMut(Result<Bytes, Status>) -> Result<Vec<u8>, Status>> Remake for Replaced<F> {
    fn next(&mut self, came: &mut BytesMut) -> Result<Option<Bytes>, Status> {
        let too_large = || Status::resource_exhausted("grpc: received message larger than max");
        let message = match length(came) {
            Some(length) if length > self.max => Err(too_large()),
            _ => take(came),
        };
        let Some(message) = message.transpose() else { return Ok(None) };
        self.over |= message.is_err();
        frame(&(self.replace)(message)?).map(Some)
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_all_there() {
        let whole = [frame(b"abc").expect("short"), frame(b"").expect("short")].concat();
        let (mut buffer, mut taken) = (BytesMut::new(), Vec::new());
        for byte in whole {
            buffer.put_u8(byte);
            taken.extend(take(&mut buffer).expect("a message"));
        }
        assert_eq!(taken, [&b"abc"[..], b""]);
        assert!(take(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }
}
