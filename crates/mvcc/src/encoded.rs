//! Ranges as etcd's wire has them: `RangeResponse.kvs`, page by page, made of stored bytes without decoding them. How many
//! bytes there will be is known from the index before a value is read.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::engine::EngineError;
use crate::record;
use crate::tree::{Entry, Place};
use crate::types::{KeyRange, MvccError, RangeRequest};
use crate::values::Extent;
use crate::view::{View, check_revision};

/// Tag of `RangeResponse.kvs`.
const KVS: u8 = 2 << 3 | 2;

/// The answer to a range of current keys, in key order, on its way to a client.
pub struct EncodedRange {
    view: Arc<View>,
    /// What is still to come, and how many keys of it, and bytes.
    rest: KeyRange,
    left: usize,
    bytes: u64,
    /// What pages are of.
    extent: Extent,
    /// How many keys are in the whole range.
    pub count: i64,
    /// Whether the limit cuts the answer.
    pub more: bool,
}

/// A key of a page: where its version is, where its message goes, and how long it is.
struct Spot {
    place: Place,
    at: usize,
    len: usize,
}

impl View {
    /// The answer to a range as bytes; `None` if it is not of current keys, in key order, with values, unfiltered.
    ///
    /// # Errors
    /// Those of [`View::range`].
    pub fn encoded_range(
        self: &Arc<Self>,
        request: &RangeRequest,
    ) -> Result<Option<EncodedRange>, MvccError> {
        check_revision(&self.state, request.revision)?;
        let is_now = request.revision <= 0 || request.revision == self.revision();
        if !is_now || request.filters() || request.sorts() || request.keys_only || request.count_only {
            return Ok(None);
        }
        let count = self.count(&request.range);
        let total = usize::try_from(count).unwrap_or(usize::MAX);
        let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        let left = total.min(limit);
        let mut encoded = EncodedRange {
            view: self.clone(),
            rest: request.range.clone(),
            left,
            bytes: 0,
            extent: Extent::Piece,
            count,
            more: total > left,
        };
        encoded.bytes = encoded.live().take(left).map(|(key, entry)| field_len(key, entry) as u64).sum();
        if !encoded.more {
            encoded.extent = Extent::Whole { bytes: encoded.bytes };
        }
        Ok(Some(encoded))
    }
}

impl EncodedRange {
    /// Bytes that are still to come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys that are still to come.
    pub fn keys(&self) -> usize {
        self.left
    }

    /// The next bytes, whole keys of about `max_bytes`, but one key at least; `None` behind the last.
    ///
    /// # Errors
    /// `Engine` when a value cannot be read; `Compacted` when this took too long.
    pub fn next_page(&mut self, max_bytes: usize) -> Result<Option<Bytes>, MvccError> {
        let (mut spots, mut len, mut last) = (Vec::new(), 0, Bytes::new());
        let mut keys = self.live().take(self.left).peekable();
        while let Some((key, entry)) = keys.next_if(|_| len < max_bytes) {
            let message = message_len(key, entry);
            let head = 1 + number_len(message as u64);
            spots.push(Spot { place: entry.place(), at: len + head, len: message });
            len += head + message;
            if keys.peek().is_none() || len >= max_bytes {
                last = Bytes::copy_from_slice(key);
            }
        }
        drop(keys);
        if spots.is_empty() {
            return Ok(None);
        }
        let page = self.fill(&spots, len)?;
        self.left -= spots.len();
        self.bytes -= page.len() as u64;
        self.rest = self.rest.behind(&last);
        Ok(Some(page))
    }

    fn live(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.view.state.index.range(&self.rest).filter(|(_, entry)| entry.is_live())
    }

    fn fill(&self, spots: &[Spot], len: usize) -> Result<Bytes, MvccError> {
        let mut page = BytesMut::zeroed(len);
        let places: Vec<Place> = spots.iter().map(|spot| spot.place).collect();
        self.view.source().read(&places, self.extent, &mut |number, read| {
            let spot = &spots[number];
            let message = record::message(spot.place, read.bytes())?;
            if message.len() != spot.len {
                let Place { main, sub } = spot.place;
                let text = format!("revision {main}.{sub} is not what the index says");
                return Err(EngineError(text).into());
            }
            page[spot.at..][..spot.len].copy_from_slice(message);
            Ok(())
        })?;
        for spot in spots {
            let mut head = BytesMut::with_capacity(12);
            record::put_number(&mut head, KVS.into());
            record::put_number(&mut head, spot.len as u64);
            page[spot.at - head.len()..spot.at].copy_from_slice(&head);
        }
        Ok(page.freeze())
    }
}

fn field_len(key: &[u8], entry: &Entry) -> usize {
    let message = message_len(key, entry);
    1 + number_len(message as u64) + message
}

/// Bytes of a key with its value as [`record::put_message`] writes it.
fn message_len(key: &[u8], entry: &Entry) -> usize {
    let bytes = |len: usize| if len == 0 { 0 } else { 1 + number_len(len as u64) + len };
    let number = |number: i64| if number == 0 { 0 } else { 1 + number_len(number.cast_unsigned()) };
    bytes(key.len())
        + bytes(entry.value_len as usize)
        + number(entry.create)
        + number(entry.main)
        + number(entry.version())
        + number(entry.lease)
}

/// Bytes of a LEB128 number.
fn number_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}
