//! How messages of gRPC stand in a body, and the answer of a call that is one message.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use prost::Message;
use tonic::body::Body;

/// Bytes before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;
/// The first byte of a message that is compressed.
pub(crate) const COMPRESSED: u8 = 1;

/// Whether a request is a call of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What stands before a message of so many bytes, with room for so many of them; `None` for 4 GiB and more.
pub(crate) fn begin(length: u64, room: usize) -> Option<BytesMut> {
    let length = u32::try_from(length).ok()?;
    let mut framed = BytesMut::with_capacity(PREFIX + room);
    framed.put_u8(0);
    framed.put_u32(length);
    Some(framed)
}

/// A message as it is sent; `None` of 4 GiB and more.
pub(crate) fn frame(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut framed = begin(length as u64, length)?;
    message.encode(&mut framed).expect("invariant: a buffer grows");
    Some(framed.freeze())
}

/// The length of the message that a buffer begins with.
pub(crate) fn length(buffer: &[u8]) -> Option<usize> {
    let length = buffer.get(1..PREFIX)?.try_into().ok()?;
    Some(u32::from_be_bytes(length) as usize)
}

/// The response to a call: a message as it is sent, and that the call succeeded.
pub(crate) fn response(frame: Bytes) -> http::Response<Body> {
    with_body(Body::new(Whole { frame, ended: false }))
}

/// A response with a body of gRPC.
pub(crate) fn with_body(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// That a call succeeded.
pub(crate) fn succeeded() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

struct Whole {
    frame: Bytes,
    ended: bool,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = std::mem::take(&mut self.frame);
        if !frame.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let ended = std::mem::replace(&mut self.ended, true);
        Poll::Ready((!ended).then(|| Ok(Frame::trailers(succeeded()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
