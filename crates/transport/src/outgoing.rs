//! What is on its way to a client: small writes are gathered, so that many frames are one call of the system.
//!
//! A library that writes HTTP/2 asks for a flush behind every long frame, also when the next one is at hand. Behind such a
//! frame the flush waits until the connection is looked at again, which is asked for at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes that are sent together: who writes on waits until so many are. Records of TLS are a quarter of it at most. What a
/// connection holds here is not counted as its client's memory, as what the kernel holds for it is not.
const ENOUGH: usize = 64 << 10;
/// Bytes that a connection keeps room for while it is quiet.
const LITTLE: usize = 8 << 10;

pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them were sent.
    sent: usize,
    /// Behind a write of so many bytes there is likely another one.
    long: usize,
    /// Whether the last write was a long one, of which no flush was asked since.
    expects: bool,
}

impl Outgoing {
    /// Nothing; a flush may wait behind writes of `long` bytes and more.
    pub fn new(long: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, long, expects: false }
    }

    /// Takes bytes, all of them.
    pub fn write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send_enough(to, cx))?;
        self.expects = data.len() >= self.long;
        let len = self.bytes.len() + data.len();
        if len > LITTLE {
            // Room for all that is gathered, at once.
            self.bytes.reserve_exact(len.max(ENOUGH + LITTLE) - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    /// Sends what there is; with `later` this may happen with the next [`Self::send`], for which the task is woken.
    pub fn flush(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        later: bool,
    ) -> Poll<io::Result<()>> {
        if self.expects && later {
            ready!(self.send_enough(to, cx))?;
            self.expects = false;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.send(to, cx))?;
        if self.bytes.capacity() > LITTLE {
            // A connection that is quiet keeps little.
            self.bytes = Vec::new();
        }
        Pin::new(to).poll_flush(cx)
    }

    /// Sends what there is.
    pub fn send(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_upto(self.bytes.len(), to, cx)
    }

    /// Sends what is enough for a write, and keeps the rest.
    fn send_enough(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.bytes.len() % ENOUGH;
        self.send_upto(self.bytes.len() - rest, to, cx)
    }

    /// Sends the first of what there is.
    fn send_upto(
        &mut self,
        end: usize,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < end {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.bytes[self.sent..end]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        if end > 0 {
            self.bytes.drain(..std::mem::take(&mut self.sent));
        }
        Poll::Ready(Ok(()))
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Takes so many bytes at a time, as long as there is room.
    #[derive(Default)]
    struct End {
        took: Vec<u8>,
        writes: usize,
        room: usize,
    }

    impl AsyncWrite for End {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let count = data.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.writes += 1;
            self.took.extend_from_slice(&data[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Counts how often a task was woken.
    #[derive(Default)]
    pub(crate) struct Woken(pub AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn frame(number: u8, len: usize) -> Vec<u8> {
        vec![number; len]
    }

    #[test]
    fn long_frames_are_sent_together_and_a_short_one_at_once() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let (mut outgoing, mut end) = (Outgoing::new(8 << 10), End { room: usize::MAX, ..End::default() });
        let mut expected = Vec::new();
        for number in 0..3 {
            let frame = frame(number, 16 << 10);
            assert!(outgoing.write(&mut end, &mut cx, &frame).is_ready());
            assert!(outgoing.flush(&mut end, &mut cx, true).is_ready());
            expected.extend(frame);
        }
        assert_eq!(end.writes, 0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 3, "who waits is looked at again");
        assert!(outgoing.write(&mut end, &mut cx, b"end").is_ready());
        assert!(outgoing.flush(&mut end, &mut cx, true).is_ready());
        expected.extend(b"end");
        assert_eq!(end.writes, 1);
        assert!(outgoing.is_empty());
        // Whoever may not wait does not.
        let frame = frame(9, 16 << 10);
        assert!(outgoing.write(&mut end, &mut cx, &frame).is_ready());
        assert!(outgoing.flush(&mut end, &mut cx, false).is_ready());
        expected.extend(frame);
        assert_eq!((end.writes, end.took), (2, expected));
    }

    #[test]
    fn frames_of_any_length_leave_in_writes_of_one() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut outgoing, mut end) = (Outgoing::new(0), End { room: usize::MAX, ..End::default() });
        let mut expected = Vec::new();
        for number in 0..50 {
            let frame = frame(number, 4_000);
            assert!(outgoing.write(&mut end, &mut cx, &frame).is_ready());
            assert!(outgoing.flush(&mut end, &mut cx, true).is_ready());
            expected.extend(frame);
            assert_eq!(end.took.len(), expected.len() / ENOUGH * ENOUGH, "whole records leave");
        }
        assert!(outgoing.flush(&mut end, &mut cx, true).is_ready());
        assert_eq!((end.writes, outgoing.is_empty()), (expected.len() / ENOUGH + 1, true));
        assert!(end.took == expected);
    }

    #[test]
    fn what_waits_is_bounded_and_arrives_whole() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut outgoing, mut end) = (Outgoing::new(8 << 10), End::default());
        let (mut expected, mut numbers) = (Vec::new(), 0..=255);
        for round in 0..40 {
            while let Some(number) = numbers.next() {
                let frame = frame(number, 10_000);
                if outgoing.write(&mut end, &mut cx, &frame).is_pending() {
                    numbers = number..=255;
                    break;
                }
                expected.extend(frame);
                assert!(outgoing.bytes.len() < ENOUGH + 10_000);
                let flushed = outgoing.flush(&mut end, &mut cx, true).is_ready();
                assert!(flushed || outgoing.bytes.len() >= ENOUGH);
            }
            end.room = 1000 + round * 7919;
            let _: Poll<io::Result<()>> = outgoing.send(&mut end, &mut cx);
        }
        end.room = usize::MAX;
        assert!(outgoing.send(&mut end, &mut cx).is_ready());
        assert!(end.took == expected, "{} of {} bytes", end.took.len(), expected.len());
    }
}
