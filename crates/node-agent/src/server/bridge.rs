//! Carries a WebSocket and a runtime's connection over to each other. Driver.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use env::{Activity, Clock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::stream::{Down, Up, websocket};

/// Read from a side at a time, in bytes.
const CHUNK: usize = 32 << 10;
/// Chunks on their way to a side.
const CHUNKS: usize = 4;
/// How long the client may take to go after it was told the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is told each side first, if anything.
#[derive(Default)]
pub(super) struct Greeting {
    pub client: Bytes,
    pub runtime: Bytes,
}

/// Translates until the command has ended and the client knows, either side is gone, or nothing was said for `idle`.
pub(super) async fn bridge<C, R>(
    client: C,
    runtime: R,
    greeting: Greeting,
    (mut up, mut down): (impl Up, impl Down),
    (idle, clock): (Duration, &Clock),
) where
    C: AsyncRead + AsyncWrite + Send,
    R: AsyncRead + AsyncWrite + Send,
{
    let activity = Activity::default();
    let ((client_in, client_out), (runtime_in, runtime_out)) =
        (tokio::io::split(client), tokio::io::split(runtime));
    let (to_client, for_client) = mpsc::channel(CHUNKS);
    let (to_runtime, for_runtime) = mpsc::channel(CHUNKS);
    for (queue, bytes) in [(&to_client, greeting.client), (&to_runtime, greeting.runtime)] {
        if !bytes.is_empty() {
            // The queue is empty yet.
            drop(queue.try_send(bytes));
        }
    }
    let upward = upward(client_in, &mut up, to_runtime.clone(), to_client.clone(), &activity);
    let downward = downward(runtime_in, &mut down, to_client, to_runtime, &activity);
    let (told, asked) = (write(client_out, for_client), write(runtime_out, for_runtime));
    let asked = async {
        asked.await;
        // What ended may still have something to say.
        std::future::pending::<()>().await;
    };
    let silent = activity.idle(idle, clock);
    tokio::pin!(upward, downward, told, asked, silent);
    let over = tokio::select! {
        () = &mut downward => true,
        () = &mut upward => false,
        () = &mut told => return,
        () = &mut asked => return,
        () = &mut silent => return,
    };
    if over {
        tokio::select! {
            () = &mut told => {}
            () = &mut upward => return,
            () = &mut silent => return,
        }
        drop(tokio::time::timeout(LAST_WORDS, upward).await);
    } else {
        // The client said goodbye: it is told the same.
        drop(tokio::time::timeout(LAST_WORDS, told).await);
    }
}

/// Writes what comes until the empty one that ends it, or until nobody writes or reads any more.
async fn write(mut to: impl AsyncWrite + Unpin, mut chunks: mpsc::Receiver<Bytes>) {
    while let Some(chunk) = chunks.recv().await.filter(|chunk| !chunk.is_empty()) {
        let written = async {
            to.write_all(&chunk).await?;
            to.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

async fn upward(
    mut client: impl AsyncRead + Unpin,
    up: &mut impl Up,
    to_runtime: mpsc::Sender<Bytes>,
    to_client: mpsc::Sender<Bytes>,
    activity: &Activity,
) {
    let (mut decoder, mut input) = (websocket::Decoder::default(), BytesMut::new());
    loop {
        let mut out = BytesMut::new();
        let reason = loop {
            match decoder.next(&mut input) {
                Ok(None) => break None,
                Ok(Some(websocket::Event::Data { first, bytes, last })) => {
                    activity.note();
                    if up.part(first, bytes, last, &mut out).is_err() {
                        break Some(websocket::PROTOCOL_ERROR);
                    }
                }
                Ok(Some(websocket::Event::Ping(bytes))) => {
                    let mut pong = BytesMut::new();
                    websocket::pong(&bytes, &mut pong);
                    drop(to_client.send(pong.freeze()).await);
                }
                Ok(Some(websocket::Event::Pong)) => {}
                Ok(Some(websocket::Event::Close)) => break Some(websocket::NORMAL),
                Err(_) => break Some(websocket::PROTOCOL_ERROR),
            }
        };
        if !out.is_empty() {
            // What the runtime does not take any more goes nowhere: what it said last is still on its way.
            drop(to_runtime.send(out.freeze()).await);
        }
        if let Some(reason) = reason {
            let mut goodbye = BytesMut::new();
            websocket::close(reason, &mut goodbye);
            drop(to_client.send(goodbye.freeze()).await);
            drop(to_client.send(Bytes::new()).await);
            return;
        }
        input.reserve(CHUNK);
        if !matches!(client.read_buf(&mut input).await, Ok(1..)) {
            drop(to_client.send(Bytes::new()).await);
            return;
        }
    }
}

async fn downward(
    mut runtime: impl AsyncRead + Unpin,
    down: &mut impl Down,
    to_client: mpsc::Sender<Bytes>,
    to_runtime: mpsc::Sender<Bytes>,
    activity: &Activity,
) {
    let mut input = BytesMut::new();
    loop {
        input.reserve(CHUNK);
        let mut over = !matches!(runtime.read_buf(&mut input).await, Ok(1..));
        activity.note();
        let (mut client, mut answer) = (BytesMut::new(), BytesMut::new());
        if !over {
            over = down.bytes(&mut input, &mut client, &mut answer).unwrap_or(true);
        }
        if !answer.is_empty() {
            // A runtime that does not read is not waited for: what it says may be what it waits with.
            drop(to_runtime.try_send(answer.freeze()));
        }
        if over {
            down.end(&mut client);
        }
        if !client.is_empty() && to_client.send(client.freeze()).await.is_err() {
            return;
        }
        if over {
            drop(to_client.send(Bytes::new()).await);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::stream::{remote_command, tunnel};

    const LONG: Duration = Duration::from_secs(3600);

    fn masked(start: u8, payload: &[u8]) -> Vec<u8> {
        [&[start, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    async fn read(from: &mut DuplexStream, wanted: &[u8]) {
        let mut found = vec![0; wanted.len()];
        from.read_exact(&mut found).await.expect("bytes");
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn a_tunnel_carries_both_ways_and_says_goodbye() {
        let ((mut client, c), (mut runtime, r)) = (duplex(64), duplex(64));
        let greeting = Greeting { runtime: Bytes::from_static(b"hi"), ..Greeting::default() };
        let clock = Clock::default();
        let talk = async {
            read(&mut runtime, b"hi").await;
            client.write_all(&masked(0x82, b"abc")).await.expect("sent");
            read(&mut runtime, b"abc").await;
            client.write_all(&masked(0x89, b"ping")).await.expect("sent");
            read(&mut client, b"\x8a\x04ping").await;
            runtime.write_all(b"xyz").await.expect("sent");
            read(&mut client, b"\x82\x03xyz").await;
            client.write_all(&masked(0x88, b"")).await.expect("sent");
            read(&mut client, b"\x88\x02\x03\xe8").await;
            assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
        };
        let bridged = bridge(c, r, greeting, (tunnel::Upward, tunnel::Downward), (LONG, &clock));
        tokio::join!(talk, bridged);
    }

    #[tokio::test]
    async fn a_runtime_that_is_lost_is_no_success() {
        let ((mut client, c), (runtime, r)) = (duplex(64), duplex(64));
        drop(runtime);
        let channels = remote_command::Channels { stdout: true, ..Default::default() };
        let (up, down, client_first, runtime_first) = remote_command::begin(channels);
        let greeting = Greeting { client: client_first, runtime: runtime_first };
        let clock = Clock::default();
        let talk = async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.expect("an end");
            assert!(all.windows(13).any(|at| at == b"InternalError"), "{all:?}");
        };
        tokio::join!(talk, bridge(c, r, greeting, (up, down), (LONG, &clock)));
    }

    /// A command that waits with its output while nobody reads it, and a client that writes all the while.
    #[tokio::test]
    async fn a_full_pipe_one_way_does_not_stop_the_other() {
        let ((mut client, c), (mut runtime, r)) = (duplex(64), duplex(64));
        let clock = Clock::default();
        let talk = async move {
            // More than fits on its way while the runtime reads nothing.
            let message = masked(0x82, &[7; 100]);
            let filled = async {
                loop {
                    client.write_all(&message).await.expect("sent");
                }
            };
            drop(tokio::time::timeout(Duration::from_millis(100), filled).await);
            for _ in 0..50 {
                runtime.write_all(b"o").await.expect("sent");
                read(&mut client, b"\x82\x01o").await;
            }
        };
        let ways = (tunnel::Upward, tunnel::Downward);
        tokio::join!(talk, bridge(c, r, Greeting::default(), ways, (LONG, &clock)));
    }
}
