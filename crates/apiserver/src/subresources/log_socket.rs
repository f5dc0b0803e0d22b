//! Logs as messages of a WebSocket, for clients that can read nothing else as it comes (upstream's `wsstream.Reader`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use http::header::{self, HeaderMap};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use transport::websocket::{self, Decoder, Event};

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::forward::{self, asks_for_upgrade};
use crate::wire::Door;

/// Of what a client says, bytes that are read at a time.
const CHUNK: usize = 4 << 10;

/// What the messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

/// The subprotocol that is spoken, and its form; a client that names none gets binary messages. None: it speaks others.
fn choose(headers: &HeaderMap) -> Option<(Option<&'static str>, Form)> {
    let named = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let named = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut named = named.map(str::trim).filter(|name| !forward::is_token(name)).peekable();
    if named.peek().is_none() {
        return Some((None, Form::Binary));
    }
    let chosen = named.find_map(|name| match name {
        "binary.k8s.io" => Some(("binary.k8s.io", Form::Binary)),
        "base64.binary.k8s.io" => Some(("base64.binary.k8s.io", Form::Base64)),
        _ => None,
    });
    chosen.map(|(name, form)| (Some(name), form))
}

impl Api {
    /// A text as it is, or as messages if a WebSocket is asked for.
    pub(super) fn as_asked(&self, call: &Call, text: Response<Body>) -> Response<Body> {
        let is_socket = call.header(header::UPGRADE).eq_ignore_ascii_case("websocket");
        let door = call.wire.door.clone().filter(|_| is_socket && asks_for_upgrade(call));
        let Some(Door { place, upgrade: Some(client), .. }) = door else { return text };
        let Some((protocol, form)) = choose(&call.headers) else {
            return body::response(StatusCode::FORBIDDEN.as_u16(), "text/plain", "");
        };
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        forward::set(headers, "connection", "Upgrade");
        forward::set(headers, "upgrade", "websocket");
        let accepted = websocket::accept(call.header(header::SEC_WEBSOCKET_KEY));
        forward::set(headers, "sec-websocket-accept", &accepted);
        if let Some(protocol) = protocol {
            forward::set(headers, "sec-websocket-protocol", protocol);
        }
        let shutdown = self.shutdown.clone();
        self.tasks.spawn_detached("log-socket", async move {
            let _place = place;
            let carried = async {
                if let Ok(client) = client.await
                    && let Err(error) = carry(TokioIo::new(client), text.into_body(), form).await
                {
                    tracing::debug!(%error, "a client of a log went");
                }
            };
            tokio::select! {
                () = carried => {}
                () = shutdown.wait() => {}
            }
        });
        response
    }
}

/// Sends a text piece by piece, until it or the client ends. First comes an empty message, as upstream's.
async fn carry(client: impl AsyncRead + AsyncWrite, mut text: Body, form: Form) -> std::io::Result<()> {
    let (mut from, mut to) = tokio::io::split(client);
    let (mut decoder, mut input, mut out) = (Decoder::default(), BytesMut::new(), BytesMut::new());
    put(&[], form, &mut out);
    let reason = loop {
        if !out.is_empty() {
            to.write_all(&out.split()).await?;
            to.flush().await?;
        }
        tokio::select! {
            piece = text.frame() => match piece {
                Some(Ok(piece)) => if let Ok(bytes) = piece.into_data() { put(&bytes, form, &mut out) },
                Some(Err(_)) | None => break websocket::NORMAL,
            },
            read = from.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
                if let Some(reason) = hear(&mut decoder, &mut input, &mut out) {
                    break reason;
                }
                input.reserve(CHUNK);
            }
        }
    };
    websocket::close(reason, &mut out);
    to.write_all(&out).await?;
    to.shutdown().await
}

/// What a client says: pings are answered, the rest is not listened to. Some: why the connection ends.
fn hear(decoder: &mut Decoder, input: &mut BytesMut, out: &mut BytesMut) -> Option<u16> {
    loop {
        match decoder.next(input) {
            Ok(Some(Event::Ping(bytes))) => websocket::pong(&bytes, out),
            Ok(Some(Event::Data { .. } | Event::Pong)) => {}
            Ok(Some(Event::Close)) => return Some(websocket::NORMAL),
            Ok(None) => return None,
            Err(_) => return Some(websocket::PROTOCOL_ERROR),
        }
    }
}

fn put(bytes: &[u8], form: Form, out: &mut BytesMut) {
    match form {
        Form::Binary => websocket::message(&[bytes], out),
        Form::Base64 => {
            let text = STANDARD.encode(bytes);
            websocket::text(text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_is_known_is_spoken() {
        let of = |named: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in named {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(name));
            }
            choose(&headers)
        };
        assert_eq!(of(&[]), Some((None, Form::Binary)));
        assert_eq!(of(&["base64url.bearer.authorization.k8s.io.eA"]), Some((None, Form::Binary)));
        assert_eq!(of(&["x, base64.binary.k8s.io"]), Some((Some("base64.binary.k8s.io"), Form::Base64)));
        assert_eq!(of(&["x", "binary.k8s.io"]), Some((Some("binary.k8s.io"), Form::Binary)));
        assert_eq!(of(&["v5.channel.k8s.io"]), None);
    }
}
