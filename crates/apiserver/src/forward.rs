//! A client's request as it is passed on to another server, and the answer as it is passed back: what is between two
//! neighbours, and what is between the client and this server, goes no further. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};

use crate::body::{self, Body};
use crate::call::Call;

/// Headers that are between two neighbours only (RFC 9110, 7.6.1), with those that upstream's proxies drop beside them.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a backend says of other origins is not said of this server.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];
const PROTOCOLS: &str = "sec-websocket-protocol";
/// The protocol whose name is a token of a client that can set no other header.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether a request asks for the connection, and this one can be given.
pub(crate) fn asks_for_upgrade(call: &Call) -> bool {
    let given = call.wire.door.as_ref().is_some_and(|door| door.upgrade.is_some());
    let named = call.headers.get_all(header::CONNECTION).into_iter();
    let mut named = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    given && named.any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// Whether the name of a WebSocket's protocol is a token.
pub(crate) fn is_token(protocol: &str) -> bool {
    protocol.starts_with(TOKEN_PROTOCOL)
}

/// A client's request for a path of another server. Its body is taken out of the call.
pub(crate) fn request(call: &Call, path: &str, upgrades: bool) -> Result<Request<Body>, http::Error> {
    let uri = match call.wire.query.as_str() {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let body = call.wire.body.lock().take().unwrap_or_else(|| body::full(""));
    let mut request = Request::builder().method(&call.method).uri(uri).body(body)?;
    let headers = request.headers_mut();
    *headers = call.headers.clone();
    let upgrade = headers.get(header::UPGRADE).cloned();
    drop_hop_by_hop(headers);
    if let Some(upgrade) = upgrade.filter(|_| upgrades) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    drop_credentials(headers);
    if let Some(door) = &call.wire.door {
        let peer = door.peer.to_canonical().to_string();
        let before = call.header("x-forwarded-for");
        set(headers, "x-forwarded-for", &if before.is_empty() { peer } else { format!("{before}, {peer}") });
    }
    Ok(request)
}

/// An answer for the client.
pub(crate) fn settle(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    drop_hop_by_hop(headers);
    CORS.iter().for_each(|name| drop(headers.remove(*name)));
}

/// Sets a header; a text that no header can hold is left out.
pub(crate) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(*name)));
}

/// Who the client is has been said to this server, and is nothing to the other one.
fn drop_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(headers.remove(name)));
    let all: Vec<HeaderValue> = headers.get_all(PROTOCOLS).iter().cloned().collect();
    let has_token = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(TOKEN_PROTOCOL));
    if all.iter().any(has_token) {
        let texts = all.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let kept: Vec<&str> = texts.map(str::trim).filter(|protocol| !is_token(protocol)).collect();
        headers.remove(PROTOCOLS);
        if !kept.is_empty() {
            set(headers, PROTOCOLS, &kept.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let mut call = Call::internal();
        call.wire.query = "x=1&y=%20".to_owned();
        for (name, value) in [
            ("host", "master:6443"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "jane"),
            ("impersonate-extra-scopes", "all"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("x-own", "2"),
            (PROTOCOLS, "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        ] {
            call.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let asked = request(&call, "/a%20b/", false).unwrap();
        assert_eq!(asked.uri(), "/a%20b/?x=1&y=%20");
        for name in ["authorization", "impersonate-user", "impersonate-extra-scopes", "connection", "x-hop"] {
            assert!(!asked.headers().contains_key(name), "{name}");
        }
        assert_eq!(asked.headers()["x-own"], "2");
        assert_eq!(asked.headers()[PROTOCOLS], "v5.channel.k8s.io");
    }
}
