//! What the headers of a request say of its call's metadata, as grpc-gateway reads them (`runtime/context.go`).

use axum::http::{HeaderMap, HeaderName, header};

/// What stands before the names of metadata.
const METADATA: &str = "grpc-metadata-";
/// Metadata that say how a call is carried: who carries it decides.
const RESERVED: &[&str] = &["content-type", "content-length", "te", "user-agent", "connection", "host"];

/// The metadata of the call: the token, and whatever is said to be metadata and is text.
pub(super) fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let key = match name.as_str().strip_prefix(METADATA) {
            Some(key) => key,
            None if name == header::AUTHORIZATION => name.as_str(),
            None => continue,
        };
        let carries = RESERVED.contains(&key) || key.starts_with("grpc-");
        let is_text =
            !key.ends_with("-bin") && value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
        if let Ok(key) = HeaderName::try_from(key)
            && is_text
            && !carries
        {
            metadata.append(key, value.clone());
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_what_is_said_to_be() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "a"),
            ("grpc-metadata-token", "t"),
            ("grpc-metadata-token", "u"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-content-type", "text/plain"),
            ("grpc-metadata-x-bin", "AA=="),
            ("grpc-metadata-", "x"),
            ("accept", "x"),
            ("token", "x"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        headers.append("grpc-metadata-name", "é".parse().expect("a value"));
        let metadata = metadata(&headers);
        let mut found: Vec<_> =
            metadata.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        found.sort_unstable();
        assert_eq!(found, [("authorization", &b"a"[..]), ("token", b"t"), ("token", b"u")]);
    }
}
