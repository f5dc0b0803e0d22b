//! A client's connection, as a server sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::opening::Opening;
use crate::socket::{Connection, Peer};

/// A client's connection. Once the first request has come through, bytes are passed on unseen.
pub struct Called {
    connection: Connection,
    /// Until then.
    opening: Option<Opening>,
    /// What may be read and was not yet.
    ready: Vec<u8>,
}

impl From<Connection> for Called {
    fn from(connection: Connection) -> Self {
        Self { connection, opening: Some(Opening::default()), ready: Vec::new() }
    }
}

impl Connected for Called {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.connection.connect_info()
    }
}

impl Called {
    /// Hands out what is ready, as much as there is room for.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..count]);
        self.ready.drain(..count);
    }

    fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        opening: &mut Opening,
    ) -> Poll<io::Result<()>> {
        while self.ready.is_empty() && !opening.is_over() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
            let came = &buffer.filled()[before..];
            match came {
                [] => opening.end(&mut self.ready),
                came => opening.pass(came, &mut self.ready),
            }
            buffer.set_filled(before);
        }
        self.take(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Called {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ready.is_empty() {
            self.take(buffer);
            return Poll::Ready(Ok(()));
        }
        let Some(mut opening) = self.opening.take() else {
            return Pin::new(&mut self.connection).poll_read(cx, buffer);
        };
        let polled = self.poll_opening(cx, buffer, &mut opening);
        self.opening = Some(opening).filter(|opening| !opening.is_over());
        polled
    }
}

impl AsyncWrite for Called {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}
