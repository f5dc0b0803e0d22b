//! Tokens of WebSockets, which have no `Authorization` header in browsers: a subprotocol carries them (upstream:
//! `apiserver/pkg/authentication/request/websocket`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token, and the subprotocols without it.
///
/// # Errors
/// Upstream's text for what cannot be used.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<(String, HeaderValue)>, &'static str> {
    if !is_websocket(headers) {
        return Ok(None);
    }
    let values =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let (mut found, mut others) = (None, Vec::new());
    for protocol in values.flat_map(|value| value.split(',')).map(str::trim) {
        match protocol.strip_prefix(PREFIX) {
            None => others.push(protocol),
            Some(_) if found.is_some() => {
                return Err("multiple base64.bearer.authorization tokens specified");
            }
            Some(encoded) => found = Some(encoded),
        }
    }
    let Some(encoded) = found else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(encoded);
    let bytes = bytes.map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(bytes).map_err(|_| "invalid base64.bearer.authorization token")?;
    if token.is_empty() {
        return Ok(None);
    }
    if others.is_empty() {
        return Err("missing additional subprotocol");
    }
    let others = HeaderValue::from_str(&others.join(",")).map_err(|_| "missing additional subprotocol")?;
    Ok(Some((token, others)))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
    };
    let upgrades = text(header::CONNECTION).split(',').any(|word| word.trim() == "upgrade");
    upgrades && text(header::UPGRADE) == "websocket"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocols: &'static str) -> Result<Option<(String, HeaderValue)>, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "WebSocket"),
            (header::SEC_WEBSOCKET_PROTOCOL, protocols),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        token(&headers)
    }

    #[test]
    fn a_subprotocol_carries_a_token() {
        let (token, others) = of("a, base64url.bearer.authorization.k8s.io.dG9rZW4, b").unwrap().unwrap();
        assert_eq!((token.as_str(), others.to_str().unwrap()), ("token", "a,b"));
        assert_eq!(of("a"), Ok(None));
        let one = "base64url.bearer.authorization.k8s.io.dG9rZW4";
        assert_eq!(of(one), Err("missing additional subprotocol"));
        assert!(of("a, base64url.bearer.authorization.k8s.io.*").unwrap_err().contains("encoding"));
        let two = "base64url.bearer.authorization.k8s.io.YQ,base64url.bearer.authorization.k8s.io.YQ";
        assert!(of(two).unwrap_err().starts_with("multiple"));
    }

    #[test]
    fn others_have_headers() {
        let mut headers = HeaderMap::new();
        let protocols = HeaderValue::from_static("a, base64url.bearer.authorization.k8s.io.dG9rZW4");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        assert_eq!(token(&headers), Ok(None));
    }
}
