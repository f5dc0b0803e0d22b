//! How a client begins: up to its first request, hosts that are spelled as URLs lose their scheme (pure).
//!
//! etcd's clients of 3.4 name the host of some calls by the whole endpoint, `:authority: http://127.0.0.1:2379`. Go's
//! servers do not look at it; the HTTP/2 library here refuses the request. So the first HEADERS frame of a connection is
//! looked at before the library sees it, and nothing else ever is. Later requests name the host by its place in the
//! table of headers (RFC 7541, section 2.3.2). A shorter entry there changes no place: entries are counted from the
//! newest, and a table that holds less than the client thinks drops an entry later than the client does, never earlier.

use crate::frames::{HEAD, HEADERS};

/// How an HTTP/2 connection begins (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Flags of a frame with headers (section 6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of a dependency and a weight.
const PRIORITY_BYTES: usize = 5;
/// Bytes of a frame that is looked at; no larger one may come before a client has read our settings (section 4.2).
const MAX_FRAME: usize = 16 << 10;
/// `:authority` in the table that both sides know (RFC 7541, appendix A).
const AUTHORITY: usize = 1;

/// The beginning of a connection, as it comes in.
#[derive(Default)]
pub(crate) struct Opening {
    /// What came in, and how much of it is passed on.
    held: Vec<u8>,
    at: usize,
    /// Bytes of a frame that are passed on as they come.
    skip: usize,
    begun: bool,
    over: bool,
}

impl Opening {
    /// Whether everything else is passed on unseen.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it is known that this is not HTTP/2.
    pub fn is_other(&self) -> bool {
        self.over && !self.begun
    }

    /// Whether it is known that this is HTTP/2.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Takes what came in, and adds to `out` what may be passed on.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        while !self.over && self.step(out) {}
        self.held.drain(..std::mem::take(&mut self.at));
        if self.over {
            self.end(out);
        }
    }

    /// Nothing more comes, or nothing more is wanted: what was held is passed on as it is.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.over = true;
        out.append(&mut self.held);
    }

    /// Passes one thing on, if it is there.
    fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let held = &self.held[self.at..];
        if self.skip > 0 {
            let count = self.skip.min(held.len());
            out.extend_from_slice(&held[..count]);
            self.at += count;
            self.skip -= count;
            return count > 0;
        }
        if !self.begun {
            let seen = held.len().min(PREFACE.len());
            self.over = held[..seen] != PREFACE[..seen];
            self.begun = seen == PREFACE.len();
            self.skip = if self.begun { seen } else { 0 };
            return self.begun;
        }
        let Some((head, rest)) = held.split_first_chunk::<HEAD>() else { return false };
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if head[3] != HEADERS {
            self.skip = HEAD + len;
            return true;
        }
        if len > MAX_FRAME {
            self.over = true;
            return false;
        }
        let Some(payload) = rest.get(..len) else { return false };
        self.over = true;
        if let Some(shorter) = without_scheme(head[4], payload) {
            // Shorter than it was: three bytes are enough for its length.
            out.extend_from_slice(&(shorter.len() as u32).to_be_bytes()[1..]);
            out.extend_from_slice(&head[3..]);
            out.extend_from_slice(&shorter);
            self.at += HEAD + len;
        }
        false
    }
}

/// A HEADERS frame's payload with the scheme taken from its `:authority`; `None` if there is none, or if the frame is not
/// understood.
fn without_scheme(flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut start = 0;
    let mut padding = 0;
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    let block = payload.get(start..payload.len().checked_sub(padding)?)?;
    let (from, to, host) = host_of(block)?;
    let parts = [&payload[..start + from], &host, &payload[start + to..]];
    Some(parts.concat())
}

/// Where the value of `:authority` stands in a block of headers, and what is to stand there instead.
fn host_of(block: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        // How many bits of the first byte belong to the number (RFC 7541, section 6).
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let name = number(block, &mut at, bits)?;
        if !literal {
            continue;
        }
        if name == 0 {
            text(block, &mut at)?;
        }
        let from = at;
        let (coded, value) = text(block, &mut at)?;
        if name == AUTHORITY {
            let host = if coded { strip_coded(value)? } else { strip_plain(value)? };
            let mut field = Vec::with_capacity(host.len() + 2);
            put_number(&mut field, 7, if coded { 0x80 } else { 0 }, host.len());
            field.extend_from_slice(&host);
            return Some((from, at, field));
        }
    }
}

/// A number whose first bits are the last ones of a byte (RFC 7541, section 5.1).
fn number(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1 << bits) - 1;
    let mut found = usize::from(*block.get(*at)? & mask);
    *at += 1;
    if found < usize::from(mask) {
        return Some(found);
    }
    // Three further bytes are more than a frame can hold.
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        found += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(found);
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, bits: u32, first: u8, number: usize) {
    let mask = (1_usize << bits) - 1;
    if number < mask {
        return out.push(first | number as u8);
    }
    out.push(first | mask as u8);
    let mut rest = number - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A text, and whether it is coded (RFC 7541, section 5.2).
fn text<'a>(block: &'a [u8], at: &mut usize) -> Option<(bool, &'a [u8])> {
    let coded = *block.get(*at)? & 0x80 != 0;
    let len = number(block, at, 7)?;
    let value = block.get(*at..)?.get(..len)?;
    *at += len;
    Some((coded, value))
}

/// A host behind its scheme.
fn strip_plain(value: &[u8]) -> Option<Vec<u8>> {
    let host = value.strip_prefix(b"http://").or_else(|| value.strip_prefix(b"https://"))?;
    (!host.is_empty()).then(|| host.to_vec())
}

/// `http` in the code of RFC 7541, appendix B: codes, and how many bits each has.
const HTTP: [(u8, usize); 4] = [(0x27, 6), (0x09, 5), (0x09, 5), (0x2b, 6)];
const SECURE: (u8, usize) = (0x08, 5);
const COLON_SLASH_SLASH: [(u8, usize); 3] = [(0x5c, 7), (0x18, 6), (0x18, 6)];

/// The same where it is coded: what follows moves to the front, bit by bit.
fn strip_coded(value: &[u8]) -> Option<Vec<u8>> {
    let bit = |at: usize| value.get(at / 8).map(|byte| byte >> (7 - at % 8) & 1);
    let starts = |codes: &[(u8, usize)], mut at: usize| {
        for &(code, bits) in codes {
            let same = (0..bits).all(|number| bit(at + number) == Some(code >> (bits - 1 - number) & 1));
            at = same.then_some(at + bits)?;
        }
        Some(at)
    };
    let scheme = starts(&HTTP, 0)?;
    let scheme = starts(&[SECURE], scheme).unwrap_or(scheme);
    let start = starts(&COLON_SLASH_SLASH, scheme)?;
    let mut host = vec![u8::MAX; (value.len() * 8 - start).div_ceil(8)];
    for (number, at) in (start..value.len() * 8).enumerate() {
        if bit(at) == Some(0) {
            host[number / 8] &= !(0x80 >> (number % 8));
        }
    }
    // Ones fill the last byte; no code of a host's name ends in eight of them, so such a byte has nothing else.
    host.pop_if(|last| *last == u8::MAX);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap();
        [&len.to_be_bytes()[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, `:scheme: http`, `:path: /x`, `:authority`, `te: trailers` by its name.
    fn block(value: &[u8]) -> Vec<u8> {
        let end = b"\x40\x02te\x08trailers";
        [&[0x83, 0x86, 0x44, 2, b'/', b'x', 0x41], value, end].concat()
    }

    fn plain(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, 7, 0, text.len());
        out.extend_from_slice(text.as_bytes());
        out
    }

    /// `http://127.0.0.1:2379`, `https://127.0.0.1:2379` and `127.0.0.1:2379`, coded.
    const CODED: [&[u8]; 3] = [
        b"\x8f\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x09\x97\x5f",
        b"\x90\x9d\x29\xad\x17\x18\x60\x22\x75\x70\x2e\x05\xc3\x70\x4c\xba\xff",
        b"\x8a\x08\x9d\x5c\x0b\x81\x70\xdc\x13\x2e\xbf",
    ];

    fn began(frames: &[u8]) -> Vec<u8> {
        let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
        let window = frame(8, 0, &[0, 1, 0, 0]);
        [PREFACE, &settings, &window, frames].concat()
    }

    fn passed_in(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut opening, mut out) = (Opening::default(), Vec::new());
        for chunk in chunks {
            opening.pass(chunk, &mut out);
        }
        opening.end(&mut out);
        out
    }

    /// What a connection's begin becomes, however it comes in.
    fn passed(bytes: &[u8]) -> Vec<u8> {
        let whole = passed_in(&[bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(passed_in(&[&bytes[..at], &bytes[at..]]), whole, "split at {at}");
        }
        assert_eq!(passed_in(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
        whole
    }

    fn untouched(bytes: &[u8]) {
        assert_eq!(passed(bytes), bytes);
    }

    #[test]
    fn a_scheme_is_taken_from_a_host() {
        let begin = |value: &[u8]| began(&frame(1, 4, &block(value)));
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://127.0.0.1:2379");
            assert_eq!(passed(&begin(&plain(&url))), begin(&plain("127.0.0.1:2379")));
        }
        assert_eq!(passed(&begin(CODED[0])), begin(CODED[2]));
        assert_eq!(passed(&begin(CODED[1])), begin(CODED[2]));
        assert_eq!(passed(&begin(b"\x86\x9d\x29\xae\xe3\x0c\x0f")), begin(b"\x81\x1f"));
        let long = "h".repeat(300);
        assert_eq!(passed(&begin(&plain(&format!("http://{long}")))), begin(&plain(&long)));
    }

    #[test]
    fn a_name_that_is_spelled_comes_before_the_host_or_not() {
        let begin = |value: &[u8]| {
            let block =
                [b"\x83\x10\x02te\x08trailers\x00\x01a\x01b\x3f\xe1\x1f\x01", value, b"\x84"].concat();
            began(&frame(1, 4, &block))
        };
        assert_eq!(passed(&begin(&plain("http://a"))), begin(&plain("a")));
    }

    #[test]
    fn padding_priority_and_what_follows_stay() {
        let payload = |value: &[u8], flags: u8| {
            let padding: &[u8] = if flags & PADDED == 0 { &[] } else { &[3] };
            let priority: &[u8] = if flags & PRIORITY == 0 { &[] } else { &[0, 0, 0, 0, 16] };
            let end: &[u8] = if flags & PADDED == 0 { &[] } else { &[0; 3] };
            [padding, priority, &block(value), end].concat()
        };
        for flags in [4, 4 | PADDED, 4 | PRIORITY, 4 | PADDED | PRIORITY, PADDED] {
            // With the flag for its end missing, the block goes on in another frame.
            let rest =
                [frame(9, 4, b"\x40\x01a\x01b"), frame(1, 4, &block(CODED[0])), frame(0, 1, b"x")].concat();
            let begin =
                |value: &[u8]| began(&[frame(1, flags, &payload(value, flags)), rest.clone()].concat());
            assert_eq!(passed(&begin(CODED[0])), begin(CODED[2]), "{flags}");
        }
    }

    #[test]
    fn everything_else_is_passed_on_as_it_is() {
        let begin = |value: &[u8]| began(&frame(1, 4, &block(value)));
        let hosts = ["", "a", "http:/a", "http://", "https://", "ftp://a", "127.0.0.1:2379", "xhttp://a"];
        hosts.iter().for_each(|host| untouched(&begin(&plain(host))));
        untouched(&begin(CODED[2]));
        untouched(&begin(b"\x85\x9d\x29\xae\xe3\x0c"));
        untouched(&began(&frame(1, 4, &[0x83, 0x86, 0x84, 0x81])));
        for text in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n"] {
            untouched(text.as_bytes());
        }
    }

    #[test]
    fn what_is_malformed_is_left_to_the_library() {
        let whole = block(CODED[0]);
        for end in 0..7 {
            untouched(&began(&frame(1, 4, &whole[..end])));
        }
        // Texts that are longer than their frame, padding that is, numbers without end, and no room for a priority.
        untouched(&began(&frame(1, 4, &block(b"\x7f\xff\xff\xff\xff\xff\x01http://a"))));
        untouched(&began(&frame(1, 4 | PADDED, &[&[200], whole.as_slice()].concat())));
        untouched(&began(&frame(1, 4 | PADDED, &[])));
        untouched(&began(&frame(1, 4 | PRIORITY, &[0; 4])));
        untouched(&began(&frame(1, 4, &[0xff; 32])));
        untouched(&began(&[&[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1], whole.as_slice()].concat()));
        untouched(&began(&frame(1, 4, &whole)[..20]));
    }
}
