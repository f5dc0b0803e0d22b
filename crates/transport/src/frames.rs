//! Frames of HTTP/2 as they pass by (pure): what kind each is, and where one ends. (RFC 9113, section 4.1.)

/// Bytes in front of a frame.
pub(crate) const HEAD: usize = 9;
/// Kinds of frames (section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// A ping that answers one.
pub(crate) const ACK: u8 = 1;
/// Why a connection is ended whose client asks too much (section 7).
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

/// One direction of a connection.
pub(crate) struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes until the next head.
    left: usize,
}

impl Frames {
    /// A direction in which so many bytes come before the first frame.
    pub fn behind(bytes: usize) -> Self {
        Self { head: [0; HEAD], have: 0, left: bytes }
    }

    /// Sees what passes; `found` is told of each frame that begins in it.
    pub fn pass(&mut self, mut data: &[u8], mut found: impl FnMut(Head)) {
        while !data.is_empty() {
            if self.left > 0 {
                let count = self.left.min(data.len());
                data = &data[count..];
                self.left -= count;
                continue;
            }
            let (part, rest) = data.split_at((HEAD - self.have).min(data.len()));
            self.head[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            data = rest;
            if self.have == HEAD {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.have = 0;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                found(Head { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
            }
        }
    }

    /// Whether a frame has ended and none has begun.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

/// A frame that ends a connection whose client asks too much; `last` is the last stream that was looked at.
pub(crate) fn calm_down(last: u32, why: &str) -> Vec<u8> {
    let payload = [&last.to_be_bytes()[..], &ENHANCE_YOUR_CALM.to_be_bytes(), why.as_bytes()].concat();
    let len = payload.len() as u32;
    [&len.to_be_bytes()[1..], &[GOAWAY, 0, 0, 0, 0, 0], &payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let frame = |kind: u8, flags: u8, stream: u8, len: u8| {
            [&[0, 0, len, kind, flags, 0x80, 0, 0, stream][..], &vec![7; usize::from(len)]].concat()
        };
        let bytes = [b"hello".to_vec(), frame(4, 0, 0, 0), frame(1, 5, 3, 200), frame(6, 1, 0, 8)].concat();
        let heads = [(4, 0, 0), (1, 5, 3), (6, 1, 0)];
        let heads = heads.map(|(kind, flags, stream)| Head { kind, flags, stream });
        for size in 1..=bytes.len() {
            let (mut frames, mut found) = (Frames::behind(5), Vec::new());
            bytes.chunks(size).for_each(|part| frames.pass(part, |head| found.push(head)));
            assert_eq!(found, heads, "in pieces of {size}");
            assert!(frames.is_between());
            frames.pass(&[0, 0], |_| {});
            assert!(!frames.is_between());
        }
    }

    #[test]
    fn an_end_says_why() {
        let frame = calm_down(5, "why");
        assert_eq!(frame, b"\0\0\x0b\x07\0\0\0\0\0\0\0\0\x05\0\0\0\x0bwhy");
    }
}
