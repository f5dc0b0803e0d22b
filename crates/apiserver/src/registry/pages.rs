//! Continue tokens: where the next page of a list begins, encoded as upstream does
//! (`apiserver/pkg/storage/continue.go`).

use api_types::codec;
use api_types::status::Status;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use base64::{Engine as _, alphabet};
use serde_json::{Value, json};

/// Revision in a token that goes on with whatever is there now.
pub(crate) const INCONSISTENT: i64 = -1;

/// As Go decodes: bits behind the last byte do not count.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// A decoded token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Revision of the list; [`INCONSISTENT`] for the newest.
    pub revision: i64,
    /// The first key, prefix included.
    pub start: String,
}

/// The token of a page that begins right behind `last`, a key below `prefix`.
pub(crate) fn encode(prefix: &str, last: &[u8], revision: i64) -> String {
    let last = String::from_utf8_lossy(last);
    let start = format!("{}\0", last.strip_prefix(prefix).unwrap_or(&last));
    token(revision, &start)
}

/// The token that goes on at the same key without consistency.
pub(crate) fn inconsistent(prefix: &str, page: &Page) -> String {
    token(INCONSISTENT, page.start.strip_prefix(prefix).unwrap_or(&page.start))
}

fn token(revision: i64, start: &str) -> String {
    let start = Value::from(start);
    URL_SAFE_NO_PAD.encode(format!(r#"{{"v":"meta.k8s.io/v1","rv":{revision},"start":{start}}}"#))
}

/// Reads a token.
pub(crate) fn decode(prefix: &str, text: &str) -> Result<Page, Status> {
    let invalid = |why: &str| Status::bad_request(format!("invalid continue token: {why}"));
    let bytes = LENIENT
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .map_err(|_| invalid("continue key is not valid: illegal base64 data"))?;
    let value = codec::decode_json(&bytes)
        .map_err(|error| invalid(&format!("continue key is not valid: {error}")))?
        .value;
    if value["v"] != json!("meta.k8s.io/v1") {
        let version = value["v"].as_str().unwrap_or_default();
        return Err(invalid(&format!(
            "continue key is not valid: server does not recognize this encoded version {version}"
        )));
    }
    let revision = value["rv"].as_i64().unwrap_or_default();
    let start = value["start"].as_str().unwrap_or_default();
    if revision == 0 {
        return Err(invalid(
            "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    if start.is_empty() {
        return Err(invalid("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"));
    }
    let start = start.trim_start_matches('/');
    if start.split('/').any(|part| part == ".." || part == ".") {
        return Err(invalid(&format!("continue key is not valid: {start}")));
    }
    Ok(Page { revision, start: format!("{prefix}{start}") })
}

/// What a client reads when the revision of its token is compacted.
pub(crate) const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
/// What a client reads when the revision it asked for is compacted.
pub(crate) const LIST_EXPIRED: &str = "The resourceVersion for the provided list is too old.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back() {
        let token = encode("/registry/pods/", b"/registry/pods/n/a", 7);
        let page = decode("/registry/pods/", &token).unwrap();
        assert_eq!(page, Page { revision: 7, start: "/registry/pods/n/a\0".to_owned() });
        let again = decode("/registry/pods/", &inconsistent("/registry/pods/", &page)).unwrap();
        assert_eq!((again.revision, again.start), (INCONSISTENT, page.start));
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["nonsense!", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0"] {
            assert_eq!(decode("/registry/pods/", text).unwrap_err().code, 400, "{text}");
        }
    }
}
