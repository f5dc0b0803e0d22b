//! Request and response bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use api_types::status::Status;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::{Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};

/// An error on the way of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every request and response, in process and on the wire.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// The largest request body in bytes (upstream's `MaxRequestBodyBytes`).
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// Bytes of a body that is too large that are still taken.
const MAX_DROPPED_BYTES: usize = 64 << 20;

/// Marks an answer of another server, among a response's extensions: it goes on as it comes, and nobody reads it whole.
#[derive(Clone, Copy)]
pub(crate) struct AsItComes;

/// Whether an answer must not be read whole.
pub(crate) fn goes_as_it_comes(response: &Response<Body>) -> bool {
    response.extensions().get::<AsItComes>().is_some()
}

/// A body that is there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body that comes from another server.
pub(crate) fn incoming(body: hyper::body::Incoming) -> Body {
    BodyExt::boxed_unsync(body.map_err(|error| -> BoxError { error.into() }))
}

/// A body that comes in pieces.
pub(crate) fn stream<S>(pieces: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    let frames = futures::StreamExt::map(pieces, |piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// A body that takes something along, which goes with it.
pub(crate) struct Carrying<T> {
    body: Body,
    _along: T,
}

impl<T> Carrying<T> {
    pub(crate) fn new(body: Body, along: T) -> Self {
        Self { body, _along: along }
    }
}

impl<T: Unpin> http_body::Body for Carrying<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a body was not read.
pub(crate) enum ReadError {
    /// Larger than the limit; what is left of it.
    TooLarge(Body),
    Broken(BoxError),
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_up_to(mut body: Body, limit: usize) -> Result<Bytes, ReadError> {
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        if first.len() + whole.as_ref().map_or(0, BytesMut::len) + data.len() > limit {
            return Err(ReadError::TooLarge(body));
        }
        match &mut whole {
            // Most bodies come in one piece, which is not copied.
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::from(std::mem::take(&mut first).as_ref());
                joined.extend_from_slice(&data);
                whole = Some(joined);
            }
            Some(whole) => whole.extend_from_slice(&data),
        }
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}

/// Reads a request's body, up to [`MAX_BODY_BYTES`]. The rest of a larger one is taken and dropped, so that the client
/// has sent it all when it reads the answer.
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    match read_up_to(body, MAX_BODY_BYTES).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadError::Broken(error)) => Err(Status::bad_request(error.to_string())),
        Err(ReadError::TooLarge(mut rest)) => {
            let mut dropped = 0;
            while let Some(Ok(frame)) = rest.frame().await {
                dropped += frame.data_ref().map_or(0, Bytes::len);
                if dropped > MAX_DROPPED_BYTES {
                    break;
                }
            }
            Err(Status::request_entity_too_large(format_args!("limit is {MAX_BODY_BYTES}")))
        }
    }
}

/// A response with a body of one type.
pub(crate) fn response(code: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_header(&mut response, header::CONTENT_TYPE, content_type);
    response
}

/// A plain text of upstream's that browsers shall take for nothing else.
pub(crate) fn plain(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = response(code, "text/plain; charset=utf-8", text);
    set_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

/// Sets a header; a text that no header can hold is left out.
pub(crate) fn set_header(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = header::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
