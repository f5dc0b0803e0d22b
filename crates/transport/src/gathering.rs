//! A connection on which what is written is gathered before it is sent, so that frames of many streams are few records of
//! TLS and few calls of the system.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::outgoing::Outgoing;

/// A connection that gathers what is written. A flush waits until the connection is looked at again, which is asked for
/// at once: tasks that were ready before have had their turn then, and what they have to say goes along. So whoever
/// writes must go on reading, as HTTP/2 does.
pub struct Gathering<S> {
    socket: S,
    /// None: everything passes as it comes.
    outgoing: Option<Outgoing>,
}

impl<S> Gathering<S> {
    /// Gathers what is written to a socket.
    pub fn new(socket: S) -> Self {
        Self { socket, outgoing: Some(Outgoing::new(0)) }
    }

    /// Gathers nothing: for protocols in which one message is written at a time.
    pub fn direct(socket: S) -> Self {
        Self { socket, outgoing: None }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Sends what was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.outgoing {
            Some(outgoing) if !outgoing.is_empty() => outgoing.flush(&mut self.socket, cx, false),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, outgoing } = &mut *self;
        match outgoing {
            Some(outgoing) => outgoing.write(socket, cx, data),
            None => Pin::new(socket).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, outgoing } = &mut *self;
        let Some(outgoing) = outgoing else { return Pin::new(socket).poll_write_vectored(cx, data) };
        let mut count = 0;
        for part in data {
            match outgoing.write(socket, cx, part) {
                Poll::Ready(Ok(taken)) => count += taken,
                // What was taken before is told first.
                _ if count > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.outgoing.is_some() || self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, outgoing } = &mut *self;
        match outgoing {
            Some(outgoing) => outgoing.flush(socket, cx, true),
            None => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::task::Waker;

    use super::*;
    use crate::outgoing::tests::Woken;

    /// Takes everything, and has nothing to read.
    #[derive(Default)]
    struct Socket {
        writes: Vec<Vec<u8>>,
        is_shut_down: bool,
    }

    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.push(data.to_vec());
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut_down = true;
            Poll::Ready(Ok(()))
        }
    }

    fn write(connection: &mut Gathering<Socket>, cx: &mut Context<'_>, parts: &[&[u8]]) {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let written = Pin::new(&mut *connection).poll_write_vectored(cx, &parts);
        assert!(matches!(written, Poll::Ready(Ok(count)) if count == len), "{written:?}");
        assert!(matches!(Pin::new(connection).poll_flush(cx), Poll::Ready(Ok(()))));
    }

    fn read(connection: &mut Gathering<Socket>, cx: &mut Context<'_>) {
        assert!(Pin::new(connection).poll_read(cx, &mut ReadBuf::new(&mut [0; 8])).is_pending());
    }

    #[test]
    fn frames_of_a_turn_are_one_write_with_the_next() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut connection = Gathering::new(Socket::default());
        for frame in [b"one", b"two"] {
            write(&mut connection, &mut cx, &[b"head", frame]);
        }
        assert!(connection.socket.writes.is_empty());
        assert!(woken.0.load(Ordering::Relaxed) > 0, "nobody else looks at it again");
        read(&mut connection, &mut cx);
        assert_eq!(connection.socket.writes, [b"headoneheadtwo"]);
        read(&mut connection, &mut cx);
        assert_eq!(connection.socket.writes.len(), 1);
    }

    #[test]
    fn what_was_gathered_goes_before_the_end() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut connection = Gathering::new(Socket::default());
        write(&mut connection, &mut cx, &[b"farewell"]);
        assert!(Pin::new(&mut connection).poll_shutdown(&mut cx).is_ready());
        assert_eq!(connection.socket.writes, [b"farewell"]);
        assert!(connection.socket.is_shut_down);
    }

    #[test]
    fn what_is_not_gathered_passes_at_once() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut connection = Gathering::direct(Socket::default());
        assert!(!connection.is_write_vectored(), "as the socket is");
        write(&mut connection, &mut cx, &[b"now"]);
        assert_eq!(connection.socket.writes, [b"now"]);
    }
}
