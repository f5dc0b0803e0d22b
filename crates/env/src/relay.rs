//! Bytes between two connections, both ways, until one of them has no more to say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::Clock;

/// What is on its way in one direction, at most, in bytes.
const BUFFER_BYTES: usize = 32 << 10;
/// How long one side may still speak after the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a connection may be silent before the other side's kernel is asked whether it is there, and how often it is
/// asked (Go's default, which other components have).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sends what is written at once, and finds out when the other side has vanished.
pub fn tune(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    let tuned = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keep_alive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a connection was not tuned");
    }
}

/// Whether a connection is used.
#[derive(Debug, Default)]
pub struct Activity(AtomicU64);

impl Activity {
    /// Something went over it.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has gone over it for `idle`, at most for twice that: it is looked at once in that time.
    pub async fn idle(&self, idle: Duration, clock: &Clock) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            clock.sleep(idle).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

/// Copies both ways until one side has ended (the other may speak for two more seconds), one cannot be written to,
/// or nothing was said for `idle`.
pub async fn relay<A, B>(a: A, b: B, idle: Duration, clock: &Clock)
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let activity = Activity::default();
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let there = copy(from_a, to_b, &activity);
    let back = copy(from_b, to_a, &activity);
    tokio::pin!(there, back);
    tokio::select! {
        () = &mut there => drop(tokio::time::timeout(LAST_WORDS, back).await),
        () = &mut back => drop(tokio::time::timeout(LAST_WORDS, there).await),
        () = activity.idle(idle, clock) => {}
    }
}

/// Copies one direction. What cannot be written any more is read to its end: a connection that is closed while bytes of
/// its peer lie unread is reset, and the peer may lose what it was sent last.
async fn copy<R, W>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, activity: &Activity)
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut writable = true;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !writable {
            continue;
        }
        activity.note();
        let written = async {
            to.write_all(&buffer[..count]).await?;
            to.flush().await
        };
        writable = written.await.is_ok();
        if !writable {
            drop(to.shutdown().await);
        }
    }
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_is_said_last_arrives() {
        let ((mut client, a), (b, mut server)) = (duplex(64), duplex(64));
        let both = async {
            let asked = async {
                client.write_all(&[7; 1000]).await.expect("sent");
                client.shutdown().await.expect("ended");
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.expect("an answer");
                answer
            };
            let answered = async {
                let mut all = Vec::new();
                server.read_to_end(&mut all).await.expect("a question");
                server.write_all(&[8; 500]).await.expect("sent");
                drop(server);
                all
            };
            tokio::join!(asked, answered)
        };
        let clock = Clock::default();
        let (answer, ()) = tokio::join!(both, relay(a, b, LONG, &clock));
        assert_eq!(answer, (vec![8; 500], vec![7; 1000]));
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let ((mut client, a), (b, mut server)) = (duplex(64), duplex(64));
        relay(a, b, Duration::from_millis(10), &Clock::default()).await;
        assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
        assert_eq!(server.read(&mut [0]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_side_that_is_gone_ends_it() {
        let ((mut client, a), (b, server)) = (duplex(64), duplex(64));
        drop(server);
        let clock = Clock::default();
        let talk = async move {
            drop(client.write_all(b"anyone?").await);
            assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
        };
        tokio::join!(talk, relay(a, b, LONG, &clock));
    }
}
