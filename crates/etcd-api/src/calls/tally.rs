//! The two bodies of a call, counted as they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::{Open, trailing_code};
use crate::budget::{CALL, Permit, Reserved};
use crate::error::too_large;
use crate::framing::PREFIX;

/// Finds the messages in the bytes of a body.
#[derive(Default)]
struct Frames {
    header: [u8; PREFIX],
    have: usize,
    /// Bytes of the present message, and those that are still to come.
    length: usize,
    left: usize,
}

impl Frames {
    /// The messages that begin in these bytes.
    fn feed(&mut self, mut data: &[u8], mut payload: impl FnMut(&[u8])) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let (part, rest) = data.split_at(self.left.min(data.len()));
                payload(part);
                self.left -= part.len();
                data = rest;
                continue;
            }
            let (part, rest) = data.split_at((PREFIX - self.have).min(data.len()));
            self.header[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            data = rest;
            if self.have == PREFIX {
                let [_, length @ ..] = self.header;
                self.length = u32::from_be_bytes(length) as usize;
                self.left = self.length;
                self.have = 0;
                begun += 1;
            }
        }
        begun
    }
}

/// The messages that begin in a body that comes in pieces, and the bytes of all of them. For the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn messages_in(body: &[u8], piece: usize) -> (u64, Vec<u8>) {
    let (mut frames, mut payload) = (Frames::default(), Vec::new());
    let begun =
        body.chunks(piece).map(|part| frames.feed(part, |part| payload.extend_from_slice(part))).sum();
    (begun, payload)
}

/// What a client sends. What has come of a large message is counted until the next one comes, or nobody reads on.
pub(super) struct Asking {
    body: Body,
    open: Arc<Open>,
    frames: Frames,
    /// Bytes that are counted.
    held: u64,
    permit: Option<Permit>,
}

impl Asking {
    pub fn new(body: Body, open: Arc<Open>) -> Self {
        Self { body, open, frames: Frames::default(), held: 0, permit: None }
    }

    /// Counts what has come of the present message, if it may be that large.
    fn hold(&mut self, begun: u64) -> Result<(), Status> {
        let (size, max) = (self.frames.length, self.open.calls.0.max_message);
        if size > max {
            return Err(too_large(size, max));
        }
        if begun > 0 {
            self.permit = None;
            self.held = CALL;
        }
        let have = (self.frames.length - self.frames.left) as u64;
        if have <= self.held {
            return Ok(());
        }
        let more = self.open.share.try_take(have - self.held)?;
        self.held = have;
        match &mut self.permit {
            Some(permit) => permit.join(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl http_body::Body for Asking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            let (open, mut bytes) = (&this.open, 0);
            let messages = this.frames.feed(data, |part| {
                bytes += part.len();
                open.keep(part);
            });
            open.received.fetch_add(bytes as u64, Ordering::Relaxed);
            open.calls.0.methods.received(open.method, messages, bytes as u64);
            if let Err(refused) = this.hold(messages) {
                return Poll::Ready(Some(Err(refused)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What it is answered.
pub(super) struct Answering {
    body: Body,
    open: Arc<Open>,
    frames: Frames,
    /// What was taken for it.
    reserved: Option<Reserved>,
}

impl Answering {
    pub fn new(body: Body, open: Arc<Open>, reserved: Option<Reserved>) -> Self {
        Self { body, open, frames: Frames::default(), reserved }
    }

    /// Bytes that are counted until the client has read them.
    fn counted(&self, data: Bytes) -> Bytes {
        match &self.reserved {
            Some(reserved) => match reserved.take() {
                Some(permit) => permit.hold(data),
                None => data,
            },
            None if data.len() as u64 > CALL => self.open.share.charge(data.len() as u64).hold(data),
            None => data,
        }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (open, mut bytes) = (&this.open, 0);
                    let messages = this.frames.feed(data, |part| bytes += part.len());
                    open.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                    open.calls.0.methods.sent(open.method, messages, bytes as u64);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.open.end(trailing_code(trailers));
                }
            }
            Some(Err(status)) => this.open.end(status.code()),
            None => {}
        }
        let frame = frame.map(|frame| frame.map(|frame| frame.map_data(|data| this.counted(data))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // The request's stream may be held a little longer; who reads no further than here has gone.
        self.open.end(tonic::Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"d"].concat();
        for size in 1..=bytes.len() {
            let (mut frames, mut payload) = (Frames::default(), Vec::new());
            let feed = |part| frames.feed(part, |part| payload.extend_from_slice(part));
            let messages: u64 = bytes.chunks(size).map(feed).sum();
            assert_eq!((messages, payload.as_slice()), (3, &b"abcd"[..]), "in pieces of {size}");
        }
    }
}
