//! HTTP/2 with as little work as can be: frames written and read by hand, many calls at a time on one connection; gRPC,
//! and plain requests.
//!
//! Load generator and servers share the processors, so what the generator saves the servers can be seen with. It speaks
//! what servers send to a well-behaved client: header blocks of answers are skipped, not decoded (a gRPC call that
//! fails is one that ends without a message, any other one is told by its body), windows towards us are as large as can be, windows of the server are respected.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Types of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Number of the setting that says how large windows are at first.
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW: u32 = (1 << 31) - 1;
/// Of the connection, before a `WINDOW_UPDATE`.
const FIRST_WINDOW: i64 = 65_535;
/// Bytes of answers after which the windows are filled up again.
const RETURN: u32 = 1 << 24;
/// The largest frame that every server takes.
const FRAME: usize = 16_384;
/// Bytes that are read at a time.
const READ: usize = 256 << 10;
/// Where HPACK's dynamic table begins (RFC 7541, 2.3.3).
const DYNAMIC: usize = 62;

/// Places of header names in HPACK's static table (RFC 7541, appendix A); 0 is `te`, which is not there.
const AUTHORITY: u8 = 1;
const METHOD: u8 = 2;
const PATH: u8 = 4;
const ACCEPT: u8 = 19;
const CONTENT_TYPE: u8 = 31;
const TE: u8 = 0;

/// What a gRPC call is: its path.
pub type Path = &'static str;

/// What carries a connection's bytes.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// A plain request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// GET, POST, PATCH, …
    pub method: &'static str,
    /// With its query.
    pub path: &'a str,
    /// The wanted form of the answer.
    pub accept: &'static str,
    /// The form of the body, and the body.
    pub body: Option<(&'static str, &'a [u8])>,
}

/// What came for a call.
pub enum Piece<'a> {
    /// The answer has begun.
    Begun,
    /// A part of the answer.
    Data(&'a [u8]),
    /// The call is over.
    End,
}

/// A connection to one member.
pub struct Connection {
    socket: Box<dyn Socket>,
    inbox: BytesMut,
    out: BytesMut,
    authority: String,
    next_stream: u32,
    /// Headers that the server remembers, oldest first: the places of their names, and values.
    remembered: Vec<(u8, String)>,
    /// What may still be sent: on the connection, on each stream.
    window: i64,
    first_window: i64,
    streams: HashMap<u32, i64>,
    held: VecDeque<(u32, Bytes, bool)>,
    unreturned: u32,
}

impl Connection {
    /// Connects to `127.0.0.1:port` in plain text.
    pub async fn open(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        Self::over(Box::new(socket), format!("127.0.0.1:{port}")).await
    }

    /// Begins to speak over a socket that is connected.
    pub async fn over(socket: Box<dyn Socket>, authority: String) -> Result<Self> {
        let mut connection = Self {
            socket,
            inbox: BytesMut::with_capacity(READ),
            out: BytesMut::from(PREFACE),
            authority,
            next_stream: 1,
            remembered: Vec::new(),
            window: FIRST_WINDOW,
            first_window: FIRST_WINDOW,
            streams: HashMap::new(),
            held: VecDeque::new(),
            unreturned: 0,
        };
        let mut settings = vec![0, 2, 0, 0, 0, 0]; // no pushes
        settings.extend(INITIAL_WINDOW_SIZE.to_be_bytes());
        settings.extend(WINDOW.to_be_bytes());
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.frame(WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW as u32).to_be_bytes());
        connection.flush().await?;
        Ok(connection)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    /// Begins a gRPC call; nothing is sent before [`Self::flush`].
    pub fn begin(&mut self, path: Path) -> u32 {
        let mut block = vec![0x83, 0x86]; // POST, http
        let authority = std::mem::take(&mut self.authority);
        for (name, value) in [
            (AUTHORITY, authority.as_str()),
            (PATH, path),
            (CONTENT_TYPE, "application/grpc"),
            (TE, "trailers"),
        ] {
            self.header(&mut block, name, value);
        }
        self.authority = authority;
        self.stream(&block, END_HEADERS)
    }

    /// Sends a plain request; nothing is sent before [`Self::flush`].
    pub fn request(&mut self, request: Request<'_>) -> u32 {
        let mut block = vec![0x87]; // https
        self.header(&mut block, METHOD, request.method);
        let authority = std::mem::take(&mut self.authority);
        self.header(&mut block, AUTHORITY, &authority);
        self.authority = authority;
        // Not to be remembered: each request has a path of its own.
        block.push(PATH);
        string(&mut block, request.path);
        self.header(&mut block, ACCEPT, request.accept);
        let Some((form, body)) = request.body else { return self.stream(&block, END_HEADERS | END_STREAM) };
        self.header(&mut block, CONTENT_TYPE, form);
        let stream = self.stream(&block, END_HEADERS);
        self.body(stream, Bytes::copy_from_slice(body), true);
        stream
    }

    fn stream(&mut self, block: &[u8], flags: u8) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.frame(HEADERS, flags, stream, block);
        self.streams.insert(stream, self.first_window);
        stream
    }

    /// A header by its place in the table, or as a literal that the server is to remember.
    fn header(&mut self, block: &mut Vec<u8>, name: u8, value: &str) {
        if let Some(place) = self.remembered.iter().position(|known| known.0 == name && known.1 == value) {
            block.push(0x80 | (DYNAMIC + self.remembered.len() - 1 - place) as u8);
            return;
        }
        block.push(0x40 | name);
        if name == TE {
            block.extend(b"\x02te");
        }
        string(block, value);
        self.remembered.push((name, value.to_owned()));
    }

    /// Adds a message to a call; `last` when the call has no more.
    pub fn send(&mut self, stream: u32, message: &impl Message, last: bool) {
        let mut framed = BytesMut::with_capacity(5 + message.encoded_len());
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut framed).expect("invariant: a BytesMut grows");
        self.body(stream, framed.freeze(), last);
    }

    fn body(&mut self, stream: u32, mut rest: Bytes, last: bool) {
        while rest.len() > FRAME {
            let part = rest.split_to(FRAME);
            self.data(stream, part, false);
        }
        self.data(stream, rest, last);
    }

    fn data(&mut self, stream: u32, part: Bytes, last: bool) {
        let size = part.len() as i64;
        let own = self.streams.get(&stream).copied().unwrap_or(0);
        if !self.held.is_empty() || self.window < size || own < size {
            self.held.push_back((stream, part, last));
            return;
        }
        self.window -= size;
        self.streams.insert(stream, own - size);
        self.frame(DATA, if last { END_STREAM } else { 0 }, stream, &part);
    }

    fn release(&mut self) {
        for (stream, part, last) in std::mem::take(&mut self.held) {
            self.data(stream, part, last);
        }
    }

    /// Sends what was said. What was sent is forgotten at once, so that a caller may give up waiting.
    pub async fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            if self.socket.write_buf(&mut self.out).await? == 0 {
                bail!("the server takes no more");
            }
        }
        Ok(self.socket.flush().await?)
    }

    /// Waits for something to come and tells it.
    pub async fn receive(&mut self, mut tell: impl FnMut(u32, Piece<'_>)) -> Result<()> {
        self.inbox.reserve(READ);
        if self.socket.read_buf(&mut self.inbox).await? == 0 {
            bail!("the server closed the connection");
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut read = 0;
        while let Some((frame, size)) = whole(&inbox[read..]) {
            self.take(&frame, &mut tell)?;
            read += size;
        }
        inbox.advance(read);
        self.inbox = inbox;
        if self.unreturned >= RETURN {
            let returned = std::mem::take(&mut self.unreturned);
            self.frame(WINDOW_UPDATE, 0, 0, &returned.to_be_bytes());
        }
        self.flush().await
    }

    fn take(&mut self, frame: &Frame<'_>, tell: &mut impl FnMut(u32, Piece<'_>)) -> Result<()> {
        match frame.kind {
            DATA => {
                self.unreturned += frame.payload.len() as u32;
                tell(frame.stream, Piece::Data(frame.payload));
            }
            HEADERS if frame.flags & END_STREAM == 0 => tell(frame.stream, Piece::Begun),
            SETTINGS if frame.flags & ACK == 0 => self.settings(frame.payload),
            PING if frame.flags & ACK == 0 => self.frame(PING, ACK, 0, frame.payload),
            WINDOW_UPDATE => {
                let more = i64::from(number(frame.payload)?);
                match self.streams.get_mut(&frame.stream) {
                    Some(window) => *window += more,
                    None if frame.stream == 0 => self.window += more,
                    None => {}
                }
                self.release();
            }
            GOAWAY => bail!("the server goes away"),
            _ => {}
        }
        let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        if ends || frame.kind == RST_STREAM {
            self.streams.remove(&frame.stream);
            tell(frame.stream, Piece::End);
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                let window = i64::from(u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]));
                let more = window - self.first_window;
                self.streams.values_mut().for_each(|open| *open += more);
                self.first_window = window;
            }
        }
        self.frame(SETTINGS, ACK, 0, &[]);
        self.release();
    }

    /// One call with one answer, alone on its connection.
    pub async fn call<A: Message + Default>(&mut self, path: Path, request: &impl Message) -> Result<A> {
        let stream = self.begin(path);
        self.send(stream, request, true);
        let mut messages = Messages::default();
        self.answer(stream, |data| messages.push(data)).await?;
        let answer = messages.next().with_context(|| format!("{path} failed"))?;
        Ok(A::decode(answer)?)
    }
}

impl Connection {
    /// One call whose answers are only counted: their bytes.
    pub async fn bulk(&mut self, path: Path, request: &impl Message) -> Result<u64> {
        let stream = self.begin(path);
        self.send(stream, request, true);
        let mut bytes = 0;
        self.answer(stream, |data| bytes += data.len() as u64).await?;
        if bytes == 0 {
            bail!("{path} failed");
        }
        Ok(bytes)
    }

    /// Sends what was said and waits for all of one stream's answer, alone on its connection.
    pub async fn answer(&mut self, stream: u32, mut data: impl FnMut(&[u8])) -> Result<()> {
        self.flush().await?;
        let mut over = false;
        while !over {
            self.receive(|of, piece| match piece {
                Piece::Data(piece) if of == stream => data(piece),
                Piece::End if of == stream => over = true,
                _ => {}
            })
            .await?;
        }
        Ok(())
    }
}

/// A string without Huffman's code (RFC 7541, 5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    const MOST: usize = 127;
    block.push(text.len().min(MOST) as u8);
    if let Some(mut rest) = text.len().checked_sub(MOST) {
        while rest >= 128 {
            block.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend(text.as_bytes());
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// The first frame, if it is all there, and its size.
fn whole(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head: &[u8; 9] = bytes.first_chunk()?;
    let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = bytes.get(9..9 + size)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, 9 + size))
}

fn number(payload: &[u8]) -> Result<u32> {
    Ok(u32::from_be_bytes(payload.try_into().context("a window update is four bytes")?))
}

/// The messages of one call, put together from pieces.
#[derive(Default)]
pub struct Messages(BytesMut);

impl From<BytesMut> for Messages {
    fn from(bytes: BytesMut) -> Self {
        Self(bytes)
    }
}

impl Messages {
    /// Adds a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next message that is all there.
    pub fn next(&mut self) -> Option<Bytes> {
        let head: &[u8; 5] = self.0.first_chunk()?;
        let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.0.len() < 5 + size {
            return None;
        }
        self.0.advance(5);
        Some(self.0.split_to(size).freeze())
    }
}

/// The next field of a message: its number and, of numbers, the value, of anything else the bytes.
pub fn field<'a>(message: &mut &'a [u8]) -> Option<(u32, u64, &'a [u8])> {
    let tag = varint(message)?;
    let number = (tag >> 3) as u32;
    match tag & 7 {
        0 => Some((number, varint(message)?, &[])),
        2 => {
            let size = usize::try_from(varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(size)?;
            *message = rest;
            Some((number, 0, bytes))
        }
        _ => None,
    }
}

/// The first field of a message with a number, if it is bytes.
pub fn find(mut message: &[u8], wanted: u32) -> Option<&[u8]> {
    std::iter::from_fn(|| field(&mut message)).find(|found| found.0 == wanted).map(|found| found.2)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_whatever_the_pieces() {
        let bytes = [0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0];
        for cut in 0..bytes.len() {
            let mut messages = Messages::default();
            messages.push(&bytes[..cut]);
            let mut all: Vec<_> = std::iter::from_fn(|| messages.next()).collect();
            messages.push(&bytes[cut..]);
            all.extend(std::iter::from_fn(|| messages.next()));
            assert_eq!(all, [Bytes::from_static(b"ab"), Bytes::new()], "cut at {cut}");
        }
    }

    #[test]
    fn long_strings_have_their_length_in_several_bytes() {
        let head = |length: usize| {
            let mut block = Vec::new();
            string(&mut block, &"x".repeat(length));
            block.truncate(block.len() - length);
            block
        };
        // 7-bit prefix: RFC 7541, 5.1.
        assert_eq!(head(126), [126]);
        assert_eq!(head(127), [127, 0]);
        assert_eq!(head(254), [127, 127]);
        assert_eq!(head(255), [127, 0x80, 1]);
    }

    #[test]
    fn fields_are_found_without_a_schema() {
        let mut message: &[u8] = &[0x08, 0x96, 0x01, 0x12, 0x01, b'x'];
        assert_eq!(field(&mut message), Some((1, 150, &[][..])));
        assert_eq!(field(&mut message), Some((2, 0, &b"x"[..])));
        assert_eq!(field(&mut message), None);
    }
}
