//! Two protocols on one address, told apart by how a connection begins.

use std::io;
use std::time::Duration;

use env::Clock;
use tokio::net::TcpStream;

use crate::socket::{Accepted, Stream};

/// Pause before the first bytes are looked at again, when there are too few.
const AGAIN: Duration = Duration::from_millis(2);
/// Bytes that are looked at.
const LOOK: usize = 4096;
/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Bytes before a TLS record's content.
const TLS_HEADER: usize = 5;

impl Accepted {
    /// Whether a connection is of the protocol `name`: it begins with it in plain text, or offers it by ALPN in a TLS
    /// handshake. Nothing is taken from the connection. Local sockets are of no protocol that has a name.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn speaks(self, name: &[u8], clock: &Clock) -> io::Result<(Self, bool)> {
        let Self { stream: Stream::Tcp(stream), place } = self else { return Ok((self, false)) };
        let stream = TcpStream::from_std(stream)?;
        let speaks = speaks(&stream, name, clock).await?;
        Ok((Self { stream: Stream::Tcp(stream.into_std()?), place }, speaks))
    }
}

async fn speaks(stream: &TcpStream, name: &[u8], clock: &Clock) -> io::Result<bool> {
    let mut bytes = vec![0; LOOK];
    loop {
        let count = stream.peek(&mut bytes).await?;
        let seen = &bytes[..count];
        let whole = match seen {
            [] => return Ok(false),
            [TLS_HANDSHAKE, _, _, high, low, ..] => {
                TLS_HEADER + usize::from(u16::from_be_bytes([*high, *low]))
            }
            [TLS_HANDSHAKE, ..] => TLS_HEADER + 1,
            _ if name.starts_with(&seen[..count.min(name.len())]) => name.len(),
            _ => return Ok(false),
        };
        if count >= whole.min(LOOK) {
            return Ok(seen.windows(name.len()).any(|window| window == name));
        }
        clock.sleep(AGAIN).await;
    }
}
