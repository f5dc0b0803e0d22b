//! Bodies of gRPC that become others on their way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

/// Makes the data of a body from that of another.
pub(crate) trait Remake {
    /// What can be handed on of what came; it is taken from there.
    ///
    /// # Errors
    /// Behind which there is nothing more.
    fn next(&mut self, came: &mut BytesMut) -> Result<Option<Bytes>, Status>;

    /// Whether nothing more is handed on, whatever comes.
    fn is_over(&self) -> bool {
        false
    }
}

/// A body whose data are made anew; trailers stay.
pub(crate) struct Remade<R> {
    body: Body,
    /// What came and was not looked at.
    came: BytesMut,
    remake: R,
    over: bool,
}

impl<R: Remake> Remade<R> {
    pub fn new(body: Body, remake: R) -> Self {
        Self { body, came: BytesMut::new(), remake, over: false }
    }

    fn is_over(&self) -> bool {
        self.over || self.remake.is_over()
    }
}

impl<R: Remake + Unpin> http_body::Body for Remade<R> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while !this.is_over() {
            match this.remake.next(&mut this.came) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(status) => {
                    this.over = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.came.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => {
                    this.over = true;
                    return Poll::Ready(end);
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over() || (self.came.is_empty() && self.body.is_end_stream())
    }
}
