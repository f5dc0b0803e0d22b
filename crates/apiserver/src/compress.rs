//! gzip for large answers to clients that take it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Response, header};
use http_body::Body as _;

use crate::body::{self, Body};

/// Answers below are not worth it (upstream's threshold).
const MIN_BYTES: u64 = 128 << 10;

/// Whether the client takes gzip.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|clause| clause.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// Compresses an answer that is large and there as a whole; streams go as they come.
pub(crate) async fn response(response: Response<Body>) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= MIN_BYTES);
    if !large
        || body::goes_as_it_comes(&response)
        || response.headers().contains_key(header::CONTENT_ENCODING)
    {
        return response;
    }
    let (parts, whole) = response.into_parts();
    let Ok(bytes) = body::read_up_to(whole, usize::MAX).await else {
        return body::response(500, "text/plain", "the answer was lost");
    };
    let mut response = Response::from_parts(parts, body::full(bytes.clone()));
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    if let Ok(packed) = written {
        *response.body_mut() = body::full(packed);
        body::set_header(&mut response, header::CONTENT_ENCODING, "gzip");
        body::set_header(&mut response, header::VARY, "Accept-Encoding");
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_so() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT_ENCODING, header::HeaderValue::from_static(text))])
        };
        assert!(is_wanted(&headers("deflate, gzip;q=0.8")));
        assert!(!is_wanted(&headers("br")) && !is_wanted(&HeaderMap::new()));
    }
}
