//! Requests whose messages come compressed, with gzip: behind here they are as if they had not been.
//!
//! A message is inflated as it comes, so that what was sent of it is never held beside what it becomes; it may become as
//! large as any other message, and is counted as its client's while it grows.

use std::io::{self, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, Request, header};
use tonic::Status;
use tonic::body::Body;

use crate::budget::{Permit, Share};
use crate::error::too_large;
use crate::framing::{self, PREFIX};
use crate::remade::{Remade, Remake};

/// Metadata in which a client says how its messages are compressed.
const ENCODING_KEY: &str = "grpc-encoding";
/// Bytes that inflating takes beside the message, about.
const STATE_BYTES: u64 = 80 << 10;

/// Whether messages of a request may be compressed.
///
/// # Errors
/// grpc-go's, if they are in a way that is not known here.
pub(crate) fn is_compressed(headers: &HeaderMap) -> Result<bool, Status> {
    match headers.get(ENCODING_KEY).map(|encoding| encoding.to_str().unwrap_or("?")) {
        None | Some("" | "identity") => Ok(false),
        Some("gzip") => Ok(true),
        Some(other) => Err(Status::unimplemented(format!(
            "grpc: Decompressor is not installed for grpc-encoding {other:?}"
        ))),
    }
}

/// A request as if its messages, of at most `max` bytes, had not been compressed.
pub(crate) fn request(mut request: Request<Body>, share: &Share, max: usize) -> Request<Body> {
    request.headers_mut().remove(ENCODING_KEY);
    request.headers_mut().remove(header::CONTENT_LENGTH);
    // A prefix has four bytes for the length.
    let max = max.min(u32::MAX as usize);
    let share = share.clone();
    request.map(|body| Body::new(Remade::new(body, Inflating { share, max, part: Part::Prefix })))
}

/// What comes next.
enum Part {
    Prefix,
    /// So many bytes of a message that is not compressed.
    Plain(usize),
    /// So many bytes of one that is.
    Compressed(usize, Box<MultiGzDecoder<Message>>),
}

/// Inflates the messages of a body that are compressed.
struct Inflating {
    share: Share,
    /// Bytes that a message may have.
    max: usize,
    part: Part,
}

impl Remake for Inflating {
    fn next(&mut self, came: &mut BytesMut) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.part {
                Part::Prefix => {
                    let Some(length) = framing::length(came) else { return Ok(None) };
                    if came[0] != framing::COMPRESSED {
                        self.part = Part::Plain(length);
                        return Ok(Some(came.split_to(PREFIX).freeze()));
                    }
                    came.advance(PREFIX);
                    self.part = Part::Compressed(length, Box::new(self.begin(length)?));
                }
                Part::Plain(0) => self.part = Part::Prefix,
                Part::Plain(left) => {
                    let part = came.split_to(came.len().min(*left));
                    *left -= part.len();
                    return Ok((!part.is_empty()).then(|| part.freeze()));
                }
                Part::Compressed(0, inflater) => {
                    inflater.try_finish().map_err(unreadable)?;
                    let message = inflater.get_mut().take();
                    self.part = Part::Prefix;
                    return Ok(Some(message));
                }
                Part::Compressed(left, inflater) => {
                    let part = came.split_to(came.len().min(*left));
                    *left -= part.len();
                    inflater.write_all(&part).map_err(unreadable)?;
                    if *left > 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

impl Inflating {
    fn begin(&self, length: usize) -> Result<MultiGzDecoder<Message>, Status> {
        if length > self.max {
            return Err(too_large(length, self.max));
        }
        let permit = self.share.try_take(STATE_BYTES)?;
        let bytes = BytesMut::zeroed(PREFIX);
        Ok(MultiGzDecoder::new(Message { bytes, max: self.max, share: self.share.clone(), permit }))
    }
}

/// A message that grows, with its prefix, up to `max` bytes.
struct Message {
    bytes: BytesMut,
    max: usize,
    share: Share,
    permit: Permit,
}

impl Message {
    /// As it would have come.
    fn take(&mut self) -> Bytes {
        let mut bytes = std::mem::take(&mut self.bytes);
        let length = u32::try_from(bytes.len() - PREFIX).expect("invariant: `max` bytes have a prefix");
        bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        bytes.freeze()
    }
}

impl Write for Message {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > PREFIX + self.max {
            let text = format!("grpc: received message after decompression larger than max {}", self.max);
            return Err(io::Error::other(Status::resource_exhausted(text)));
        }
        let more = self.share.try_take(data.len() as u64).map_err(io::Error::other)?;
        self.permit.join(more);
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a message could not be inflated.
fn unreadable(error: io::Error) -> Status {
    let text = format!("grpc: failed to decompress the message: {error}");
    error.downcast::<Status>().unwrap_or_else(|_| Status::internal(text))
}
