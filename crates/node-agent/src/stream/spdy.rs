//! SPDY/3.1 as a client speaks it, as far as the streams of container runtimes need it: streams are opened with a few
//! headers, data goes both ways, streams and the connection end. Pure.
//!
//! Runtimes (all use the same library) neither limit nor count what is sent on a stream, so there are no window updates
//! here. What a runtime says in the headers of its replies is not read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Broken;

/// `Upgrade` of a connection.
pub const UPGRADE: &str = "SPDY/3.1";

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
/// The last frame of a side of a stream.
const FIN: u8 = 1;
/// Bytes before a frame's payload.
const HEAD_BYTES: usize = 8;
/// The start of a zlib stream that is made with a dictionary: method deflate, window 32 KiB, FDICT and check bits, then
/// the Adler-32 of the dictionary in section 2.6.10.1 of the specification (RFC 1950, 2.2).
const ZLIB_START: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// A block without bytes, after which everything before is there for the reader (RFC 1951, 3.2.4).
const ZLIB_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Opens streams. Headers are one compressed stream for the whole connection; it is made of blocks that are stored as
/// they are, which every reader takes.
#[derive(Debug, Default)]
pub struct Opener {
    begun: bool,
}

impl Opener {
    /// Opens a stream (odd numbers, growing) with these headers; names are in small letters, all is short.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)], out: &mut BytesMut) {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let start: &[u8] = if std::mem::replace(&mut self.begun, true) { &[] } else { &ZLIB_START };
        let length = block.len() as u16;
        let payload = 10 + start.len() + 5 + block.len() + ZLIB_FLUSH.len();
        control(SYN_STREAM, payload, out);
        out.put_u32(stream);
        out.put_u32(0); // Associated with no other stream.
        out.put_u16(0); // Priority and slot.
        out.put_slice(start);
        out.put_u8(0); // A block that is stored and not the last.
        out.put_u16_le(length);
        out.put_u16_le(!length);
        out.put_slice(&block);
        out.put_slice(&ZLIB_FLUSH);
    }
}

fn control(kind: u16, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

/// A data frame of at most 16 MiB.
pub fn data(stream: u32, bytes: &[u8], last: bool, out: &mut BytesMut) {
    debug_assert!(bytes.len() < 1 << 24);
    out.put_u32(stream);
    out.put_u32(bytes.len() as u32 | if last { u32::from(FIN) << 24 } else { 0 });
    out.put_slice(bytes);
}

/// The answer to a ping.
pub fn pong(id: u32, out: &mut BytesMut) {
    control(PING, 4, out);
    out.put_u32(id);
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a data frame; whether the stream's other side ends with it.
    Data {
        /// The stream.
        stream: u32,
        /// Its bytes.
        bytes: Bytes,
        /// Nothing follows on this stream.
        last: bool,
    },
    /// A stream ends in both directions, or was refused.
    Reset(u32),
    /// Wants a [`pong`] of the same number.
    Ping(u32),
    /// The connection ends.
    GoAway,
}

/// A data frame whose payload is under way.
#[derive(Debug)]
struct Part {
    stream: u32,
    left: usize,
    last: bool,
}

/// Reads a server's frames.
#[derive(Debug, Default)]
pub struct Decoder {
    part: Option<Part>,
    /// Bytes that are of no interest.
    skip: usize,
}

impl Decoder {
    /// Takes the next event from `input`; none: more bytes are needed.
    ///
    /// # Errors
    /// The server does not keep to the protocol.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Broken> {
        loop {
            let skipped = self.skip.min(input.len());
            input.advance(skipped);
            self.skip -= skipped;
            if let Some(part) = &mut self.part {
                if input.is_empty() && part.left > 0 {
                    return Ok(None);
                }
                let event = part.take(input);
                if part.left == 0 {
                    self.part = None;
                }
                return Ok(Some(event));
            }
            let Some(mut head) = input.get(..HEAD_BYTES) else { return Ok(None) };
            let (word, length) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((length >> 24) as u8, (length & 0x00ff_ffff) as usize);
            if word >> 31 == 0 {
                input.advance(HEAD_BYTES);
                self.part = Some(Part { stream: word, left: length, last: flags & FIN != 0 });
                continue;
            }
            if (word >> 16) as u16 & 0x7fff != VERSION {
                return Err(Broken("not SPDY/3"));
            }
            match self.control(word as u16, flags, length, input)? {
                Control::More => return Ok(None),
                Control::Nothing => {}
                Control::Event(event) => return Ok(Some(event)),
            }
        }
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        length: usize,
        input: &mut BytesMut,
    ) -> Result<Control, Broken> {
        let wanted = match kind {
            SYN_REPLY | PING => 4,
            RST_STREAM | GO_AWAY => 8,
            _ => 0,
        };
        if length < wanted {
            return Err(Broken("a control frame that is too short"));
        }
        if input.len() < HEAD_BYTES + wanted {
            return Ok(Control::More);
        }
        input.advance(HEAD_BYTES);
        self.skip = length - wanted;
        let mut payload = input.split_to(wanted);
        let number = if wanted > 0 { payload.get_u32() & 0x7fff_ffff } else { 0 };
        Ok(match kind {
            SYN_REPLY if flags & FIN != 0 => {
                Control::Event(Event::Data { stream: number, bytes: Bytes::new(), last: true })
            }
            RST_STREAM => Control::Event(Event::Reset(number)),
            PING => Control::Event(Event::Ping(number)),
            GO_AWAY => Control::Event(Event::GoAway),
            _ => Control::Nothing,
        })
    }
}

enum Control {
    /// More bytes are needed.
    More,
    Nothing,
    Event(Event),
}

impl Part {
    fn take(&mut self, input: &mut BytesMut) -> Event {
        let bytes = input.split_to(self.left.min(input.len())).freeze();
        self.left -= bytes.len();
        Event::Data { stream: self.stream, bytes, last: self.last && self.left == 0 }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a server sends that no client does.
    pub fn reset(stream: u32, out: &mut BytesMut) {
        control(RST_STREAM, 8, out);
        out.put_u32(stream);
        out.put_u32(5);
    }

    pub fn go_away(out: &mut BytesMut) {
        control(GO_AWAY, 8, out);
        out.put_u64(0);
    }

    fn reply(stream: u32, flags: u8, out: &mut BytesMut) {
        out.put_u16(0x8000 | VERSION);
        out.put_u16(SYN_REPLY);
        out.put_u32((u32::from(flags) << 24) | (4 + 17));
        out.put_u32(stream);
        out.put_slice(&[0x55; 17]);
    }

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

    #[test]
    fn frames_come_in_any_pieces() {
        let mut bytes = BytesMut::new();
        reply(1, 0, &mut bytes);
        data(5, b"out", false, &mut bytes);
        pong(2, &mut bytes);
        control(4, 12, &mut bytes); // SETTINGS
        bytes.put_slice(&[0; 12]);
        data(5, b"", true, &mut bytes);
        reply(7, FIN, &mut bytes);
        reset(9, &mut bytes);
        go_away(&mut bytes);
        let ends = [
            Event::Ping(2),
            Event::Data { stream: 5, bytes: Bytes::new(), last: true },
            Event::Data { stream: 7, bytes: Bytes::new(), last: true },
            Event::Reset(9),
            Event::GoAway,
        ];
        for size in [1, 2, 5, 9, 1000] {
            let events = events(&bytes, size).expect("good");
            let said: Vec<u8> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Data { stream: 5, bytes, .. } => Some(bytes.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(said, b"out", "pieces of {size}");
            assert_eq!(events[events.len() - 5..], ends, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        assert!(events(b"\x80\x02\0\x02\0\0\0\x04\0\0\0\x01", 100).is_err(), "SPDY/2");
        assert!(events(b"\x80\x03\0\x03\0\0\0\x04\0\0\0\x01", 100).is_err(), "half a reset");
    }

    /// The headers are a zlib stream with SPDY's dictionary, each stream's part complete with its frame.
    #[test]
    fn streams_are_opened() {
        let (mut opener, mut out) = (Opener::default(), BytesMut::new());
        opener.open(1, &[("streamtype", "error")], &mut out);
        let first = out.split();
        assert_eq!(first[..8], [0x80, 3, 0, 1, 0, 0, 0, (first.len() - 8) as u8]);
        assert_eq!(first[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(first[18..24], ZLIB_START);
        assert_eq!(u16::from_be_bytes([first[18], first[19]]) % 31, 0, "the check of RFC 1950");
        let block = [b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error".as_slice()].concat();
        assert_eq!(first[24..29], [0, block.len() as u8, 0, !(block.len() as u8), 0xff]);
        assert_eq!(first[29..29 + block.len()], block);
        assert_eq!(first[29 + block.len()..], ZLIB_FLUSH);
        opener.open(3, &[("streamtype", "stdin")], &mut out);
        assert_eq!(out[18..21], [0, block.len() as u8, 0], "no second start");
    }
}
