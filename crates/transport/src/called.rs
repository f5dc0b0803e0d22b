//! A client's connection, as a server sees it: how it begins (`opening.rs`), how often it asks whether the server is
//! there (`pings.rs`), and how long it may take to say which protocol it speaks. Beyond that bytes are passed on unseen.

use std::any::Any;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use env::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::frames::{self, ACK, DATA, Frames, HEADERS, PING};
use crate::opening::{Opening, PREFACE};
use crate::outgoing::Outgoing;
use crate::pings::Pings;
use crate::socket::{Connection, Peer};

/// How long a client that is sent away has to read why. Go's.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a client is told that pings too often. Clients of Go that are told so ask half as often next time.
const TOO_MANY_PINGS: &str = "too_many_pings";

/// Behind a frame of so many bytes there is likely another one.
const LONG: usize = 8 << 10;

/// What clients may do beside their calls.
#[derive(Clone)]
pub struct PingPolicy {
    /// The shortest time between two pings while a call is open (`--grpc-keepalive-min-time`).
    pub every: Duration,
    /// How long a connection may take to say which protocol it speaks.
    pub silence: Duration,
    /// The time.
    pub clock: Clock,
}

/// A client's connection.
pub struct Called {
    connection: Connection,
    note: Arc<dyn Any + Send + Sync>,
    calls: Arc<AtomicUsize>,
    /// Until the first request has come through.
    opening: Option<Opening>,
    /// What may be read and was not yet.
    ready: Vec<u8>,
    /// What was written and is not sent.
    outgoing: Outgoing,
    /// As long as it may be HTTP/2.
    watch: Option<Watch>,
    /// The time that is left to say which protocol is spoken, once something is waited for.
    silence: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Set when the client is sent away.
    farewell: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What is known of the frames of a connection.
struct Watch {
    policy: PingPolicy,
    pings: Pings,
    came: Frames,
    went: Frames,
    /// Whether the client was told anything since its last ping.
    spoken: bool,
    last_stream: u32,
}

impl Watch {
    fn new(policy: PingPolicy) -> Self {
        let (came, went) = (Frames::behind(PREFACE.len()), Frames::behind(0));
        Self { policy, pings: Pings::default(), came, went, spoken: false, last_stream: 0 }
    }

    /// Sees what has come; whether it is too much.
    fn came(&mut self, data: &[u8], calls: &AtomicUsize) -> bool {
        let Self { policy, pings, came, spoken, last_stream, .. } = self;
        let mut too_many = false;
        came.pass(data, |head| match head.kind {
            PING if head.flags & ACK == 0 => {
                let calls = calls.load(Ordering::Relaxed) > 0;
                let (now, spoken) = (policy.clock.monotonic(), std::mem::take(spoken));
                too_many |= pings.came(now, spoken, calls, policy.every);
            }
            HEADERS => *last_stream = head.stream.max(*last_stream),
            _ => {}
        });
        too_many
    }

    fn went(&mut self, data: &[u8]) {
        let spoken = &mut self.spoken;
        self.went.pass(data, |head| *spoken |= matches!(head.kind, DATA | HEADERS));
    }
}

impl Called {
    /// A connection that was admitted. Its requests show what `note` makes of who is at the other end.
    pub fn new(
        connection: Connection,
        policy: PingPolicy,
        note: impl FnOnce(&Peer) -> Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let note = note(&connection.connect_info());
        let (clock, silence) = (policy.clock.clone(), policy.silence);
        Self {
            silence: Some(Box::pin(async move { clock.sleep(silence).await })),
            connection,
            note,
            calls: Arc::default(),
            opening: Some(Opening::default()),
            ready: Vec::new(),
            outgoing: Outgoing::new(LONG),
            watch: Some(Watch::new(policy)),
            farewell: None,
        }
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { connection, outgoing, .. } = self;
        if outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        outgoing.flush(connection, cx, false)
    }

    /// Hands out what is ready, as much as there is room for.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..count]);
        self.ready.drain(..count);
    }

    /// Reads; what came is seen.
    fn poll_seen(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        let Some(watch) = &mut self.watch else { return Poll::Ready(Ok(())) };
        if watch.came(&buffer.filled()[before..], &self.calls) {
            buffer.set_filled(before);
            self.send_away(cx);
            return self.poll_farewell(cx, buffer);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        opening: &mut Opening,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while self.ready.is_empty() && !opening.is_over() {
            ready!(self.poll_seen(cx, buffer))?;
            match &buffer.filled()[before..] {
                [] => opening.end(&mut self.ready),
                came => opening.pass(came, &mut self.ready),
            }
            buffer.set_filled(before);
        }
        if opening.is_other() {
            self.watch = None;
        }
        self.take(buffer);
        Poll::Ready(Ok(()))
    }

    /// Says why, if that can be said between two frames and at once.
    fn send_away(&mut self, cx: &mut Context<'_>) {
        let Some(watch) = self.watch.take() else { return };
        tracing::debug!(remote = ?self.connection.connect_info().address, "a client is sent away: {TOO_MANY_PINGS}");
        if watch.went.is_between() {
            let frame = frames::calm_down(watch.last_stream, TOO_MANY_PINGS);
            let Self { connection, outgoing, .. } = self;
            if let Poll::Ready(Ok(_)) = outgoing.write(connection, cx, &frame) {
                drop(outgoing.flush(connection, cx, false));
            }
        }
        let clock = watch.policy.clock;
        self.opening = None;
        self.ready.clear();
        self.farewell = Some(Box::pin(async move { clock.sleep(FAREWELL).await }));
    }

    /// Reads and forgets until the client has gone or its time is over: who closes a connection on which something is
    /// unread takes back what it has said.
    fn poll_farewell(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Some(farewell) = &mut self.farewell else { return Poll::Ready(Ok(())) };
        if farewell.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let Self { connection, outgoing, .. } = self;
        drop(outgoing.flush(connection, cx, false));
        // A client that goes on sending must not keep others from this thread.
        let polled = Pin::new(&mut self.connection).poll_read(cx, buffer);
        let came = buffer.filled().len() > before;
        buffer.set_filled(before);
        match polled {
            Poll::Ready(Ok(())) if came => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }
}

impl Connected for Called {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let (note, calls) = (Some(self.note.clone()), self.calls.clone());
        Peer { note, calls, ..self.connection.connect_info() }
    }
}

impl AsyncRead for Called {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.farewell.is_some() {
            return self.poll_farewell(cx, buffer);
        }
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        if !self.ready.is_empty() {
            self.take(buffer);
            return Poll::Ready(Ok(()));
        }
        let Some(mut opening) = self.opening.take() else { return self.poll_seen(cx, buffer) };
        let polled = self.poll_opening(cx, buffer, &mut opening);
        if opening.is_over() || opening.has_begun() {
            self.silence = None;
        }
        if self.farewell.is_none() {
            self.opening = Some(opening).filter(|opening| !opening.is_over());
        }
        match &mut self.silence {
            // Its time is over: as if the client had gone.
            Some(silence) if polled.is_pending() => silence.as_mut().poll(cx).map(Ok),
            _ => polled,
        }
    }
}

impl AsyncWrite for Called {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.farewell.is_some() {
            return Poll::Ready(Ok(data.len()));
        }
        let Self { connection, outgoing, watch, .. } = &mut *self;
        let count = ready!(outgoing.write(connection, cx, data))?;
        if let Some(watch) = watch {
            watch.went(&data[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Who speaks HTTP/1 may look at a connection only once everything is sent.
        let later = self.watch.is_some() && self.opening.is_none();
        let Self { connection, outgoing, .. } = &mut *self;
        outgoing.flush(connection, cx, later)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    /// Not: several short messages are one write then, in the libraries above.
    fn is_write_vectored(&self) -> bool {
        false
    }
}
