//! gRPC with as little work as can be: HTTP/2 frames written and read by hand, many calls at a time on one connection.
//!
//! Load generator and servers share the processors, so what the generator saves the servers can be seen with. It speaks
//! what servers send to a well-behaved client: header blocks of answers are skipped, not decoded (a call that fails is
//! one that ends without a message), windows towards us are as large as can be, windows of the server are respected.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

/// What a call is: its path.
pub type Path = &'static str;

/// What came for a call.
pub enum Piece<'a> {
    /// A part of the stream of messages.
    Data(&'a [u8]),
    /// The call is over.
    End,
}

/// A connection to one member.
pub struct Connection {
    socket: TcpStream,
    inbox: BytesMut,
    out: Vec<u8>,
    authority: String,
    next_stream: u32,
    /// Headers that the server remembers, oldest first.
    remembered: Vec<String>,
    /// What may still be sent: on the connection, on each stream.
    window: i64,
    first_window: i64,
    streams: HashMap<u32, i64>,
    held: VecDeque<(u32, Bytes, bool)>,
    unreturned: u32,
}

impl Connection {
    /// Connects to `127.0.0.1:port`.
    pub async fn open(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let mut connection = Self {
            socket,
            inbox: BytesMut::with_capacity(READ),
            out: PREFACE.to_vec(),
            authority: format!("127.0.0.1:{port}"),
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
        self.out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend(payload);
    }

    /// Begins a call; nothing is sent before [`Self::flush`].
    pub fn begin(&mut self, path: Path) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut block = vec![0x83, 0x86]; // POST, http
        let authority = std::mem::take(&mut self.authority);
        for (name, value) in [(1, authority.as_str()), (4, path), (31, "application/grpc"), (0, "trailers")] {
            self.header(&mut block, name, value);
        }
        self.authority = authority;
        self.frame(HEADERS, END_HEADERS, stream, &block);
        self.streams.insert(stream, self.first_window);
        stream
    }

    /// A header by its place in the table, or as a literal that the server is to remember.
    fn header(&mut self, block: &mut Vec<u8>, name: u8, value: &str) {
        if let Some(place) = self.remembered.iter().position(|known| known == value) {
            block.push(0x80 | (DYNAMIC + self.remembered.len() - 1 - place) as u8);
            return;
        }
        block.push(0x40 | name);
        if name == 0 {
            block.extend(b"\x02te");
        }
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
        self.remembered.push(value.to_owned());
    }

    /// Adds a message to a call; `last` when the call has no more.
    pub fn send(&mut self, stream: u32, message: &impl Message, last: bool) {
        let mut framed = BytesMut::with_capacity(5 + message.encoded_len());
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut framed).expect("invariant: a BytesMut grows");
        let mut rest = framed.freeze();
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

    /// Sends what was said.
    pub async fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
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
        self.flush().await?;
        let (mut messages, mut over) = (Messages::default(), false);
        while !over {
            self.receive(|of, piece| match piece {
                Piece::Data(data) if of == stream => messages.push(data),
                Piece::End if of == stream => over = true,
                _ => {}
            })
            .await?;
        }
        let answer = messages.next().with_context(|| format!("{path} failed"))?;
        Ok(A::decode(answer)?)
    }
}

impl Connection {
    /// One call whose answers are only counted: their bytes.
    pub async fn bulk(&mut self, path: Path, request: &impl Message) -> Result<u64> {
        let stream = self.begin(path);
        self.send(stream, request, true);
        self.flush().await?;
        let (mut bytes, mut over) = (0, false);
        while !over {
            self.receive(|of, piece| match piece {
                Piece::Data(data) if of == stream => bytes += data.len() as u64,
                Piece::End if of == stream => over = true,
                _ => {}
            })
            .await?;
        }
        if bytes == 0 {
            bail!("{path} failed");
        }
        Ok(bytes)
    }
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
    fn fields_are_found_without_a_schema() {
        let mut message: &[u8] = &[0x08, 0x96, 0x01, 0x12, 0x01, b'x'];
        assert_eq!(field(&mut message), Some((1, 150, &[][..])));
        assert_eq!(field(&mut message), Some((2, 0, &b"x"[..])));
        assert_eq!(field(&mut message), None);
    }
}
