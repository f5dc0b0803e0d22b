//! WebSockets as a server speaks them (RFC 6455): a client's frames become events, messages become frames. Pure.
//!
//! Payloads are handed on as they come, so that nothing a client sends is ever held as a whole.

use base64::Engine as _;
use bytes::{Buf, Bytes, BytesMut};
use sha1::{Digest as _, Sha1};

/// What a server's key is made with (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a control frame's payload (section 5.5).
const MAX_CONTROL_BYTES: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The connection ends as it should.
pub const NORMAL: u16 = 1000;
/// The client did not keep to the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;

/// The server goes.
pub const GOING_AWAY: u16 = 1001;

/// The other side does not keep to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("protocol error: {0}")]
pub struct Broken(pub &'static str);

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a message.
    Data {
        /// Whether it begins a message.
        first: bool,
        /// Its bytes.
        bytes: Bytes,
        /// Whether it ends the message.
        last: bool,
    },
    /// Wants a [`pong`] of the same bytes.
    Ping(Bytes),
    /// Answers a ping.
    Pong,
    /// The client goes.
    Close,
}

/// A data frame whose payload is under way.
#[derive(Debug)]
struct Frame {
    left: u64,
    mask: [u8; 4],
    /// Payload bytes that were read, modulo 4.
    at: usize,
    first: bool,
    last: bool,
}

/// The head of a frame.
struct Head {
    code: u8,
    last: bool,
    mask: [u8; 4],
    payload: u64,
    bytes: usize,
}

/// Reads a client's frames.
#[derive(Debug, Default)]
pub struct Decoder {
    frame: Option<Frame>,
    /// A message has begun and not ended.
    fragmented: bool,
}

impl Decoder {
    /// Takes the next event from `input`; none: more bytes are needed.
    ///
    /// # Errors
    /// The client does not keep to the protocol.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Broken> {
        if let Some(frame) = &mut self.frame {
            if input.is_empty() && frame.left > 0 {
                return Ok(None);
            }
            let event = frame.part(input);
            if frame.left == 0 {
                self.frame = None;
            }
            return Ok(Some(event));
        }
        let Some(head) = head(input)? else { return Ok(None) };
        if head.code >= CLOSE {
            return control(&head, input);
        }
        let first = head.code != CONTINUATION;
        match (head.code, self.fragmented) {
            (CONTINUATION, false) => return Err(Broken("a continuation of no message")),
            (TEXT | BINARY, true) => return Err(Broken("a message within a message")),
            (CONTINUATION..=BINARY, _) => {}
            _ => return Err(Broken("an unknown frame")),
        }
        self.fragmented = !head.last;
        input.advance(head.bytes);
        self.frame = Some(Frame { left: head.payload, mask: head.mask, at: 0, first, last: head.last });
        self.next(input)
    }
}

impl Frame {
    fn part(&mut self, input: &mut BytesMut) -> Event {
        let count = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        let mut part = input.split_to(count);
        unmask(&mut part, self.mask, self.at);
        self.at = (self.at + count) % 4;
        self.left -= count as u64;
        let first = std::mem::take(&mut self.first);
        Event::Data { first, bytes: part.freeze(), last: self.last && self.left == 0 }
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle().skip(at)) {
        *byte ^= mask;
    }
}

/// Reads a frame's head without taking it; none: more bytes are needed.
fn head(input: &[u8]) -> Result<Option<Head>, Broken> {
    let [start, length, rest @ ..] = input else { return Ok(None) };
    if start & 0x70 != 0 {
        return Err(Broken("reserved bits are set"));
    }
    if length & 0x80 == 0 {
        return Err(Broken("a client's frame is not masked"));
    }
    let (payload, more) = match (length & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
        (126 | 127, _) => return Ok(None),
        (length, _) => (u64::from(length), 0),
    };
    if payload >> 63 != 0 {
        return Err(Broken("a length that is none"));
    }
    let Some(mask) = rest.get(more..more + 4) else { return Ok(None) };
    let mask = mask.try_into().unwrap_or_default();
    Ok(Some(Head { code: start & 0x0f, last: start & 0x80 != 0, mask, payload, bytes: 2 + more + 4 }))
}

fn control(head: &Head, input: &mut BytesMut) -> Result<Option<Event>, Broken> {
    if !head.last || head.payload > MAX_CONTROL_BYTES {
        return Err(Broken("a control frame that is too long"));
    }
    let end = head.bytes + usize::try_from(head.payload).unwrap_or_default();
    if input.len() < end {
        return Ok(None);
    }
    let mut payload = input.split_to(end).split_off(head.bytes);
    unmask(&mut payload, head.mask, 0);
    match head.code {
        CLOSE => Ok(Some(Event::Close)),
        PING => Ok(Some(Event::Ping(payload.freeze()))),
        PONG => Ok(Some(Event::Pong)),
        _ => Err(Broken("an unknown frame")),
    }
}

/// What stands before the payload of a frame.
fn begin(code: u8, length: usize, out: &mut BytesMut) {
    out.extend_from_slice(&[0x80 | code]);
    match length {
        0..126 => out.extend_from_slice(&[length as u8]),
        126..0x1_0000 => {
            out.extend_from_slice(&[126]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[127]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

fn frame(code: u8, parts: &[&[u8]], out: &mut BytesMut) {
    begin(code, parts.iter().map(|part| part.len()).sum(), out);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// What stands before a message of so many bytes of text, in one frame.
pub fn text(length: usize, out: &mut BytesMut) {
    begin(TEXT, length, out);
}

/// A binary message of these parts, in one frame.
pub fn message(parts: &[&[u8]], out: &mut BytesMut) {
    frame(BINARY, parts, out);
}

/// The answer to a ping.
pub fn pong(bytes: &[u8], out: &mut BytesMut) {
    frame(PONG, &[bytes], out);
}

/// The end, with its reason.
pub fn close(code: u16, out: &mut BytesMut) {
    frame(CLOSE, &[&code.to_be_bytes()], out);
}

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn masked(start: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![start];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend_from_slice(&mask);
        let at = out.len();
        out.extend_from_slice(payload);
        unmask(&mut out[at..], mask, 0);
        out
    }

    /// All events of what comes in pieces of `size` bytes.
    fn events(bytes: &[u8], size: usize) -> Result<Vec<Event>, Broken> {
        let (mut decoder, mut input, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.next(&mut input)? {
                found.push(event);
            }
        }
        Ok(found)
    }

    fn whole(events: &[Event]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for event in events {
            if let Event::Data { first, bytes, .. } = event {
                if *first {
                    messages.push(Vec::new());
                }
                messages.last_mut().expect("begun").extend_from_slice(bytes);
            }
        }
        messages
    }

    #[test]
    fn messages_come_in_any_pieces() {
        let long: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let mut bytes = masked(0x82, b"one");
        bytes.extend(masked(0x02, &long));
        bytes.extend(masked(0x89, b"there?"));
        bytes.extend(masked(0x00, b""));
        bytes.extend(masked(0x80, b"end"));
        bytes.extend(masked(0x81, b""));
        bytes.extend(masked(0x88, &NORMAL.to_be_bytes()));
        for size in [1, 2, 3, 7, 64, 5000] {
            let events = events(&bytes, size).expect("good");
            let mut second = long.clone();
            second.extend_from_slice(b"end");
            assert_eq!(whole(&events), [b"one".to_vec(), second, Vec::new()], "pieces of {size}");
            assert!(events.contains(&Event::Ping(Bytes::from_static(b"there?"))));
            assert_eq!(events.last(), Some(&Event::Close));
            let ends = events.iter().filter(|event| matches!(event, Event::Data { last: true, .. })).count();
            assert_eq!(ends, 3, "pieces of {size}");
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let unmasked = [0x82, 3, b'o', b'n', b'e'];
        let cases: [&[u8]; 7] = [
            &unmasked,
            &masked(0xc2, b"reserved"),
            &masked(0x80, b"continues nothing"),
            &masked(0x83, b"unknown"),
            &masked(0x09, b"a ping in pieces"),
            &masked(0x89, &[0; 126]),
            &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in cases {
            assert!(events(bytes, 1).is_err(), "{bytes:x?}");
        }
        let mut nested = masked(0x02, b"begun");
        nested.extend(masked(0x82, b"another"));
        assert!(events(&nested, 100).is_err());
    }

    #[test]
    fn servers_frames_have_all_lengths() {
        for (length, head) in [
            (3_usize, vec![0x82, 3]),
            (126, vec![0x82, 126, 0, 126]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = BytesMut::new();
            message(&[&[1], &vec![9; length - 1]], &mut out);
            assert_eq!((&out[..head.len()], out.len()), (head.as_slice(), head.len() + length));
            let mut begun = BytesMut::new();
            text(length, &mut begun);
            assert_eq!((begun[0], &begun[1..]), (0x81, &head[1..]), "{length}");
        }
    }

    /// The example of section 1.3.
    #[test]
    fn the_key_is_answered() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
