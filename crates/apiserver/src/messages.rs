//! Answers as messages of a WebSocket, for clients that can read nothing else as it comes: logs (upstream's
//! `wsstream.Reader`) and watches (`WatchServer.HandleWS` of its `endpoints/handlers`), each event a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
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
/// Bytes of the length that stands before an event in protobuf.
const LENGTH: usize = 4;

/// What the messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Pieces of a log.
    Binary,
    /// The same as text.
    Base64,
    /// Events in JSON, a line each.
    Lines,
    /// Events in protobuf, behind their lengths.
    Lengths,
}

/// Protocols that a client names, but for the one that is a token.
fn named(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let named = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let named = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    named.map(str::trim).filter(|name| !forward::is_token(name))
}

/// The subprotocol that is spoken for a log, and its form; a client that names none gets binary messages. None: it speaks
/// others.
fn choose(headers: &HeaderMap) -> Option<(Option<&'static str>, Form)> {
    let mut named = named(headers).peekable();
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
    /// A log as it is, or as messages if a WebSocket is asked for.
    pub(crate) fn log_as_asked(&self, call: &Call, log: Response<Body>) -> Response<Body> {
        let Some(door) = socket_of(call) else { return log };
        match choose(&call.headers) {
            Some((protocol, form)) => self.as_messages(call, door, log, protocol, form),
            None => body::response(StatusCode::FORBIDDEN.as_u16(), "text/plain", ""),
        }
    }

    /// A watch as it is, or as messages if a WebSocket is asked for. Whatever one protocol the client names is spoken.
    pub(crate) fn watch_as_asked(&self, call: &Call, watch: Response<Body>, is_text: bool) -> Response<Body> {
        let Some(door) = socket_of(call) else { return watch };
        let mut named = named(&call.headers);
        let form = if is_text { Form::Lines } else { Form::Lengths };
        match (named.next(), named.next()) {
            (protocol, None) => self.as_messages(call, door, watch, protocol, form),
            _ => body::response(StatusCode::BAD_REQUEST.as_u16(), "text/plain", ""),
        }
    }

    fn as_messages(
        &self,
        call: &Call,
        door: Door,
        answer: Response<Body>,
        protocol: Option<&str>,
        form: Form,
    ) -> Response<Body> {
        let Door { place, upgrade: Some(client), .. } = door else { return answer };
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
        self.tasks.spawn_detached("messages", async move {
            let _place = place;
            let carried = async {
                if let Ok(client) = client.await
                    && let Err(error) = carry(TokioIo::new(client), answer.into_body(), form).await
                {
                    tracing::debug!(%error, "a client of a WebSocket went");
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

/// The connection of a call that asks for a WebSocket.
fn socket_of(call: &Call) -> Option<Door> {
    let is_socket = call.header(header::UPGRADE).eq_ignore_ascii_case("websocket") && asks_for_upgrade(call);
    call.wire.door.clone().filter(|_| is_socket)
}

/// Sends an answer message by message, until it or the client ends.
async fn carry(client: impl AsyncRead + AsyncWrite, mut answer: Body, form: Form) -> std::io::Result<()> {
    let (mut from, mut to) = tokio::io::split(client);
    let (mut decoder, mut input, mut out) = (Decoder::default(), BytesMut::new(), BytesMut::new());
    if matches!(form, Form::Binary | Form::Base64) {
        // As upstream's reader of logs: an empty message comes first.
        put(Bytes::new(), form, &mut out);
    }
    let reason = loop {
        if !out.is_empty() {
            to.write_all(&out.split()).await?;
            to.flush().await?;
        }
        tokio::select! {
            piece = answer.frame() => match piece {
                Some(Ok(piece)) => if let Ok(bytes) = piece.into_data() { put(bytes, form, &mut out) },
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

/// A piece of an answer as messages; of a watch it holds whole events.
fn put(mut bytes: Bytes, form: Form, out: &mut BytesMut) {
    let mut text = |text: &[u8]| {
        websocket::text(text.len(), out);
        out.extend_from_slice(text);
    };
    match form {
        Form::Binary => websocket::message(&[&bytes], out),
        Form::Base64 => text(STANDARD.encode(bytes).as_bytes()),
        Form::Lines => bytes.split_inclusive(|byte| *byte == b'\n').for_each(text),
        Form::Lengths => {
            while bytes.len() > LENGTH {
                let length = bytes.get_u32() as usize;
                let event = bytes.split_to(length.min(bytes.len()));
                websocket::message(&[&event], out);
            }
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

    #[test]
    fn each_event_is_a_message() {
        let messages = |bytes: &'static [u8], form: Form| {
            let mut out = BytesMut::new();
            put(Bytes::from_static(bytes), form, &mut out);
            out.to_vec()
        };
        assert_eq!(messages(b"{1}\n{22}\n", Form::Lines), b"\x81\x04{1}\n\x81\x05{22}\n");
        assert_eq!(messages(b"\0\0\0\x01a\0\0\0\x02bc", Form::Lengths), b"\x82\x01a\x82\x02bc");
    }
}
