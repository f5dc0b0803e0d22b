//! gzip for large answers to clients that take it.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Response, header};
use http_body::{Body as _, Frame};

use crate::body::{self, Body, BoxError};

/// Compressed bytes that are sent together, but for the last.
const PIECE_BYTES: usize = 32 << 10;
/// Answers below are not worth it (upstream's threshold).
const MIN_BYTES: u64 = 128 << 10;

/// Whether the client takes gzip.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|clause| clause.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// Compresses an answer that is large. One that comes in pieces is, and is compressed as it comes.
pub(crate) async fn response(response: Response<Body>) -> Response<Body> {
    let size = response.body().size_hint().exact();
    if size.is_some_and(|size| size < MIN_BYTES)
        || body::goes_as_it_comes(&response)
        || response.headers().contains_key(header::CONTENT_ENCODING)
    {
        return response;
    }
    if size.is_none() {
        return marked(response.map(|body| http_body_util::BodyExt::boxed_unsync(Packing::new(body))));
    }
    let (parts, whole) = response.into_parts();
    let Ok(bytes) = body::read_up_to(whole, usize::MAX).await else {
        return body::response(500, "text/plain", "the answer was lost");
    };
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    match written {
        Ok(packed) => marked(Response::from_parts(parts, body::full(packed))),
        Err(_) => Response::from_parts(parts, body::full(bytes)),
    }
}

fn marked(mut response: Response<Body>) -> Response<Body> {
    body::set_header(&mut response, header::CONTENT_ENCODING, "gzip");
    body::set_header(&mut response, header::VARY, "Accept-Encoding");
    response
}

/// A body that is compressed as it comes.
struct Packing {
    body: Body,
    /// None at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Packing {
    fn new(body: Body) -> Self {
        Self { body, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// Compresses what came; gives what there is to send, if it is enough.
    fn pack(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        encoder.write_all(bytes)?;
        let is_enough = encoder.get_ref().len() >= PIECE_BYTES;
        Ok(is_enough.then(|| std::mem::take(encoder.get_mut())))
    }
}

impl http_body::Body for Packing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            let packed = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.pack(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.encoder.take().map(GzEncoder::finish).transpose(),
            };
            match packed {
                Ok(None) => {}
                Ok(Some(piece)) => break Ok(Frame::data(piece.into())),
                Err(error) => break Err(error.into()),
            }
        };
        Poll::Ready(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn clients_say_so() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT_ENCODING, header::HeaderValue::from_static(text))])
        };
        assert!(is_wanted(&headers("deflate, gzip;q=0.8")));
        assert!(!is_wanted(&headers("br")) && !is_wanted(&HeaderMap::new()));
    }

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut text).expect("gzip");
        text
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_compressed_as_it_comes() {
        // Digits as good as random, so that there are many pieces of them.
        let digits = |number: u32| format!("{:08x}", number.wrapping_mul(2_654_435_761)).into_bytes();
        let text: Vec<u8> = (0_u32..1 << 18).flat_map(digits).collect();
        let pieces: Vec<_> = text.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let streamed = Response::new(body::stream(futures::stream::iter(pieces)));
        let mut answer = response(streamed).await;
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        let (mut packed, mut count) = (Vec::new(), 0);
        while let Some(frame) = answer.body_mut().frame().await {
            packed.extend_from_slice(&frame.expect("a piece").into_data().expect("data"));
            count += 1;
        }
        assert!(count > 10 && packed.len() < text.len(), "{count} pieces, {} bytes", packed.len());
        assert!(unpacked(&packed) == text);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_does_not_look_whole() {
        let pieces = [Ok(Bytes::from_static(b"half")), Err(BoxError::from("broken"))];
        let streamed = Response::new(body::stream(futures::stream::iter(pieces)));
        let packed = response(streamed).await.into_body().collect().await;
        assert_eq!(packed.expect_err("broken").to_string(), "broken");
    }

    #[tokio::test]
    async fn small_answers_are_left_as_they_are() {
        let answer = response(Response::new(body::full("small"))).await;
        assert!(!answer.headers().contains_key(header::CONTENT_ENCODING));
        let large = vec![b'x'; 200_000];
        let answer = response(Response::new(body::full(large.clone()))).await;
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        let packed = answer.into_body().collect().await.expect("a body").to_bytes();
        assert!(unpacked(&packed) == large);
    }
}
