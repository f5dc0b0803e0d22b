//! Answers of a server in the same process: objects as it stores them, handed over without a copy.

use std::collections::VecDeque;

use api_types::codec::{Head, STORED_MEDIA_TYPE, What};
use bytes::{Buf as _, Bytes};
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;

use crate::api::Page;
use crate::client::Body;
use crate::error::ClientError;
use crate::object::{Came, Packed};

/// Bytes of an object, at most.
const MAX_OBJECT: u32 = 64 << 20;

/// Whether an answer is one of frames.
pub(crate) fn is_stored(response: &Response<Body>) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|value| value == STORED_MEDIA_TYPE)
}

/// Frames as they come.
#[derive(Default)]
pub(crate) struct Frames {
    pieces: VecDeque<Bytes>,
    /// Bytes of the pieces.
    len: usize,
    /// Of the frame whose bytes have not come yet.
    head: Option<Head>,
}

impl Frames {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Whether everything that came was taken.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.head.is_none()
    }

    /// The next frame, if it has come whole.
    ///
    /// # Errors
    /// `Decode` for what is no frame.
    pub fn take(&mut self) -> Result<Option<(Head, Bytes)>, ClientError> {
        if self.head.is_none() && self.len >= Head::LEN {
            let mut bytes = [0; Head::LEN];
            self.copy_to(&mut bytes);
            self.head = Some(Head::from_bytes(&bytes).map_err(undecodable)?);
        }
        let Some(head) = self.head else { return Ok(None) };
        if head.length > MAX_OBJECT {
            return Err(undecodable("an object is too large"));
        }
        Ok(self.bytes(head.length as usize).map(|bytes| {
            self.head = None;
            (head, bytes)
        }))
    }

    /// The next bytes; what came as one piece is not copied.
    fn bytes(&mut self, count: usize) -> Option<Bytes> {
        if count == 0 {
            return Some(Bytes::new());
        }
        if self.len < count {
            return None;
        }
        if let Some(whole) = self.pieces.pop_front_if(|piece| piece.len() == count) {
            self.len -= count;
            return Some(whole);
        }
        let mut bytes = vec![0; count];
        self.copy_to(&mut bytes);
        Some(bytes.into())
    }

    /// Takes bytes that are there.
    fn copy_to(&mut self, mut out: &mut [u8]) {
        self.len -= out.len();
        while let (false, Some(piece)) = (out.is_empty(), self.pieces.front_mut()) {
            let count = piece.len().min(out.len());
            let (now, later) = std::mem::take(&mut out).split_at_mut(count);
            piece.copy_to_slice(now);
            out = later;
            self.pieces.pop_front_if(|piece| piece.is_empty());
        }
    }
}

pub(crate) fn undecodable(error: impl ToString) -> ClientError {
    ClientError::Decode(error.to_string())
}

/// An object of a frame.
pub(crate) fn object(head: Head, bytes: Bytes) -> Came {
    Came::Packed(Packed::Stored(bytes, head.revision))
}

/// Reads a list.
///
/// # Errors
/// `Transport` when it breaks off, `Decode` for what is no list.
pub(crate) async fn read_list(mut body: Body) -> Result<Page, ClientError> {
    let (mut frames, mut metadata, mut items) = (Frames::default(), None, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Transport(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            frames.push(data);
        }
        while let Some((head, bytes)) = frames.take()? {
            match head.what {
                What::List => metadata = Some(serde_json::from_slice(&bytes).map_err(undecodable)?),
                What::Added => items.push(object(head, bytes)),
                other => return Err(undecodable(format!("{other:?} in a list"))),
            }
        }
    }
    match metadata {
        Some(metadata) if frames.is_empty() => Ok(Page::new(&metadata, items)),
        _ => Err(ClientError::Transport("the answer ended within a list".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(what: What, revision: i64, bytes: &'static [u8]) -> Vec<Bytes> {
        let head = Head { what, revision, length: bytes.len() as u32 };
        vec![Bytes::copy_from_slice(&head.to_bytes()), Bytes::from_static(bytes)]
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let wanted: [(What, i64, &'static [u8]); 3] =
            [(What::Added, 7, b"one"), (What::Bookmark, 8, b""), (What::Deleted, 9, b"three")];
        let all = wanted.into_iter().flat_map(|(what, revision, bytes)| frame(what, revision, bytes));
        let all: Vec<u8> = all.flatten().collect();
        for size in [1, 2, Head::LEN, all.len()] {
            let (mut frames, mut taken) = (Frames::default(), Vec::new());
            for piece in all.chunks(size) {
                frames.push(Bytes::copy_from_slice(piece));
                while let Some((head, bytes)) = frames.take().expect("frames") {
                    assert_eq!(bytes.len(), head.length as usize);
                    taken.push((head.what, head.revision, bytes));
                }
            }
            assert!(frames.is_empty());
            assert_eq!(
                taken,
                wanted.map(|(what, revision, bytes)| (what, revision, Bytes::from_static(bytes)))
            );
        }
    }

    #[test]
    fn what_comes_as_one_piece_is_not_copied() {
        let bytes: &'static [u8] = b"an object";
        let mut frames = Frames::default();
        frame(What::Added, 1, bytes).into_iter().for_each(|piece| frames.push(piece));
        let (_, taken) = frames.take().expect("a frame").expect("whole");
        assert_eq!(taken.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut frames = Frames::default();
        frames.push(Bytes::from_static(&[99; Head::LEN]));
        frames.take().expect_err("no such kind");
        let mut frames = Frames::default();
        let head = Head { what: What::Added, revision: 1, length: MAX_OBJECT + 1 };
        frames.push(Bytes::copy_from_slice(&head.to_bytes()));
        frames.take().expect_err("too large");
    }
}
