//! HTTP/2 by hand, for what no library would send. (RFC 9113; headers without compression, RFC 7541.)

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A client that does as it is told, in plain text or whatever it is given.
pub struct Raw<S = TcpStream>(S);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short frame");
    [&len.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call.
pub fn headers(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let head = [&[0x83, 0x86, 0x04][..], &text(path), &[0x01], &text("127.0.0.1")].concat();
    let kind = [&[0x0f, 0x10][..], &text("application/grpc")].concat();
    let trailers = [&[0x00][..], &text("te"), &text("trailers")].concat();
    [head, kind, trailers].concat()
}

/// A message of gRPC.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
}

impl Raw {
    /// Connects from `local` and says hello, with the largest windows there are.
    pub async fn connect(server: SocketAddr, local: [u8; 4]) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((local, 0))).expect("an address of the machine");
        Self::hello(socket.connect(server).await.expect("connected")).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Says hello, with the largest windows there are.
    pub async fn hello(stream: S) -> Self {
        let mut raw = Self(stream);
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).await;
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &(i32::MAX - 65_535).to_be_bytes())).await;
        // The server's windows are what it says once that was answered.
        raw.next_of(SETTINGS).await.expect("the server says hello");
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
        // Until then the connection takes 65,535 bytes, whatever its streams may.
        raw.next_of(WINDOW_UPDATE).await.expect("the server opens the connection's window");
        raw
    }

    /// Sends, as far as the other side takes it.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _taken = self.try_send(bytes).await;
    }

    /// Sends; whether the other side took it.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        matches!(tokio::time::timeout(DEADLINE, self.0.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Makes a call of one message.
    pub async fn call(&mut self, stream: u32, path: &str, request: &[u8]) {
        let head = frame(HEADERS, END_HEADERS, stream, &headers(path));
        let body = frame(DATA, END_STREAM, stream, &message(request));
        self.send(&[head, body].concat()).await;
    }

    /// The next frame; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an answer in time")
    }

    /// The next frame of a kind; none when the connection ends before.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await? {
                frame if frame.kind == kind => return Some(frame),
                _ => {}
            }
        }
    }

    /// Whether a stream ended with trailers or a reset, and not the connection.
    pub async fn ended(&mut self, stream: u32) -> bool {
        loop {
            match self.next().await {
                None => return false,
                Some(frame) if frame.kind == GOAWAY => return false,
                Some(frame) if frame.stream == stream => {
                    let last = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
                    if last || frame.kind == RST_STREAM {
                        return true;
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// What the server says when it ends the connection: the code and the text, if it says anything.
    pub async fn farewell(&mut self) -> Option<(u32, String)> {
        let frame = self.next_of(GOAWAY).await?;
        let code = frame.payload[4..8].try_into().expect("four bytes");
        Some((u32::from_be_bytes(code), String::from_utf8_lossy(&frame.payload[8..]).into_owned()))
    }
}
